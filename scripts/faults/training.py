"""The training that faults are injected into, as a user would write it: ``python training.py SETTINGS`` (JSON of `Settings`).

Prints one JSON document: what ``model.history`` says, or the error. The callback marks the step of the fault for `drill`, and
brings about itself those that come from within a rank.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BATCH = 16  # rows per step and rank: digits have 57 steps of two ranks


@dataclass(frozen=True)
class Settings:
    """One start of the training.

    Attributes
    ----------
    folder
        Of this fault: data, marks of the callback, scratch.
    checkpoints
        The user's checkpointDir; None: in `folder`.
    inject
        What the callback does at the mark: ``raise``, ``hang``, ``memory``; empty: it only marks.
    epoch, step, rank
        Where: counted from 1, on which rank. Once per `folder`, so never again after a restart.
    """

    folder: str
    checkpoints: str | None = None
    master: str = "local[2]"
    ranks: int = 2
    least: int | None = None
    epochs: int = 16
    seed: int = 7
    stall: float = 300.0
    inject: str = ""
    epoch: int = 3
    step: int = 15
    rank: int = 1


class Late:
    """The callback, made where it is unpickled: importing Keras would cost the driver seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __reduce__(self) -> Any:
        return _callback, (self._settings,)


def _callback(settings: Settings) -> Any:
    import keras

    class Injector(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            mine = {"pid": os.getpid(), "rank": _rank(), "size": int(os.environ.get("HOROVOD_SIZE", "1"))}
            _write(Path(settings.folder, "ranks", f"{os.getpid()}.json"), mine)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.at_epoch = epoch + 1

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            mark = Path(settings.folder, "mark.json")
            here = (self.at_epoch, batch + 1, _rank()) == (settings.epoch, settings.step, settings.rank)
            if here and not mark.exists():
                _write(mark, {"time": time.time()})
                _inject(settings.inject)

    return Injector()


def _rank() -> int:
    return int(os.environ.get("HOROVOD_RANK", "0"))


def _write(path: Path, facts: dict[str, Any]) -> None:
    """Write whole or not at all: the other side is polling."""
    path.parent.mkdir(exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(facts))
    scratch.rename(path)


def _inject(fault: str) -> None:
    if fault == "raise":
        raise OSError(5, "Input/output error (injected)")
    if fault == "hang":
        while True:
            pass
    if fault == "memory":
        import resource

        import psutil

        limit = psutil.Process().memory_info().vms + (512 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        blocks = []
        while True:
            blocks.append(b"\1" * (16 << 20))  # touched, so really taken


def write_digits(path: Path) -> None:
    """Write scikit-learn's 1797 digits of 8 x 8 pixels as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = pa.FixedSizeListArray.from_arrays(pa.array((digits.data / 16).astype("float32").ravel()), 64)
    pq.write_table(pa.table({"pixels": pixels.cast(pa.list_(pa.float32())), "label": digits.target.astype("float64")}), path)


def main() -> None:
    """Train, and say how it went."""
    settings = Settings(**json.loads(sys.argv[1]))
    import sparkml
    from sparkml.errors import SparkmlError
    from sparkml.estimators import KerasClassifier

    here = Path(settings.folder)
    conf = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # a short life: starts sooner
        "spark.ui.enabled": "false",
        "spark.local.dir": str(here / "local"),
        "spark.sql.warehouse.dir": str(here / "warehouse"),
        "spark.sql.shuffle.partitions": "2",
    }
    spark = sparkml.session(settings.master, conf=conf)
    spark.sparkContext.setLogLevel("OFF")
    net = KerasClassifier(
        model={"type": "cnn", "filters": [16, 32], "dense": 64, "dropout": 0.25},
        featuresCol="pixels",
        labelCol="label",
        inputShape=[8, 8, 1],
        strategy="allreduce",
        numProc=settings.ranks,
        minProc=settings.least,
        epochs=settings.epochs,
        batchSize=BATCH,
        seed=settings.seed,
        checkpointDir=settings.checkpoints or str(here / "checkpoints"),
        checkpointSteps=10,
        keepCheckpoints=3,
        stallTimeout=settings.stall,
        logDir=str(here / "logs"),
        callbacks=[Late(settings)],
        verbose=False,
    )
    try:
        history = net.fit(spark.read.parquet(str(here.parent / "digits.parquet"))).history
    except SparkmlError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        sys.exit(error.exit_code)
    wanted = ("digest", "resumed", "restarts", "checkpoints_failed")
    print(json.dumps({**{name: history[name] for name in wanted}, "epochs": len(history["epochs"])}), flush=True)


def as_argument(settings: Settings) -> str:
    """Return what `main` reads."""
    return json.dumps(asdict(settings))


if __name__ == "__main__":
    main()
