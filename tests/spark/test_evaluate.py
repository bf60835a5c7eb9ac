from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from sparkml.errors import ConfigError, DataError
from sparkml.evaluate.distributed import evaluate
from sparkml.evaluate.evaluation import Evaluation, compare
from sparkml.evaluate.settings import EvaluateSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CLASSES = ["ant", "bee", "cat"]
SETTINGS = EvaluateSettings.model_validate({"slices": ["city"], "max_slice_values": 2, "worst": 5})


def table(better: float = 1.0, n: int = 1500) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    city = rng.choice(["rome", "oslo", "bonn", "pune"], n, p=[0.5, 0.3, 0.15, 0.05])
    y[city == "oslo"] = 1  # one class only in this slice
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), y] += better
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "label": y.astype(float),
            "prediction": p.argmax(axis=1).astype(float),
            "p0": p[:, 0],
            "p1": p[:, 1],
            "p2": p[:, 2],
            "city": city,
        }
    )


def frame(spark: SparkSession, data: pd.DataFrame, partitions: int = 2) -> DataFrame:
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    scored = spark.createDataFrame(data).withColumn("probability", array_to_vector(F.array("p0", "p1", "p2")))
    return scored.drop("p0", "p1", "p2").repartition(partitions)


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def found(spark: SparkSession, data: pd.DataFrame) -> Evaluation:
    return evaluate(frame(spark, data), SETTINGS, "classification", CLASSES, ["id"])


def test_point_values_equal_scikit_learn(found: Evaluation, data: pd.DataFrame) -> None:
    from sklearn import metrics as sk

    p = data[["p0", "p1", "p2"]].to_numpy()
    values = {name: metric.value for name, metric in found.metrics.items()}
    assert found.rows == 1500
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(data.label, data.prediction), rel=1e-11)
    assert values["macro_f1"] == pytest.approx(sk.f1_score(data.label, data.prediction, average="macro"), rel=1e-11)
    assert values["log_loss"] == pytest.approx(sk.log_loss(data.label, p), rel=1e-11)
    assert values["auc"] == pytest.approx(sk.roc_auc_score(data.label, p, multi_class="ovr"), abs=1e-4)
    assert values["pr_auc"] == pytest.approx(
        sk.average_precision_score(np.eye(3)[data.label.astype(int)], p, average="macro"), abs=1e-3
    )
    assert found.confusion == sk.confusion_matrix(data.label, data.prediction).tolist()


def test_intervals_agree_with_a_plain_bootstrap(found: Evaluation, data: pd.DataFrame) -> None:
    from sklearn import metrics as sk

    rng = np.random.default_rng(9)
    p, y = data[["p0", "p1", "p2"]].to_numpy(), data.label.to_numpy()
    draws = [rng.integers(0, len(y), len(y)) for _ in range(300)]
    plain = {
        "accuracy": [float((y[i] == data.prediction.to_numpy()[i]).mean()) for i in draws],
        "log_loss": [float(sk.log_loss(y[i], p[i])) for i in draws],
        "auc": [float(sk.roc_auc_score(y[i], p[i], multi_class="ovr")) for i in draws],
    }
    for name, values in plain.items():
        low, high = np.percentile(values, [2.5, 97.5])
        ours = found.metrics[name]
        assert len(ours.replicates) == 200
        assert np.std(ours.replicates) == pytest.approx(np.std(values), rel=0.2), name
        assert abs(ours.low - low) < 0.25 * (high - low) and abs(ours.high - high) < 0.25 * (high - low), name


def test_slices_are_measured_like_the_whole_and_the_rare_ones_pooled(found: Evaluation, data: pd.DataFrame) -> None:
    slices = {item.value: item for item in found.slices}
    assert list(slices) == ["rome", "oslo", "(other)"]
    for value, rows in (("rome", data[data.city == "rome"]), ("(other)", data[data.city.isin(["bonn", "pune"])])):
        assert slices[value].rows == len(rows)
        assert slices[value].metrics["accuracy"].value == pytest.approx((rows.label == rows.prediction).mean(), rel=1e-11)
        estimate = slices[value].metrics["accuracy"]
        assert estimate.low < estimate.value < estimate.high
    assert np.isnan(slices["oslo"].metrics["auc"].value) and np.isnan(slices["oslo"].metrics["auc"].low)
    assert slices["oslo"].metrics["accuracy"].value > 0


def test_worst_mistakes_are_the_surest_ones(found: Evaluation, data: pd.DataFrame) -> None:
    p = data[["p0", "p1", "p2"]].to_numpy()
    truth = p[np.arange(len(p)), data.label.astype(int)]
    expected = data[data.label != data.prediction].assign(truth=truth[data.label != data.prediction]).nsmallest(5, "truth")
    assert [mistake.key for mistake in found.worst] == [{"id": number} for number in expected.id]
    assert [mistake.true_probability for mistake in found.worst] == pytest.approx(list(expected.truth))


def test_partitions_and_order_do_not_matter(spark: SparkSession, found: Evaluation, data: pd.DataFrame) -> None:
    shuffled = evaluate(frame(spark, data.sample(frac=1, random_state=3), 5), SETTINGS, "classification", CLASSES, ["id"])
    assert shuffled.model_dump_json() == found.model_dump_json()


def test_models_are_compared_on_the_same_draws(spark: SparkSession, found: Evaluation) -> None:
    better = evaluate(frame(spark, table(1.3)), SETTINGS, "classification", CLASSES, ["id"])
    difference = compare(better, found, "accuracy")
    assert difference.significant and difference.difference > 0
    alone = np.hypot(np.std(better.metrics["accuracy"].replicates), np.std(found.metrics["accuracy"].replicates))
    paired = np.std(np.array(better.metrics["accuracy"].replicates) - np.array(found.metrics["accuracy"].replicates))
    assert paired < 0.8 * alone
    other_rows = evaluate(frame(spark, table().head(700)), SETTINGS, "classification", CLASSES, ["id"])
    with pytest.raises(DataError, match="same rows"):
        compare(better, other_rows, "accuracy")


def test_regression(spark: SparkSession) -> None:
    rng = np.random.default_rng(4)
    y = rng.normal(50, 10, 800)
    data = pd.DataFrame({"id": [f"row {i}" for i in range(800)], "label": y, "prediction": y + rng.normal(0, 3, 800)})
    found = evaluate(spark.createDataFrame(data), EvaluateSettings(worst=3), "regression", [], ["id"])
    error = data.prediction - data.label
    assert found.metrics["rmse"].value == pytest.approx(np.sqrt((error**2).mean()), rel=1e-11)
    assert found.metrics["r2"].low < found.metrics["r2"].value < found.metrics["r2"].high
    assert found.residuals is not None and sum(found.residuals.counts) == 800 and len(found.residuals.sample_target) == 500
    assert [mistake.key["id"] for mistake in found.worst] == list(data.id[error.abs().nlargest(3).index])
    assert found.confusion == [] and found.curves == []


def test_a_classifier_without_probabilities_is_measured_by_its_classes(spark: SparkSession, data: pd.DataFrame) -> None:
    bare = frame(spark, data).drop("probability")
    found = evaluate(bare, EvaluateSettings(), "classification", CLASSES, ["id"])
    assert found.metrics["accuracy"].value > 0 and np.isnan(found.metrics["auc"].value) and found.curves == []
    assert len(found.worst) > 0
    with pytest.raises(ConfigError, match="no probabilities"):
        evaluate(bare, EvaluateSettings(metrics=["auc"]), "classification", CLASSES, ["id"])


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ("label = 7", {}, "label that is null, NaN or not allowed"),
        ("label = NULL", {}, "label that is null, NaN or not allowed"),
        ("prediction = double('NaN')", {}, "prediction that is null, NaN"),
        (None, {"classes": ["ant", "bee"]}, "label that is null|probabilities"),
        (None, {"key_cols": ["nope"]}, "no column 'nope'"),
        (None, {"key_cols": []}, "key columns"),
        ("empty", {}, "no rows"),
    ],
)
def test_wrong_input_says_what_is_wrong(
    spark: SparkSession, data: pd.DataFrame, change: str | None, arguments: dict[str, Any], words: str
) -> None:
    from pyspark.sql import functions as F

    rows = frame(spark, data.head(20))
    if change == "empty":
        rows = rows.where("false")
    elif change:
        column, _, expression = change.partition(" = ")
        rows = rows.withColumn(column, F.expr(f"cast({expression} as double)"))
    given = {"classes": CLASSES, "key_cols": ["id"], **arguments}
    with pytest.raises((ConfigError, DataError), match=words):
        evaluate(rows, EvaluateSettings(), "classification", **given)


def test_driver_gets_values_not_states(spark: SparkSession, data: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = frame(spark, data)
    received: list[int] = []
    original = type(rows).toLocalIterator

    def counting(self: Any, *args: Any, **options: Any) -> Any:
        for row in original(self, *args, **options):
            received.append(len(row["values"]) * 8 + len(row["details"]))
            yield row

    monkeypatch.setattr(type(rows), "toLocalIterator", counting)
    evaluate(rows, SETTINGS, "classification", CLASSES, ["id"])
    assert 0 < sum(received) < 200_000  # the states of these groups are tens of megabytes
