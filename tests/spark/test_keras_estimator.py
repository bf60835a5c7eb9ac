"""The estimators as a user meets them: the script of the how-to page, tuning, warm starts, several labels, two executors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import BinaryClassificationEvaluator, MulticlassClassificationEvaluator
from pyspark.ml.feature import StringIndexer
from pyspark.ml.linalg import SparseVector, Vectors
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel, ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkml.errors import ConfigError, DataError, StorageError
from sparkml.estimators import KerasClassificationModel, KerasClassifier, KerasRegressor
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "how-to" / "train-a-net.md").read_text(encoding="utf-8")
SCRIPT = re.findall(r"<!-- file: my_net.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)[0]


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def in_its_own_process(script: str, folder: Path) -> str:
    (folder / "script.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_script_of_the_page_runs_as_it_stands_there(tmp_path: Path) -> None:
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) <= 50
    out = in_its_own_process(SCRIPT, tmp_path)
    assert float(re.findall(r"area under ROC ([\d.]+)", out)[0]) > 0.95
    assert "trained for" in out and (tmp_path / "my_net_model" / "model.keras").exists()


CLUSTER = """
import json
from sparkml import session
from sparkml.estimators import KerasClassifier
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import functions as F

spark = session("local-cluster[2,1,2048]", conf={{"spark.executor.memory": "1g"}})
rows = spark.range(600).select("id", F.rand(3).alias("a"), F.rand(4).alias("b"))
rows = rows.withColumn("label", (F.col("a") > F.col("b")).cast("double"))
rows = VectorAssembler(inputCols=["a", "b"], outputCol="features").transform(rows)
net = KerasClassifier(model="mlp", numProc=2, epochs=6, batchSize=16, learningRate=0.01)
net = net.setCheckpointDir("{folder}/ck").setLogDir("{folder}/logs")
model = net.fit(rows)
right = model.transform(rows).where("prediction = label").count()
print(json.dumps([right, len(model.history["ranks"]), [epoch["loss"] for epoch in model.history["epochs"]]]))
spark.stop()
"""


def test_two_executors_of_a_cluster_of_processes(tmp_path: Path) -> None:
    out = in_its_own_process(CLUSTER.format(folder=tmp_path), tmp_path)
    right, ranks, losses = json.loads(out.strip().splitlines()[-1])
    assert ranks == 2 and right > 540 and losses[-1] < losses[0]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["rank-0.log", "rank-1.log"]


@pytest.fixture(scope="module")
def points(spark: SparkSession) -> DataFrame:
    """300 points: the class by a line, a size in thousands, a sparse vector, ids."""
    rng = np.random.default_rng(6)
    x = rng.random((300, 3))
    rows = [
        (
            n,
            Vectors.dense(point),
            Vectors.sparse(2000, {int(2000 * point[0]): 1.0}),
            [int(1 + 9 * value) for value in point[: 1 + n % 3]],
            ["low", "high"][int(point[0] + point[1] > 1)],
            float(1000 * point[2] + 300 * point[0]),
            float(1 + n % 2),
        )
        for n, point in enumerate(x)
    ]
    names = ["id", "features", "sparse", "words", "kind", "size", "weight"]
    frame = spark.createDataFrame(rows, names)
    return StringIndexer(inputCol="kind", outputCol="label", stringOrderType="alphabetDesc").fit(frame).transform(frame).cache()


def test_one_rank_learns_from_sparse_vectors_and_ids(points: DataFrame) -> None:
    net = KerasClassifier(
        model={"type": "wide_and_deep", "hidden": [16]},
        inputCols=["features", "sparse", "words"],
        weightCol="weight",
        classWeight="balanced",
        numProc=1,
        epochs=12,
        batchSize=32,
        learningRate=0.01,
        verbose=False,
    )
    model = net.fit(points)
    made = model.transform(points)
    assert MulticlassClassificationEvaluator(metricName="accuracy").evaluate(made) > 0.9
    assert BinaryClassificationEvaluator().evaluate(made) > 0.95
    assert made.schema["prediction"].metadata["ml_attr"]["vals"] == ["low", "high"]
    dense = points.withColumn("sparse", F.udf(lambda v: Vectors.dense(v.toArray()), points.schema["sparse"].dataType)("sparse"))
    first = [row[0].toArray() for row in made.select("probability").limit(20).collect()]
    again = [row[0].toArray() for row in model.transform(dense).select("probability").limit(20).collect()]
    np.testing.assert_allclose(first, again, atol=1e-6)
    assert isinstance(points.first()["sparse"], SparseVector)  # type: ignore[index]


def test_class_weights_of_several_labels_are_refused_and_row_weights_named(points: DataFrame) -> None:
    net = KerasClassifier(model="mlp", labelCols=["label", "other"], classWeight="balanced", numProc=1, verbose=False)
    with pytest.raises(ConfigError, match="classWeight is for one label") as caught:
        net.fit(points.withColumn("other", F.col("label")))
    assert caught.value.hint == "weigh rows by weightCol"


def killed_once(marker: Path) -> Any:
    """Return a callback that kills its rank at the third epoch, unless it did so before."""
    import keras

    class KilledOnce(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self, marker: str) -> None:
            super().__init__()
            self.marker = marker

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2 and not os.path.exists(self.marker):
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)

    return KilledOnce(str(marker))


def test_a_fit_that_was_restarted_says_so_and_asked_for_again_does_nothing(points: DataFrame, tmp_path: Path) -> None:
    def fit() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        reports: list[dict[str, Any]] = []
        callbacks = [killed_once(tmp_path / "killed")]
        net = KerasClassifier(model="mlp", callbacks=callbacks, numProc=1, epochs=3, batchSize=32, on_report=reports.append)
        return net.setCheckpointDir(str(tmp_path / "ck")).fit(points).history, reports

    (first, told), (again, silent) = fit(), fit()
    assert [restart["attempt"] for restart in first["restarts"]] == [1]
    assert "was killed by signal 9" in first["restarts"][0]["reason"] and any("restart" in report for report in told)
    assert re.fullmatch("went on after epoch [12]", first["resumed"])  # the second's may not have been there yet
    assert (again["restarts"], again["resumed"], again["digest"]) == ([], "went on after epoch 3", first["digest"])
    assert again["epochs"] == first["epochs"] and not any("epoch" in report for report in silent)


def two_heads() -> Any:
    import keras

    x = keras.Input((3,), name="features")
    hidden = keras.layers.Dense(16, activation="relu")(x)
    outputs = [keras.layers.Dense(1, name="size")(hidden), keras.layers.Dense(3, name="point")(hidden)]
    model = keras.Model(x, outputs)
    model.compile(keras.optimizers.Adam(0.02), loss=["mse", "mse"], loss_weights=[1e-6, 1.0])
    return model


def test_several_labels_of_which_one_is_a_vector(points: DataFrame, tmp_path: Path) -> None:
    frame = points.withColumn("point", F.col("features"))
    net = KerasRegressor(model=two_heads, labelCols=["size", "point"], numProc=1, epochs=40, batchSize=32, verbose=False)
    model = net.fit(frame)
    made = model.transform(frame)
    assert made.columns[-2:] == ["prediction", "prediction_point"] and dict(made.dtypes)["prediction_point"] == "vector"
    rows = made.select("features", "prediction_point").collect()
    assert np.abs(np.array([row[0].toArray() - row[1].toArray() for row in rows])).mean() < 0.1
    model.write().save(str(tmp_path / "m"))
    again = type(model).load(str(tmp_path / "m")).transform(frame).select("prediction_point").first()
    assert again == made.select("prediction_point").first()


def test_a_grid_and_a_cross_validator_and_its_model_persist(points: DataFrame, tmp_path: Path) -> None:
    net = KerasClassifier(model="mlp", numProc=1, batchSize=32, epochs=1, verbose=False)
    grid = ParamGridBuilder().addGrid(net.learningRate, [1e-7, 0.03]).addGrid(net.epochs, [4]).build()
    accuracy = MulticlassClassificationEvaluator(metricName="accuracy")
    search = CrossValidator(
        estimator=Pipeline(stages=[net]), estimatorParamMaps=grid, evaluator=accuracy, numFolds=2, seed=3, parallelism=2
    )
    found = search.fit(points)
    assert found.avgMetrics[1] > found.avgMetrics[0] and found.avgMetrics[1] > 0.8
    found.write().save(str(tmp_path / "cv"))
    loaded = CrossValidatorModel.load(str(tmp_path / "cv"))
    assert loaded.avgMetrics == found.avgMetrics
    wanted = [row[0] for row in found.transform(points).select("prediction").collect()]
    assert [row[0] for row in loaded.transform(points).select("prediction").collect()] == wanted


def test_an_estimator_saved_and_loaded_fits_the_same_and_code_is_not_saved(points: DataFrame, tmp_path: Path) -> None:
    net = KerasClassifier(model={"type": "mlp", "hidden": [8]}, numProc=1, epochs=2, batchSize=32, optimizer="sgd", verbose=False)
    net.write().save(str(tmp_path / "net"))
    loaded = KerasClassifier.load(str(tmp_path / "net"))
    assert loaded.uid == net.uid and loaded.options().model_dump() == net.options().model_dump()
    assert loaded.fit(points).history["digest"] == net.fit(points).history["digest"]
    with pytest.raises(ConfigError, match="a Python function cannot be saved"):
        KerasRegressor(model=two_heads).write().save(str(tmp_path / "code"))


def test_a_scan_of_shards_is_trained_on_in_place_and_scored(points: DataFrame, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": {"type": "mlp", "hidden": [4]}, "inputCols": ["features", "sparse", "words"]}
    net = KerasClassifier(**settings, numProc=1, epochs=2, batchSize=64, checkpointDir=str(tmp_path / "a"), verbose=False)
    first = net.fit(points)
    (written,) = (tmp_path / "a" / "shards").iterdir()
    scan = points.sparkSession.read.parquet(str(written))
    again = net.copy({net.checkpointDir: str(tmp_path / "b")}).fit(scan)
    assert again.history["digest"] == first.history["digest"] and not (tmp_path / "b" / "shards").exists()
    columns = ["features", "sparse", "words"]
    found, wanted = ([row[0] for row in first.transform(frame).select("probability").collect()] for frame in (scan, points))
    assert sorted(map(tuple, found)) == sorted(map(tuple, wanted)) and dict(scan.dtypes)[columns[0]] == "binary"
    with pytest.raises(DataError, match="in place: 'label' cannot hold out rows"):
        net.copy({net.validationIndicatorCol: "label"}).fit(scan)


def test_an_estimator_with_allowed_layers_is_loaded_by_those_who_allow_them(points: DataFrame, tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x), keras.layers.Dense(2, activation="softmax")])
    KerasClassifier(model=model, allow=["Lambda"], epochs=3).write().save(str(tmp_path / "net"))
    with pytest.raises(StorageError, match=r"holds keras\.layers\.Lambda"):
        KerasClassifier.load(str(tmp_path / "net"))
    assert KerasClassifier.load(str(tmp_path / "net"), allow=["Lambda"]).getEpochs() == 3


def test_a_pipeline_hands_values_on_and_persists_before_it_is_fitted(points: DataFrame, tmp_path: Path) -> None:
    net = KerasClassifier(model={"type": "mlp", "hidden": [4]}, numProc=1, epochs=1, batchSize=64, verbose=False)
    Pipeline(stages=[net]).write().save(str(tmp_path / "p"))
    loaded = Pipeline.load(str(tmp_path / "p"))
    (stage,) = loaded.getStages()
    assert stage.explainParams() == net.explainParams()
    fitted = loaded.fit(points, {stage.epochs: 2, stage.predictionCol: "found"})
    assert len(fitted.stages[0].history["epochs"]) == 2 and "found" in fitted.transform(points).columns
    assert stage.getEpochs() == 1


def test_ranks_are_as_many_as_slots_and_have_the_users_variables(points: DataFrame, tmp_path: Path) -> None:
    import keras

    class Tell(keras.callbacks.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            (tmp_path / os.environ["WHERE"] / str(os.getpid())).touch()

    (tmp_path / "here").mkdir()
    net = KerasClassifier(model="mlp", epochs=1, callbacks=[Tell()], rankEnv={"WHERE": "here"}, verbose=False)
    model = net.fit(points)
    slots = points.sparkSession.sparkContext.defaultParallelism
    assert len(model.history["ranks"]) == len(list((tmp_path / "here").iterdir())) == slots
    assert "WHERE" not in os.environ


def test_outputs_by_name_are_told_apart_in_transform_as_in_training(points: DataFrame) -> None:
    def named() -> Any:  # the dictionary is in another order than its names
        x = keras.Input((3,))
        outputs = {"b": keras.layers.Dense(3, name="b")(x), "a": keras.layers.Dense(1, activation="sigmoid", name="a")(x)}
        return keras.Model(x, outputs)

    import keras

    frame = points.withColumn("b", F.col("features"))
    net = KerasRegressor(model=named, labelCols=["label", "b"], numProc=1, epochs=60, batchSize=32, verbose=False)
    made = net.setParams(learningRate=0.05).fit(frame).transform(frame).select("features", "prediction", "prediction_b").collect()
    assert all(0 <= row["prediction"] <= 1 for row in made)
    assert np.abs(np.array([row["features"].toArray() - row["prediction_b"].toArray() for row in made])).mean() < 0.2


def test_a_fit_starts_from_a_fitted_model(points: DataFrame, tmp_path: Path) -> None:
    first = KerasClassifier(model="mlp", numProc=1, epochs=8, batchSize=32, learningRate=0.02, verbose=False).fit(points)
    second = KerasClassifier(model=first, numProc=1, epochs=1, batchSize=32, learningRate=1e-9, verbose=False).fit(points)
    mine = second.keras().get_weights()
    for theirs, weight in zip(first.keras().get_weights(), mine, strict=True):
        np.testing.assert_allclose(theirs, weight, atol=1e-6)
    assert "best epoch" in first.summary() and "Total params" in first.summary()


def test_a_model_whose_file_was_exchanged_is_refused(points: DataFrame, tmp_path: Path) -> None:
    import keras

    model = KerasClassifier(model="mlp", numProc=1, epochs=1, batchSize=64, verbose=False).fit(points)
    model.write().save(str(tmp_path / "m"))
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    other.save(tmp_path / "m" / "model.keras")
    with pytest.raises(StorageError, match="is not the file that was saved with this model"):
        KerasClassificationModel.load(str(tmp_path / "m"))


def test_columns_and_weights_that_cannot_be_used_are_named(points: DataFrame) -> None:
    def fit(frame: DataFrame, **params: Any) -> None:
        KerasClassifier(model="mlp", numProc=1, verbose=False, **params).fit(frame)

    with pytest.raises(DataError, match=r"column 'kind' holds strings, a net takes numbers"):
        fit(points, inputCols=["features", "kind"])
    with pytest.raises(DataError, match=r"column 'kind' holds strings, not numbers"):
        fit(points, labelCol="kind")
    with pytest.raises(DataError, match=r"the weight 'weight' is null, NaN, infinite or negative in 300 of 300 rows"):
        fit(points.withColumn("weight", F.lit(-1.0)), weightCol="weight")
    with pytest.raises(DataError, match=r"column 'n' holds negative integers"):
        fit(points.withColumn("n", F.lit(-3)), inputCols=["features", "n"])
    with pytest.raises(ConfigError, match=r"inputShape \[2, 2\] needs 4 numbers per row, column 'features' has 3"):
        fit(points, inputShape=[2, 2])
    with pytest.raises(ConfigError, match=r"classWeight has the class 7; classes are 0 to 1"):
        fit(points, classWeight={7: 2.0})
    with pytest.raises(ConfigError, match=r"stallTimeout = -1"):
        fit(points, stallTimeout=-1)
