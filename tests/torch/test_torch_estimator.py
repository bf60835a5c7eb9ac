"""The estimators on a real local Spark, their ranks started by pyspark's TorchDistributor."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import StringIndexer
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkml.errors import ConfigError, LaunchError, StorageError, TrainingError
from sparkml.estimators import TorchClassificationModel, TorchClassifier, TorchRegressor


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def digits(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> DataFrame:
    """scikit-learn's digits, one in five held out, the label as a word."""
    from sklearn.datasets import load_digits

    found = load_digits()
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rows = [
        (n, Vectors.dense(x / 16), words[y], float(1 + n % 2), n % 5 == 0)
        for n, (x, y) in enumerate(zip(found.data, found.target, strict=True))
    ]
    frame = spark.createDataFrame(rows, ["id", "features", "word", "weight", "held_out"])
    frame = StringIndexer(inputCol="word", outputCol="label").fit(frame).transform(frame)
    path = str(tmp_path_factory.mktemp("digits") / "rows")
    frame.repartition(2).write.parquet(path)
    return spark.read.parquet(path)


def a_net(**params: Any) -> TorchClassifier:
    settings = {"model": {"type": "mlp", "hidden": [64], "dropout": 0.1}, "numProc": 2, "epochs": 3, "batchSize": 64}
    return TorchClassifier(**{**settings, "verbose": False, **params})


def test_digits_on_two_ranks_from_fit_to_a_pipeline_s_file(digits: DataFrame, tmp_path: Path) -> None:
    net = TorchClassifier(
        model={"type": "cnn", "filters": [16, 32], "dense": 64},
        inputShape=[8, 8, 1],
        numProc=2,
        epochs=12,
        batchSize=32,
        learningRate=0.003,
        weightCol="weight",
        classWeight="balanced",
        validationIndicatorCol="held_out",
    )
    model = Pipeline(stages=[net]).fit(digits)
    fitted = model.stages[0]
    assert [rank["rows"] > 600 for rank in fitted.history["ranks"]] == [True, True]
    assert fitted.history["epochs"][-1]["val_accuracy"] > 0.95
    made = model.transform(digits.where("held_out")).cache()
    assert MulticlassClassificationEvaluator(metricName="accuracy").evaluate(made) == pytest.approx(
        fitted.history["epochs"][-1]["val_accuracy"], abs=1e-6
    )
    assert made.columns[-3:] == ["rawPrediction", "probability", "prediction"]
    assert len(made.schema["prediction"].metadata["ml_attr"]["vals"]) == 10
    assert np.isclose(made.first()["probability"].toArray().sum(), 1)  # type: ignore[index]
    assert "Conv2d(1, 16" in fitted.summary() and "trained for 12 epochs on 2 ranks" in fitted.summary()
    model.write().save(f"file://{tmp_path}/pipeline")
    again = PipelineModel.load(f"file://{tmp_path}/pipeline").transform(digits.where("held_out"))
    assert made.select("id", "probability").exceptAll(again.select("id", "probability")).count() == 0
    assert not list(tmp_path.glob(".sparkml"))


def two_layers(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(shape[0], 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, outputs))


def test_a_function_learns_a_vector_and_is_saved_without_code(digits: DataFrame, tmp_path: Path) -> None:
    half = F.udf(lambda v: Vectors.dense([v[20] + v[21], 10 * v[28]]), digits.schema["features"].dataType)
    frame = digits.withColumn("label", half("features"))
    net = TorchRegressor(model=two_layers, numProc=1, epochs=25, batchSize=64, learningRate=0.01, verbose=False)
    model = net.fit(frame)
    made = model.transform(frame)
    rows = [(row["label"].toArray(), row["prediction"].toArray()) for row in made.select("label", "prediction").collect()]
    errors = np.array([found - wanted for wanted, found in rows])
    assert np.sqrt((errors**2).mean()) < 0.4 < np.std([wanted for wanted, _ in rows])
    model.write().save(f"file://{tmp_path}/model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["metadata", "model.npz"]
    same = type(model).load(f"file://{tmp_path}/model").transform(frame)
    assert made.select("id", "prediction").exceptAll(same.select("id", "prediction")).count() == 0
    with pytest.raises(ConfigError, match="a Python function cannot be saved"):
        net.write().save(f"file://{tmp_path}/estimator")


def test_a_number_is_predicted_in_its_own_units(digits: DataFrame) -> None:
    point = F.udf(lambda v: float(1e5 + 700 * v[20] + 300 * v[43]), "double")
    frame = digits.withColumn("label", point("features"))
    model = TorchRegressor(model="mlp", numProc=2, epochs=20, batchSize=64, verbose=False).fit(frame)
    assert RegressionEvaluator(metricName="r2").evaluate(model.transform(frame)) > 0.95
    assert model.history["epochs"][-1]["rmse"] < 100


# faults


def ranks() -> list[psutil.Process]:
    """The ranks that torchruns below this very process have started (the session's JVM is below it)."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if line[1:2] == ["-u"] and line[2].endswith("/train.py"):
            found.append(process)
    return found


class Faults:
    """Does something to a rank of a fit that runs, from a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._done: list[Future[None]] = []
        self._seen: list[psutil.Process] = []

    def once_there_are(self, many: int, checkpoints: Path, do: Callable[[psutil.Process], Any]) -> None:
        """Call `do` with a rank as soon as there are so many checkpoints."""

        def wait() -> None:
            deadline = time.monotonic() + 100
            while len(list(checkpoints.rglob("*.npz"))) < many:
                assert time.monotonic() < deadline, f"not {many} checkpoints"
                time.sleep(0.02)
            self._seen = ranks()
            assert len(self._seen) == 2
            do(self._seen[0])

        self._done.append(self._thread.submit(wait))

    def check(self) -> None:
        """Raise what went wrong in the thread; fail if one of the ranks lives on."""
        for done in self._done:
            done.result(timeout=120)
        _, alive = psutil.wait_procs(self._seen, 20)
        assert not alive


@pytest.fixture
def faults() -> Faults:
    return Faults()


def weights_of(model: Any) -> str:
    return str(model.history["digest"])


@pytest.fixture(scope="module")
def whole(digits: DataFrame) -> str:
    """What an uninterrupted training ends with."""
    return weights_of(a_net(epochs=30).fit(digits))


def test_a_rank_killed_ends_the_fit_and_the_next_fit_goes_on(
    digits: DataFrame, whole: str, tmp_path: Path, faults: Faults
) -> None:
    folder = tmp_path / "ck"
    net = a_net(epochs=30, checkpointDir=str(folder), keepCheckpoints=100, maxRestarts=0)
    faults.once_there_are(3, folder / "checkpoints", lambda rank: rank.kill())
    with pytest.raises(LaunchError, match=r"rank \d on .* was killed by signal 9 \(SIGKILL\)"):
        net.fit(digits)
    faults.check()
    kept = len(list((folder / "checkpoints").rglob("*.npz")))
    assert 3 <= kept < 30
    model = net.fit(digits)
    assert re.fullmatch(r"went on after epoch \d+", model.history["resumed"])
    assert weights_of(model) == whole
    assert not ranks()


def python_worker_of(rank: psutil.Process) -> psutil.Process:
    """Spark's Python process of a rank's task: above torchrun and pyspark's wrapper around it."""
    return rank.parents()[2]


@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        (lambda rank: rank, r"rank \d on \S+ was killed by signal 9"),
        (python_worker_of, r"rank \d on its executor was lost: Python worker exited unexpectedly"),
    ],
    ids=["a rank", "Spark's Python worker"],
)
def test_what_is_killed_is_started_again_by_itself(
    victim: Any, reason: str, digits: DataFrame, whole: str, tmp_path: Path, faults: Faults
) -> None:
    net = a_net(epochs=30, checkpointDir=str(tmp_path), keepCheckpoints=100, maxRestarts=1)
    faults.once_there_are(3, tmp_path / "checkpoints", lambda rank: victim(rank).kill())
    model = net.fit(digits)
    faults.check()
    (restart,) = model.history["restarts"]
    assert re.match(reason, restart["reason"]) and restart["size"] == 2
    assert weights_of(model) == whole


def test_a_rank_that_hangs_ends_the_fit_after_the_limit(digits: DataFrame, tmp_path: Path, faults: Faults) -> None:
    net = a_net(epochs=2000, checkpointDir=str(tmp_path), stallTimeout=8, maxRestarts=0)
    faults.once_there_are(2, tmp_path / "checkpoints", lambda rank: rank.suspend())
    with pytest.raises(LaunchError, match="waited longer than 8 s for another rank"):
        net.fit(digits)
    faults.check()  # the stopped one ends, too


def broken(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    import torch

    if os.environ["RANK"] == "1":
        print("about to fail")
        raise ArithmeticError("no such number")
    return torch.nn.Linear(shape[0], outputs)


def test_what_a_rank_raises_is_what_the_user_reads(digits: DataFrame) -> None:
    with pytest.raises(TrainingError) as caught:
        a_net(model=broken, maxRestarts=0).fit(digits)
    first, *rest = str(caught.value).splitlines()
    assert re.fullmatch(r"rank 1 on \S+ failed: ArithmeticError: no such number", first)
    assert any("about to fail" in line for line in rest) and any("raise ArithmeticError" in line for line in rest)
    with pytest.raises(ConfigError, match=r"rank \d on \S+ failed: the model function must return a torch.nn.Module"):
        a_net(model=lambda: 3).fit(digits)


def test_too_few_slots_are_told_before_anything_runs(digits: DataFrame) -> None:
    began = time.monotonic()
    with pytest.raises(LaunchError, match=r"3 ranks need 3 slots at once, local\[2\] has 2"):
        a_net(numProc=3).fit(digits)
    assert time.monotonic() - began < 60 and not list(Path().glob(".sparkml"))


# persistence


def test_a_stranger_s_file_is_refused(digits: DataFrame, tmp_path: Path) -> None:
    import torch

    model = a_net(numProc=1, epochs=1).fit(digits)
    model.write().save(f"file://{tmp_path}/model")
    for name, alter in (
        ("pickle", lambda path: torch.save(torch.nn.Linear(2, 2), path)),
        ("torn", lambda path: path.write_bytes(path.read_bytes()[:1000])),
        ("another", lambda path: path.write_bytes(other(digits).body)),
    ):
        place = tmp_path / name
        shutil.copytree(tmp_path / "model", place)
        (place / ".model.npz.crc").unlink(missing_ok=True)
        alter(place / "model.npz")
        with pytest.raises(StorageError, match=r"model\.npz is not"):
            TorchClassificationModel.load(f"file://{place}")
    metadata = json.loads(next((tmp_path / "model" / "metadata").glob("part-*")).read_text())
    assert "two_layers" not in json.dumps(metadata)


def other(digits: DataFrame) -> Any:
    return a_net(numProc=1, epochs=1, seed=8).fit(digits)
