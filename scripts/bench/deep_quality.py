"""Fashion-MNIST on two ranks: test accuracy over three seeds, seconds, and one rank with the same global batch beside them.

    python scripts/bench/deep_quality.py [--quick] [--json FILE]

Trained on the 60,000 published training images alone, by `KerasClassifier` in ``local[2]`` and the recipe below. The last epoch's
weights count: the test images are looked at once, by `transform` after the fit. ``--quick`` trains a tenth for one epoch with one
seed and judges nothing. The data are looked for in ../shared/data, or where SPARKML_SHARED_DATA says.
"""

from __future__ import annotations

import gzip
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import ROOT, Bench

RANKS = 2
SEEDS = (1, 2, 3)
NET = {"type": "cnn", "filters": [64, 128], "dense": 256, "dropout": 0.4}  # of the zoo, behind a random flip: see `flipped`
GLOBAL_BATCH = 128
RECIPE = {
    "epochs": 20,
    "optimizer": "adam",
    "learningRate": 1e-3,
    "schedule": "cosine",
    "warmupEpochs": 0.5,
    "labelSmoothing": 0.05,
}
IMAGE, CLASSES = (28, 28, 1), 10


def flipped(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    """Return the zoo's net behind a layer that mirrors half of the images, in training alone."""
    import keras

    from sparkml.learners.inputs import Input, Target
    from sparkml.learners.source import source_of

    net = source_of(NET).make((Input("features", shape),), (Target("label", task, outputs),))
    return keras.Sequential([keras.Input(shape), keras.layers.RandomFlip("horizontal"), net])


@dataclass(frozen=True)
class Run:
    """One training. `outside` is the share of the ranks' time outside of compiled steps; all shares are medians over epochs."""

    ranks: int
    seed: int
    accuracy: float
    seconds: float
    outside: float
    data: float
    wait: float


def main() -> int:
    bench = Bench(__doc__.splitlines()[0])
    data = Path(os.environ.get("SPARKML_SHARED_DATA", ROOT.parent / "shared" / "data"), "fashion-mnist")
    if not data.is_dir():
        sys.exit(f"deep_quality.py: the images are not in {data}; see README, 'Data'")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # of Spark's workers
    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as folder:
        for part in ("train", "t10k"):
            _write(data, part, f"{folder}/{part}", 6_000 if bench.quick else None)
        spark = _session(folder)
        print(f"{'ranks':>5}{'seed':>6}{'accuracy':>10}{'seconds':>9}{'outside steps':>15}{'data':>8}{'wait':>8}", flush=True)
        runs = [_run(spark, folder, RANKS, seed, bench.quick) for seed in SEEDS[: 1 if bench.quick else None]]
        alone = _run(spark, folder, 1, SEEDS[0], bench.quick)
        spark.stop()
    judged = not bench.quick
    mean = statistics.mean(run.accuracy for run in runs)
    apart = 100 * abs(runs[0].accuracy - alone.accuracy)
    bench.add("quality: accuracy of 2 ranks, mean of the seeds", mean, "", at_least=0.925 if judged else None)
    bench.add("quality: 2 ranks and 1 rank apart", apart, "points", at_most=0.5 if judged else None)
    bench.add("quality: a run of 2 ranks", statistics.median(run.seconds for run in runs), "s")
    bench.add("quality: a run of 1 rank, 2 threads", alone.seconds, "s")
    bench.add("quality: time outside compiled steps", 100 * statistics.median(run.outside for run in runs), "%")
    return bench.finish()


def _run(spark: Any, folder: str, ranks: int, seed: int, quick: bool) -> Run:
    from pyspark.sql import functions as F

    from sparkml.estimators.keras import KerasClassifier

    net = KerasClassifier(
        model=flipped,
        inputShape=list(IMAGE),
        numClasses=CLASSES,
        numProc=ranks,
        batchSize=GLOBAL_BATCH // ranks,
        seed=seed,
        checkpointDir=f"{folder}/fit",  # the second run finds the shards of the first; checkpoints are by settings and seed
        verbose=False,
        **{**RECIPE, "epochs": 1 if quick else RECIPE["epochs"]},
    )
    began = time.monotonic()
    model = net.fit(spark.read.parquet(f"{folder}/train"))
    seconds = time.monotonic() - began
    scored = model.transform(spark.read.parquet(f"{folder}/t10k"))
    accuracy = scored.agg(F.avg((F.col("prediction") == F.col("label")).cast("double"))).first()[0]
    share = {
        name: statistics.median(epoch[f"{name}_share"] for epoch in model.history["epochs"]) for name in ("step", "data", "wait")
    }
    run = Run(ranks, seed, accuracy, seconds, 1 - share["step"], share["data"], share["wait"])
    shares = f"{run.outside:>15.1%}{run.data:>8.1%}{run.wait:>8.1%}"
    print(f"{ranks:>5}{seed:>6}{accuracy:>10.4f}{seconds:>9.1f}{shares}", flush=True)
    return run


def _write(data: Path, part: str, folder: str, rows: int | None) -> None:
    """Write the first `rows` images of a part as Parquet, pixels from 0 to 1."""
    size = IMAGE[0] * IMAGE[1]
    pixels = np.frombuffer(gzip.decompress((data / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((data / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)[:rows]
    values = pixels[: len(labels) * size].astype(np.float32) / np.float32(255)
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, size, dtype=np.int32)), pa.array(values))
    os.makedirs(folder)
    table = pa.table({"features": lists, "label": labels.astype(np.float64)})
    pq.write_table(table, f"{folder}/images.parquet", use_dictionary=False, row_group_size=5_000)


def _session(folder: str) -> Any:
    from sparkml.spark_session import session

    conf = {"spark.driver.memory": "3g", "spark.ui.enabled": "false", "spark.local.dir": folder}
    return session(f"local[{RANKS}]", app_name="sparkml-bench", conf=conf, jvm_log=Path(folder, "jvm.log"))


if __name__ == "__main__":
    sys.exit(main())
