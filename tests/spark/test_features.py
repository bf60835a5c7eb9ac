"""Features: fitted on the training split only, equal to scikit-learn's numbers, saved whole, and checked for leakage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from sparkml.errors import ConfigError, DataError
from sparkml.features.fit import apply_features, fit_features
from sparkml.features.report import FeaturesReport
from sparkml.features.settings import FeatureSettings, SplitSettings, TargetSettings
from sparkml.features.splits import assign_split

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COLUMNS = "id bigint, age double, height double, city string, kind string, amount double, extra double"


def table(count: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(2)
    age = random.uniform(18, 80, count)
    return pd.DataFrame(
        {
            "id": np.arange(count),
            "age": np.where(random.random(count) < 0.1, np.nan, age),
            "height": random.normal(172, 9, count),
            "city": random.choice(["a", "b", "c"], count, p=[0.5, 0.3, 0.2]),
            "kind": np.where(age + random.normal(0, 10, count) > 50, "old", "young"),
            "amount": age * 2 + random.normal(0, 1, count),
        }
    )


def frame(spark: SparkSession, rows: pd.DataFrame) -> DataFrame:
    values = [tuple(None if pd.isna(item) else item for item in row) for row in rows.itertuples(index=False)]
    return spark.createDataFrame(values, ", ".join(f"{name} {KINDS[name]}" for name in rows.columns))


KINDS = {item.split()[0]: item.split()[1] for item in COLUMNS.split(", ")}
STAGES: list[dict[str, Any]] = [
    {"type": "imputer", "inputs": ["age"], "strategy": "mean"},
    {"type": "indexer", "inputs": ["city"]},
    {"type": "one_hot", "inputs": ["city_index"]},
    {"type": "assembler", "inputs": ["age", "height"], "output": "numbers"},
    {"type": "standard_scaler", "input": "numbers", "output": "scaled"},
    {"type": "assembler", "inputs": ["scaled", "city_onehot"], "output": "features"},
]


def fit(df: DataFrame, folder: Path, stages: list[dict[str, Any]] | None = None, **options: Any) -> FeaturesReport:
    split = SplitSettings.model_validate({"key": "id", **options.pop("split", {})})
    target = TargetSettings.model_validate({"column": "kind", "task": "classification", **options.pop("target", {})})
    features = FeatureSettings.model_validate({"stages": stages or STAGES, **options})
    return fit_features(assign_split(df, split), target, features, split, f"file://{folder}/out")


def vectors(spark: SparkSession, folder: Path) -> pd.DataFrame:
    found = spark.read.parquet(f"file://{folder}/out/rows").toPandas().sort_values("id").reset_index(drop=True)
    found["features"] = [row.toArray() for row in found["features"]]
    return found


def test_numbers_are_scikit_learns_fitted_on_training_rows_only(spark: SparkSession, tmp_path: Path) -> None:
    rows = table()
    report = fit(frame(spark, rows), tmp_path, keep=["city"])
    found = vectors(spark, tmp_path)
    train = (found["_split"] == "train").to_numpy()
    imputer = SimpleImputer().fit(rows.loc[train, ["age"]])
    numbers = np.column_stack([imputer.transform(rows[["age"]]), rows["height"]])
    deviation = StandardScaler().fit(numbers[train])
    ddof = np.sqrt((train.sum() - 1) / train.sum())  # MLlib divides by n - 1
    cities = OneHotEncoder(categories=[list(rows.loc[train, "city"].value_counts().index)], sparse_output=False)
    wanted = np.column_stack([deviation.transform(numbers) * ddof, cities.fit_transform(rows[["city"]])])
    made = np.stack(found["features"])
    np.testing.assert_allclose(made[:, : wanted.shape[1]], wanted, rtol=1e-9, atol=1e-9)
    assert not made[:, wanted.shape[1] :].any()  # the slots of unseen categories
    assert report.classes == ["old", "young"]
    assert found["label"].tolist() == [report.classes.index(kind) for kind in rows["kind"]]
    assert report.split_counts == found["_split"].value_counts().to_dict()
    assert set(found.columns) == {"id", "_split", "label", "kind", "city", "features"}


def test_fitted_stages_are_saved_and_take_unseen_categories(spark: SparkSession, tmp_path: Path) -> None:
    rows = table()
    fit(frame(spark, rows), tmp_path)
    made = vectors(spark, tmp_path)["features"]
    again = apply_features(frame(spark, rows.drop(columns=["kind", "amount"])), f"file://{tmp_path}/out")
    loaded = again.toPandas().sort_values("id")["features"]
    np.testing.assert_array_equal(np.stack([row.toArray() for row in loaded]), np.stack(made))
    new = rows.head(2).assign(city=["nowhere", None])
    seen = apply_features(frame(spark, new), f"file://{tmp_path}/out").toPandas()["features"]
    assert all(row.toArray()[2:5].sum() == 0 for row in seen)  # none of the known cities


def test_min_max_bucketizer_and_sql(spark: SparkSession, tmp_path: Path) -> None:
    rows = table()
    stages = [
        {"type": "sql", "columns": {"double_height": "height * 2"}},
        {"type": "bucketizer", "input": "height", "output": "range", "edges": [165, 172, 180]},
        {"type": "assembler", "inputs": ["height", "double_height"], "output": "raw"},
        {"type": "min_max_scaler", "input": "raw", "output": "scaled"},
        {"type": "assembler", "inputs": ["scaled", "range"], "output": "features"},
    ]
    fit(frame(spark, rows), tmp_path, stages)
    found = vectors(spark, tmp_path)
    train = (found["_split"] == "train").to_numpy()
    numbers = np.column_stack([rows["height"], rows["height"] * 2])
    scaled = MinMaxScaler().fit(numbers[train]).transform(numbers)
    wanted = np.column_stack([scaled, np.digitize(rows["height"], [165, 172, 180])])
    np.testing.assert_allclose(np.stack(found["features"]), wanted, rtol=1e-9, atol=1e-12)


def test_regression_labels_are_the_numbers_themselves(spark: SparkSession, tmp_path: Path) -> None:
    rows = table()
    report = fit(frame(spark, rows), tmp_path, target={"column": "amount", "task": "regression"})
    assert report.classes == []
    np.testing.assert_array_equal(vectors(spark, tmp_path)["label"], rows["amount"])


NUMBERS = [{"type": "assembler", "inputs": ["age", "height", "extra"], "output": "features"}]


def leaking(kind: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    rows = table().assign(age=lambda frame: frame["age"].fillna(40))
    if kind == "binary":
        return rows.assign(extra=np.where(rows["kind"] == "old", 7.0, -2.0)), {}
    if kind == "regression":
        return rows.assign(extra=rows["amount"] * -3 + 1), {"target": {"column": "amount", "task": "regression"}}
    codes = {"a": 4.0, "b": 9.0, "c": 1.0}
    return rows.assign(extra=rows["city"].map(codes)), {"target": {"column": "city"}}


@pytest.mark.parametrize("kind", ["binary", "regression", "multi-class"])
def test_a_feature_that_is_the_target_is_found(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    rows, options = leaking(kind)
    with pytest.raises(DataError, match="leakage: the feature extra equals the target in training"):
        fit(frame(spark, rows), tmp_path / "error", NUMBERS, **options)
    report = fit(frame(spark, rows), tmp_path / "warn", NUMBERS, split={"leakage": "warn"}, **options)
    assert report.leakage == ["the feature extra equals the target in training"]


def test_the_target_one_hot_encoded_is_found(spark: SparkSession, tmp_path: Path) -> None:
    stages = [
        {"type": "sql", "columns": {"town": "city"}},
        {"type": "indexer", "inputs": ["town"]},
        {"type": "one_hot", "inputs": ["town_index"]},
        {"type": "assembler", "inputs": ["height", "town_onehot"], "output": "features"},
    ]
    with pytest.raises(DataError, match="equals the target"):
        fit(frame(spark, table()), tmp_path, stages, target={"column": "city"})


@pytest.mark.parametrize("kind", ["binary", "regression", "multi-class"])
def test_a_feature_that_is_nearly_the_target_is_none(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    rows, options = leaking(kind)
    rows["extra"] = rows["extra"] + np.random.default_rng(0).normal(0, 0.5, len(rows))
    assert fit(frame(spark, rows), tmp_path, NUMBERS, **options).leakage == []


def test_a_key_in_two_splits_is_found(spark: SparkSession, tmp_path: Path) -> None:
    rows = table()
    twice = pd.concat([rows, rows.head(5).assign(height=1.0)])
    split = {"assign": "CASE WHEN height = 1 THEN 'test' ELSE 'train' END"}
    with pytest.raises(DataError, match=r"leakage: 5 values of id are in two splits"):
        fit(frame(spark, twice), tmp_path, split=split)


BROKEN: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no target column": (lambda rows: rows.drop(columns="kind"), {}, DataError, "the target column 'kind' is missing"),
    "null target": (lambda rows: rows.assign(kind=[None, *rows["kind"][1:]]), {}, DataError, "'kind' is null in 1 rows"),
    "one class": (lambda rows: rows.assign(kind="old"), {}, DataError, "has one class only in training: 'old'"),
    "a class that training lacks": (
        lambda rows: rows.assign(kind=np.where(rows.index == 0, "new", rows["kind"])),
        {"split": {"assign": "CASE WHEN id = 0 THEN 'test' END"}},
        DataError,
        "the test split has classes that training lacks: new",
    ),
    "text as a number": (
        lambda rows: rows,
        {"target": {"column": "city", "task": "regression"}},
        DataError,
        "'city' is not a finite number in",
    ),
    "NaN target": (
        lambda rows: rows.assign(extra=np.where(rows.index < 3, np.inf, 1.0 * rows.index)),
        {"target": {"column": "extra", "task": "regression"}},
        DataError,
        "'extra' is not a finite number in",
    ),
    "all-null column": (lambda rows: rows.assign(age=None), {}, DataError, r"1\. imputer does not fit .* in age are Null"),
    "unknown input": (lambda rows: rows.drop(columns="city"), {}, ConfigError, r"2\. indexer reads 'city', which is not there"),
    "unknown column to keep": (lambda rows: rows, {"keep": ["citty"]}, ConfigError, "no column 'citty'; did you mean 'city'"),
    "empty test split": (
        lambda rows: rows,
        {"split": {"fractions": {"train": 1.0, "validation": 0.0, "test": 0.0}}},
        DataError,
        "the test split is empty",
    ),
    "a split of another name": (
        lambda rows: rows,
        {"split": {"assign": "CASE WHEN id = 0 THEN 'hold-out' END"}},
        ConfigError,
        "allowed: train, validation, test or null",
    ),
}


@pytest.mark.parametrize(("change", "options", "error", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_fitted_is_said_so(
    spark: SparkSession, tmp_path: Path, change: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(frame(spark, change(table())), tmp_path, **options)


def test_a_constant_column_is_harmless(spark: SparkSession, tmp_path: Path) -> None:
    stages = [
        {"type": "assembler", "inputs": ["extra", "height"], "output": "raw"},
        {"type": "standard_scaler", "input": "raw", "output": "features"},
    ]
    fit(frame(spark, table().assign(extra=5.0)), tmp_path, stages)
    assert set(np.stack(vectors(spark, tmp_path)["features"])[:, 0]) == {0.0}


def test_an_image_has_the_shape_that_is_declared(spark: SparkSession, tmp_path: Path) -> None:
    numbers = [{"type": "assembler", "inputs": ["height", "amount", "id", "extra"], "output": "features"}]
    rows = frame(spark, table().assign(extra=1.5))
    assert fit(rows, tmp_path / "flat", numbers).shape == [4]
    assert fit(rows, tmp_path / "image", numbers, shape=[2, 2]).shape == [2, 2, 1]
    with pytest.raises(ConfigError, match=r"features\.shape \[3, 2\] has 6 elements, 'features' has 4"):
        fit(rows, tmp_path / "wrong", numbers, shape=[3, 2])
