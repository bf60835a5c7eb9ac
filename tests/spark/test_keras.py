"""The Keras estimators on Spark: data frame -> shards -> a barrier stage of two Horovod ranks -> model -> predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkml.errors import ConfigError, DataError, LaunchError, StorageError
from sparkml.estimators.keras import KerasClassifier, KerasRegressor
from sparkml.estimators.keras_model import KerasClassificationModel, KerasRegressionModel
from sparkml.estimators.trainer import TrainContext
from sparkml.estimators.trainers.keras import Keras, KerasOptions
from sparkml.storage import Store


@pytest.fixture(scope="module")
def digits(spark: SparkSession) -> DataFrame:
    """1,797 images of 8 x 8 in [0, 1]; every fifth is for the test, every tenth of the rest for validation."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    rows = [(index, Vectors.dense(row / 16.0), float(labels[index])) for index, row in enumerate(pixels)]
    return spark.createDataFrame(rows, ["id", "features", "label"]).withColumn("held_out", F.col("id") % 10 == 1)


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit without checkpointDir keeps its shards below the current folder while it runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def train(digits: DataFrame) -> DataFrame:
    return digits.where("id % 5 != 0")


@pytest.fixture(scope="module")
def test(digits: DataFrame) -> DataFrame:
    return digits.where("id % 5 = 0")


@pytest.fixture(scope="module")
def reports() -> list[dict[str, Any]]:
    return []


@pytest.fixture(scope="module")
def trained(
    spark: SparkSession, train: DataFrame, reports: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Keras, KerasClassificationModel, TrainContext]:
    folder = tmp_path_factory.mktemp("trained")
    options = KerasOptions.model_validate({"model": {"type": "cnn"}, "epochs": 16, "batch_size": 32, "learning_rate": 2e-3})
    trainer = Keras(options)
    context = TrainContext(
        store=Store(str(folder / "store")),
        task="classification",
        classes=tuple("0123456789"),
        shape=(8, 8, 1),
        seed=3,
        scratch="checkpoints/net",
        log_dir=str(folder / "logs"),
        validation_col="held_out",
        report=reports.append,
    )
    model = trainer.estimator(context).fit(train)
    assert isinstance(model, KerasClassificationModel)
    return trainer, model, context


def accuracy(predictions: DataFrame) -> float:
    return float(MulticlassClassificationEvaluator(metricName="accuracy").evaluate(predictions))


def test_digits_on_two_ranks(trained: Any, test: DataFrame, reports: list[dict[str, Any]]) -> None:
    trainer, model, context = trained
    assert accuracy(model.transform(test)) >= 0.97
    history = trainer.history(model)
    assert [epoch["epoch"] for epoch in history["epochs"]] == list(range(1, 17))
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "rows_per_second"} <= set(history["epochs"][0])
    assert sum(rank["rows"] for rank in history["ranks"]) == 1797 - 360 - 180 and len(history["ranks"]) == 2
    assert {(report["rank"], report["epoch"]) for report in reports if "step" not in report} >= {(0, 16), (1, 16)}
    assert sorted(path.name for path in Path(context.log_dir).iterdir()) == ["rank-0.log", "rank-1.log"]


def test_predictions_are_doubles_and_vectors_made_in_one_pass(trained: Any, test: DataFrame) -> None:
    model = trained[1]
    made = model.transform(test)
    assert dict(made.dtypes)["prediction"] == "double" and dict(made.dtypes)["probability"] == "vector"
    assert made.columns == [*test.columns, "rawPrediction", "probability", "prediction"]
    assert made.schema["prediction"].metadata["ml_attr"] == {"type": "nominal", "num_vals": 10}
    assert made.schema["probability"].metadata["ml_attr"] == {"num_attrs": 10}
    for row in made.limit(50).collect():
        probability = row["probability"].toArray()
        assert probability.shape == (10,) and probability.sum() == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == float(probability.argmax())
        np.testing.assert_allclose(row["rawPrediction"].toArray(), np.log(probability), rtol=1e-6)
    plan = made._jdf.queryExecution().executedPlan().toString()
    assert plan.count("ArrowEvalPython") == 1


def test_a_fit_that_was_finished_is_not_done_again(trained: Any, train: DataFrame) -> None:
    trainer, model, context = trained
    again = trainer.estimator(context).fit(train)
    assert again.history["resumed"] == "went on after epoch 16"
    assert again.history["digest"] == model.history["digest"]
    other = trainer.estimator(context).fit(train.where("id < 500"))
    assert "1 other trainings are not used" in other.history["resumed"]
    assert sum(rank["rows"] for rank in other.history["ranks"]) == 500 - 100 - 50


def test_saved_and_loaded_it_predicts_the_same(spark: SparkSession, trained: Any, test: DataFrame, tmp_path: Path) -> None:
    trainer, model, _ = trained
    url = (tmp_path / "model").as_uri()
    model.write().save(url)
    loaded = trainer.load(spark, url)
    assert isinstance(loaded, KerasClassificationModel)
    assert loaded.uid == model.uid and loaded.history == model.history and loaded.getOrDefault("inputShape") == [8, 8, 1]
    mine = [row[0].toArray() for row in model.transform(test).select("probability").limit(20).collect()]
    theirs = [row[0].toArray() for row in loaded.transform(test).select("probability").limit(20).collect()]
    np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ConfigError, match=r"holds a \S+KerasClassificationModel, not a \S+KerasRegressionModel"):
        KerasRegressionModel.load(url)
    (tmp_path / "model" / "model.keras").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(StorageError, match=r"is not a \.keras file"):
        KerasClassificationModel.load(url)


def build(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    import keras

    return keras.Sequential([keras.Input(shape), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(outputs)])


def test_a_user_s_function_in_a_pipeline_for_regression(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 2))
    rows = [(float(a), float(b), float(1000 + 50 * a - 20 * b)) for a, b in x]
    frame = spark.createDataFrame(rows, ["a", "b", "y"])
    net = KerasRegressor(model=build, labelCol="y", numProc=1, epochs=20, batchSize=32, learningRate=0.02)
    assembler = VectorAssembler(inputCols=["a", "b"], outputCol="features")
    fitted = Pipeline(stages=[assembler, net]).fit(frame)
    fitted.write().overwrite().save(str(tmp_path / "pipeline"))
    made = PipelineModel.load(str(tmp_path / "pipeline")).transform(frame)
    error = made.select(F.sqrt(F.avg((F.col("prediction") - F.col("y")) ** 2))).first()
    assert error is not None and error[0] < 0.15 * np.std([row[2] for row in rows])


def test_wrong_use_is_told_before_anything_starts(spark: SparkSession, train: DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"no parameter 'epoch'; did you mean 'epochs'"):
        KerasClassifier(model="cnn", epoch=3)
    with pytest.raises(ConfigError, match=r"optimizer = 'adagard'.*'adam'"):
        KerasClassifier(model="cnn", optimizer="adagard")
    with pytest.raises(ConfigError, match="KerasRegressor: labelSmoothing is for classification"):
        KerasRegressor(model="mlp", labelSmoothing=0.1)
    with pytest.raises(ConfigError, match=r"no plugin 'cnnn'; did you mean 'cnn'"):
        KerasClassifier(model="cnnn")
    with pytest.raises(LaunchError, match=r"3 ranks need 3 slots at once, local\[2\] has 2"):
        KerasClassifier(model="mlp", numProc=3).fit(train)
    with pytest.raises(DataError, match=r"class indices .* from 0\.5 to 9\.5 with 1437 fractional"):
        KerasClassifier(model="mlp").fit(train.withColumn("label", F.col("label") + 0.5))
    with pytest.raises(DataError, match=r"null, NaN or infinite in \d+ of 1437 rows"):
        KerasClassifier(model="mlp").fit(train.withColumn("label", F.when(F.col("id") > 100, F.col("label"))))
    with pytest.raises(DataError, match="no training rows"):
        KerasClassifier(model="mlp").fit(train.limit(0))
    with pytest.raises(DataError, match="class index 9, numClasses is 5"):
        KerasClassifier(model="mlp", numClasses=5).fit(train)
