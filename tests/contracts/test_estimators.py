"""What every Estimator of the project promises, in the manner of scikit-learn's estimator checks.

They are those that `sparkml.estimators` offers and every algorithm of the MLlib trainer; a new one is tested by being there.
Each is fitted once; most checks look at that one model or fit once more on a variation of the same rows.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from pyspark.ml import Estimator, Pipeline, PipelineModel
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vectors
from pyspark.ml.param import Params
from pyspark.ml.param.shared import HasLabelCol
from pyspark.ml.util import MLWritable
from pyspark.sql import functions as F

from sparkml import estimators
from sparkml.estimators.trainers.mllib import algorithms, task_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

ROWS, WIDTH = 120, 3
SMALL: dict[str, Any] = {  # set where an estimator has such a Param
    "epochs": 2,
    "batchSize": 16,
    "numProc": 2,
    "maxIter": 3,
    "numTrees": 3,
    "maxDepth": 2,
    "layers": [WIDTH, 4, 2],
    "seed": 11,
}
ANY_NUMBER = frozenset({"seed", "threshold", "linkPower"}) | {  # Params that may be negative
    f"{side}{bound}" for side in ("lower", "upper") for bound in ("BoundOnIntercept", "BoundsOnIntercepts")
}
SAMPLED_BY_PARTITION = frozenset({"RandomForestClassifier", "RandomForestRegressor"})  # MLlib draws each tree's rows so

TAKES_ANYTHING = frozenset({("IsotonicRegression", "features")})  # MLlib casts it to double


def own() -> dict[str, type[Estimator[Any]]]:
    there = [
        name for name in estimators.__all__ if find_spec("torch") is not None or not name.startswith("Torch")
    ]  # `make torch`
    # `CrossValidator` is made around an estimator and has no columns of its own: tests/spark/test_linear_tuning.py
    found = {name: getattr(estimators, name) for name in there}
    return {name: kind for name, kind in found.items() if issubclass(kind, Estimator) and issubclass(kind, HasLabelCol)}


@dataclass(frozen=True)
class Kind:
    """One Estimator class."""

    name: str
    cls: type[Any]
    ours: bool

    def __str__(self) -> str:
        return self.name if self.ours else f"mllib.{self.name}"

    @property
    def task(self) -> str:
        if self.name in algorithms():
            return task_of(self.name)
        return "regression" if "Regress" in self.name else "classification"

    @property
    def required(self) -> dict[str, Any]:
        """Arguments without which it cannot be made: so far only nets have one."""
        needed = [item for item in inspect.signature(self.cls.__init__).parameters.values() if item.default is item.empty]
        return {"model": {"type": "mlp", "hidden": [4]}} if any(item.name == "model" for item in needed) else {}

    def make(self, **params: Any) -> Any:
        bare = self.cls(**self.required)
        small = {name: value for name, value in SMALL.items() if bare.hasParam(name)}
        if self.task == "regression" and "numProc" in small:
            small["numProc"] = 1  # two ranks are the classifiers'
        return self.cls(**{**self.required, **small, **params})


KINDS = [Kind(name, cls, True) for name, cls in own().items()] + [Kind(name, cls, False) for name, cls in algorithms().items()]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder of all tests, which no fit may leave anything in."""
    with pytest.MonkeyPatch.context() as patch:
        here = tmp_path_factory.mktemp("here")
        patch.chdir(here)
        yield here


@pytest.fixture(scope="module")
def table(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> DataFrame:
    """Rows that every algorithm takes: features in [0, 1], `value` in 1 to 4, and columns that are nobody's business."""
    points = np.random.default_rng(5).random((ROWS, WIDTH))
    rows = [
        (
            n,
            point.tolist(),
            float(point[0] + point[1] > 1),
            float(1 + int(4 * point[0])),
            float(n % 4 > 0),
            f"row {n}",
            n % 3 or None,
        )
        for n, point in enumerate(points)
    ]
    names = ["id", "numbers", "class", "value", "censor", "two words", "dotted.name"]
    frame = spark.createDataFrame(rows, names).withColumn("features", array_to_vector(F.col("numbers"))).drop("numbers")
    path = str(tmp_path_factory.mktemp("table") / "rows")
    frame.repartitionByRange(2, "id").sortWithinPartitions("id").write.parquet(path)  # read by the JVM alone, unlike a local list
    return spark.read.parquet(path)


@pytest.fixture(scope="module")
def data(table: DataFrame, kind: Kind) -> DataFrame:
    return table.withColumn("label", F.col("class" if kind.task == "classification" else "value")).drop("class", "value")


@dataclass(frozen=True)
class Fitted:
    estimator: Any
    model: Any
    predictions: npt.NDArray[np.float64]
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    cached_and_left: set[int]
    cache_kept: bool


@pytest.fixture(scope="module")
def fitted(kind: Kind, data: DataFrame, folder: Path) -> Fitted:
    estimator = kind.make()
    for left in folder.iterdir():  # by a test that failed
        shutil.rmtree(left)
    others = cached_blocks(data)
    cached = data.select("id").persist()  # somebody's
    cached.count()
    blocks = cached_blocks(data)
    before = surroundings(data, folder)
    model = estimator.fit(data)
    after = surroundings(data, folder)
    left = cached_blocks(data) - blocks
    kept = cached.storageLevel.useMemory and blocks - others <= cached_blocks(data)
    cached.unpersist(blocking=True)
    return Fitted(estimator, model, predictions(model, data), before, after, left, kept)


def surroundings(data: DataFrame, folder: Path) -> tuple[Any, ...]:
    """What a fit must leave as it was."""
    return (
        data.schema,
        data.storageLevel,
        [item.name for item in data.sparkSession.catalog.listTables()],
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
    )


def cached_blocks(data: DataFrame) -> set[int]:
    """The ids of the RDDs that Spark keeps; what an earlier test left may go at any moment, when Spark collects garbage."""
    jvm: Any = data.sparkSession.sparkContext._jsc
    return set(jvm.getPersistentRDDs())


def predictions(model: Any, data: DataFrame, column: str = "prediction") -> npt.NDArray[np.float64]:
    """Return the predictions in the order of the ids."""
    found = {row[0]: row[1] for row in model.transform(data).select("id", column).collect()}
    return np.array([found[name] for name in sorted(found)])


def given(instance: Params) -> dict[str, Any]:
    """Return values by name, the defaults too."""
    return {param.name: instance.getOrDefault(param) for param in instance.params if instance.isDefined(param)}


def jobs(spark: SparkSession, action: Any) -> list[int]:
    """Return the Spark jobs that an action starts."""
    context = spark.sparkContext
    context.setJobGroup("watched", "what an action of a test starts")
    seen = set(context.statusTracker().getJobIdsForGroup("watched"))
    try:
        action()
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
    return sorted(set(context.statusTracker().getJobIdsForGroup("watched")) - seen)


# what is made, and its Params


def test_making_one_does_nothing_else(kind: Kind, spark: SparkSession, folder: Path) -> None:
    there = sorted(folder.rglob("*"))

    def make() -> None:
        kind.make().copy().explainParams()

    assert jobs(spark, make) == []
    assert sorted(folder.rglob("*")) == there


def test_unknown_params_are_refused_by_name(kind: Kind) -> None:
    with pytest.raises(Exception, match="noSuchParam"):
        kind.make(noSuchParam=1)


def test_values_of_a_wrong_type_are_refused_by_name(kind: Kind) -> None:
    for param in kind.make().params:
        with pytest.raises(Exception, match=rf"\b{param.name}\b"):
            kind.make(**{param.name: object()})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.ours], indirect=True, ids=str)
def test_values_out_of_range_are_refused_when_made(kind: Kind) -> None:
    """MLlib's own are refused by `fit`."""
    accepted = []
    for param in kind.make().params:
        try:
            kind.make(**{param.name: -1})
        except Exception as error:
            assert param.name in str(error)
        else:
            accepted.append(param.name)
    assert set(accepted) <= ANY_NUMBER


def test_numbers_of_numpy_become_plain_ones(kind: Kind) -> None:
    """A grid is often a numpy range, and metadata is JSON."""
    bare = kind.make()
    for name, value in SMALL.items():
        if isinstance(value, int) and bare.hasParam(name):
            found = kind.make(**{name: np.int64(value)}).getOrDefault(name)
            assert found == value and type(found) is int, name


def test_values_out_of_range_are_refused_before_a_fit_starts(kind: Kind, data: DataFrame, spark: SparkSession) -> None:
    """As in a grid, which sets Params without making an estimator."""
    estimator = kind.make()
    for name in ("epochs", "maxIter", "maxDepth"):
        if not estimator.hasParam(name):
            continue

        def fit(name: str = name) -> None:
            with pytest.raises(Exception, match=rf"\b{name}\b"):
                estimator.fit(data, {estimator.getParam(name): -1})

        assert jobs(spark, fit) == []


def test_params_are_documented(kind: Kind) -> None:
    estimator = kind.make()
    for param in estimator.params:
        assert len(param.doc) >= 10, f"{param.name} is not documented"
        assert not param.doc.startswith("see "), f"{param.name} is documented somewhere else: {param.doc!r}"


def test_defaults_can_be_asked_for_and_given(kind: Kind) -> None:
    bare = kind.cls(**kind.required)
    for param in bare.params:
        if bare.hasDefault(param):
            value = bare.getOrDefault(param)
            if value is not None:
                other = kind.make()
                other.set(other.getParam(param.name), value)
                assert other.getOrDefault(param.name) == value
                if kind.ours:
                    kind.make(**{param.name: value})
        elif kind.ours and "default" in param.doc:
            assert "by default" in param.doc, f"{param.name} has a default, getOrDefault does not know it: {param.doc!r}"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.ours], indirect=True, ids=str)
def test_every_param_has_a_setter_and_a_getter(kind: Kind) -> None:
    """Not so MLlib's: ``LinearRegression.setLoss`` raises, ``GBTClassifier`` has no ``setImpurity``."""
    made = kind.make()
    for param in made.params:
        upper = param.name[0].upper() + param.name[1:]
        getter, setter = getattr(made, f"get{upper}"), getattr(made, f"set{upper}")
        if made.isDefined(param):
            assert getter() == made.getOrDefault(param)
            assert setter(getter()) is made


def test_a_copy_is_independent_and_keeps_the_uid(kind: Kind) -> None:
    estimator = kind.make()
    before = given(estimator)
    other = estimator.copy({estimator.predictionCol: "other"})
    assert type(other) is type(estimator) and other.uid == estimator.uid
    assert given(other) == {**before, "predictionCol": "other"}
    other.set(other.labelCol, "something")
    assert given(estimator) == before
    assert kind.make().uid != estimator.uid


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind.cls, MLWritable)], indirect=True, ids=str)
def test_an_estimator_saved_and_loaded_is_the_same(kind: Kind, tmp_path: Path) -> None:
    estimator = kind.make()
    estimator.write().save(f"file://{tmp_path}/estimator")
    loaded = kind.cls.load(f"file://{tmp_path}/estimator")
    assert type(loaded) is type(estimator) and loaded.uid == estimator.uid
    assert given(loaded) == given(estimator)
    assert [param.name for param in loaded.params if loaded.isSet(param)] == [
        param.name for param in estimator.params if estimator.isSet(param)
    ]


# fit


def test_fit_leaves_everything_as_it_was(fitted: Fitted) -> None:
    """The frame's columns and storage level, tables and views, files in the current folder, blocks cached by it and by others."""
    for before, after in zip(fitted.before, fitted.after, strict=True):
        assert after == before
    assert fitted.cached_and_left == set()
    assert fitted.cache_kept


def test_the_model_belongs_to_its_estimator(fitted: Fitted) -> None:
    """One uid, as in MLlib: ``model.transform(rows, {estimator.predictionCol: "p"})`` and grids find the model's Params by it."""
    model, estimator = fitted.model, fitted.estimator
    assert {param.parent for param in model.params} == {model.uid}
    for name, value in given(estimator).items():
        if model.hasParam(name):
            assert model.getOrDefault(name) == value, name
    assert model.uid == estimator.uid


def test_a_fit_with_other_params_changes_neither_the_estimator_nor_the_next_fit(
    kind: Kind, fitted: Fitted, data: DataFrame
) -> None:
    """Also: two fits with one seed predict the same, and a label of another type of number is one of doubles."""
    estimator = fitted.estimator
    before = given(estimator)
    other = data.withColumn("label", F.col("label").cast("decimal(12,3)" if kind.task == "classification" else "float"))
    again = estimator.fit(other, {estimator.predictionCol: "again"})
    assert given(estimator) == before
    assert "prediction" not in again.transform(data).columns
    np.testing.assert_allclose(predictions(again, data, "again"), fitted.predictions, rtol=0 if kind.ours else 1e-9)


def test_order_and_partitions_change_nothing_in_a_pipeline_either(
    kind: Kind, fitted: Fitted, data: DataFrame, tmp_path: Path
) -> None:
    """Also: the pipeline saved and loaded predicts the same, and a label of long integers is one of doubles."""
    shuffled = data.withColumn("label", F.col("label").cast("bigint")).orderBy(F.rand(3)).repartition(3)
    model = Pipeline(stages=[kind.make()]).fit(shuffled)
    found = predictions(model, data)
    model.write().save(f"file://{tmp_path}/pipeline")
    loaded = PipelineModel.load(f"file://{tmp_path}/pipeline")
    assert loaded.uid == model.uid and [stage.uid for stage in loaded.stages] == [stage.uid for stage in model.stages]
    np.testing.assert_array_equal(predictions(loaded, data), found)
    if kind.ours:
        np.testing.assert_array_equal(found, fitted.predictions)  # rows are placed by their hash
    elif kind.name not in SAMPLED_BY_PARTITION:
        np.testing.assert_allclose(found, fitted.predictions, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.task == "classification"], indirect=True, ids=str)
def test_labels_that_are_booleans(kind: Kind, fitted: Fitted, data: DataFrame) -> None:
    """Other types are in the tests above. MLlib refuses these, by name."""
    other = data.withColumn("label", F.col("label").cast("boolean"))
    if kind.ours:
        np.testing.assert_array_equal(predictions(fitted.estimator.fit(other), data), fitted.predictions)
    else:
        with pytest.raises(Exception, match=r"(?is)label.*boolean"):
            fitted.estimator.fit(other)


@pytest.mark.parametrize("column", ["features", "label"])
def test_fit_names_a_missing_column(kind: Kind, data: DataFrame, column: str) -> None:
    with pytest.raises(Exception, match=rf"\b{column}\b"):
        kind.make().fit(data.drop(column))


BAD: dict[str, tuple[str, Callable[[], Column], str]] = {
    "null features": ("features", lambda: F.lit(None), r"(?i)null"),
    "NaN in features": ("features", lambda: constant(0.5, float("nan"), 0.5), r"(?i)nan|finite"),
    "null label": ("label", lambda: F.lit(None), r"(?i)null"),
    "NaN label": ("label", lambda: F.lit(float("nan")), r"(?i)nan"),
}


def constant(*values: float) -> Column:
    return array_to_vector(F.array(*[F.lit(value) for value in values]))


@pytest.mark.parametrize("bad", BAD)
def test_fit_refuses_a_bad_value_with_a_reason(kind: Kind, data: DataFrame, bad: str) -> None:
    """In one row, neither the first nor the last."""
    column, value, message = BAD[bad]
    with pytest.raises(Exception, match=message) as caught:
        kind.make().fit(data.withColumn(column, F.when(F.col("id") == 70, value()).otherwise(F.col(column))))
    if kind.ours:
        assert column in str(caught.value), f"the message does not name the column: {caught.value}"


@pytest.mark.parametrize("column", ["features", "label"])
def test_fit_refuses_text_by_the_column_s_name(kind: Kind, data: DataFrame, column: str) -> None:
    if (kind.name, column) in TAKES_ANYTHING:
        return
    with pytest.raises(Exception, match=rf"\A.*\b{column}\b"):  # in the first line, not in a traceback of a rank
        kind.make().fit(data.withColumn(column, F.lit("a")))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.ours], indirect=True, ids=str)
def test_fit_refuses_rows_of_another_width(kind: Kind, data: DataFrame) -> None:
    """Of MLlib's own some do and some do not."""
    wide = F.when(F.col("id") == 70, constant(1, 2, 3, 4)).otherwise(F.col("features"))
    with pytest.raises(Exception, match=r"features.*\b3\b"):
        kind.make().fit(data.withColumn("features", wide))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.ours and hasattr(kind.cls, "inputShape")], indirect=True, ids=str
)
def test_fit_refuses_a_shape_that_the_features_do_not_have(kind: Kind, data: DataFrame) -> None:
    with pytest.raises(Exception, match=r"\A.*features.*\b3\b"):
        kind.make(inputShape=[WIDTH + 1]).fit(data)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.ours and hasattr(kind.cls, "validationIndicatorCol")], indirect=True, ids=str
)
def test_no_row_is_lost_between_training_and_validation(kind: Kind, data: DataFrame) -> None:
    """A null indicator is neither: it is refused by name, as is a column that is not there."""
    for indicator, frame in (
        ("held_out", data.withColumn("held_out", F.when(F.col("id") != 70, F.lit(False)))),
        ("absent", data),
    ):
        with pytest.raises(Exception, match=rf"\b{indicator}\b"):
            kind.make(validationIndicatorCol=indicator).fit(frame)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.ours], indirect=True, ids=str)
def test_fit_refuses_no_rows(kind: Kind, data: DataFrame) -> None:
    """Of MLlib's own some do and some do not."""
    with pytest.raises(Exception, match="no training rows"):
        kind.make().fit(data.limit(0))


# transform


def test_transform_adds_columns_and_leaves_rows_and_columns_alone(fitted: Fitted, data: DataFrame) -> None:
    made = fitted.model.transform(data)
    assert made.columns[: len(data.columns)] == data.columns
    assert made.schema[: len(data.columns)] == data.schema
    assert {"prediction"} <= set(made.columns[len(data.columns) :])
    assert not [name for name in made.columns if name.startswith("_")]
    assert dict(made.dtypes)["prediction"] == "double"
    original = data.collect()
    assert [row[: len(data.columns)] for row in made.collect()] == [tuple(row) for row in original]
    assert np.isfinite(fitted.predictions).all() and len(set(fitted.predictions)) > 1


def test_transform_looks_at_the_features_alone(fitted: Fitted, data: DataFrame) -> None:
    """Columns in another order, a label that is null or not there, many partitions, most of them empty."""
    names = sorted(data.columns, reverse=True)
    other = data.select([F.col(f"`{name}`") for name in names]).withColumn("label", F.lit(None).cast("double")).repartition(5)
    np.testing.assert_array_equal(predictions(fitted.model, other), fitted.predictions)
    few = data.where("id in (3, 99)").select("id", "features").repartition(6)
    np.testing.assert_array_equal(predictions(fitted.model, few), fitted.predictions[[3, 99]])
    one = data.where("id = 7")
    np.testing.assert_array_equal(predictions(fitted.model, one), fitted.predictions[[7]])


def test_transform_of_no_rows_gives_none_with_the_same_columns(fitted: Fitted, data: DataFrame) -> None:
    made = fitted.model.transform(data.limit(0))
    assert made.schema == fitted.model.transform(data).schema
    assert made.collect() == []


def test_transform_takes_sparse_vectors(fitted: Fitted, spark: SparkSession) -> None:
    rows = [(0, Vectors.dense([0.0, 0.7, 0.0])), (1, Vectors.sparse(WIDTH, [1], [0.7]))]
    dense, sparse = predictions(fitted.model, spark.createDataFrame(rows, ["id", "features"]))
    assert dense == sparse


def test_transform_names_a_missing_column(fitted: Fitted, data: DataFrame) -> None:
    with pytest.raises(Exception, match=r"\bfeatures\b"):
        fitted.model.transform(data.drop("features"))


def test_transform_refuses_to_replace_a_column(fitted: Fitted, data: DataFrame) -> None:
    with pytest.raises(Exception, match=r"\bprediction\b"):
        fitted.model.transform(data.withColumn("prediction", F.lit(0.0)))


def test_transform_with_other_params_leaves_the_model_alone(fitted: Fitted, data: DataFrame) -> None:
    before = given(fitted.model)
    made = fitted.model.transform(data.withColumnRenamed("features", "x"), {fitted.model.featuresCol: "x"})
    assert made.columns[-1] not in data.columns
    assert given(fitted.model) == before
    other = fitted.model.copy({fitted.model.predictionCol: "other"})
    assert other.uid == fitted.model.uid
    np.testing.assert_array_equal(predictions(other, data, "other"), fitted.predictions)
    assert given(fitted.model) == before


# persistence


def test_a_model_saved_and_loaded_is_the_same(fitted: Fitted, data: DataFrame, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/model"
    fitted.model.write().save(url)
    loaded = type(fitted.model).load(url)
    assert type(loaded) is type(fitted.model) and loaded.uid == fitted.model.uid
    assert given(loaded) == given(fitted.model)
    assert {param.parent for param in loaded.params} == {loaded.uid}
    np.testing.assert_array_equal(predictions(loaded, data), fitted.predictions)
    with pytest.raises(Exception, match=r"(?i)exist|overwrite"):
        fitted.model.write().save(url)
    fitted.model.write().overwrite().save(url)


# last, because a task that fails takes its Python worker and the model loaded there with it

WRONG: dict[str, Callable[[], Column]] = {
    "width": lambda: constant(1, 2, 3, 4),
    "null": lambda: F.when(F.col("id") != 70, F.col("features")),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.ours], indirect=True, ids=str)
def test_transform_refuses_what_the_model_cannot_take(fitted: Fitted, data: DataFrame, wrong: str) -> None:
    """Of MLlib's own some do and some do not."""
    with pytest.raises(Exception, match=r"\bfeatures\b.*(\b3\b|\bnull)"):
        fitted.model.transform(data.withColumn("features", WRONG[wrong]())).collect()
