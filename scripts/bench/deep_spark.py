"""The rows of deep.py that need Spark: how soon a fit takes its first step, scoring, and memory.

- ``submit``: a fresh process that starts a session and fits, to the report of its first step, with shards that are there,
  against a fresh process that starts a bare SparkSession and imports TensorFlow and Horovod; the same two with and without the
  archive of Spark's classes (``sparkml warm``). Beside them a ``fit`` in a session that is there.
- ``transform``: `KerasModel.transform` of a cached DataFrame to the noop sink on two cores against ``model.predict`` on arrays
  with two threads, and against a Python UDF that calls the model row by row.
- ``memory``: the driver's peak (measured as driver_memory.py does) and the ranks' at two sizes of shards, one ten times the
  other. At full size the ranks' shuffle buffers are full with both, so that a rank's peak may hardly differ. Both train for as
  many steps: in the first 2,000 or so a rank's peak grows by some 50 MB, whatever the data, while the heap finds its size.

Run as a script, it is the driver that ``submit`` and ``memory`` measure.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.deep_ranks import BATCH, IMAGE, image_batches, lanes, predict
from scripts.bench.driver_memory import HEAP_MB, MB, Peak, measure
from scripts.bench.harness import Bench, adopt_orphans
from sparkml import class_archive

RANKS = 2
PREDICT_ROWS = 512  # rows per call of keras.predict: as many as our transform takes; its default, 32, is slower
WIDTH, GROUP_ROWS = 250, 1 << 16  # of `memory`: 1,000 bytes a row
SHUFFLE_BYTES = 32 << 20
BARE = """
import sys, time
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
spark.range(1).count()
import tensorflow, horovod.tensorflow
print(time.monotonic(), flush=True)
spark.stop()
"""
ARCHIVE = """
import os
from sparkml import class_archive
os.environ["SPARK_SUBMIT_OPTS"] = f"-XX:SharedArchiveFile={class_archive.found()}"
"""


def submit(bench: Bench, folder: str) -> None:
    if class_archive.found() is None:
        raise SystemExit("this measures the archive of Spark's classes, and there is none: sparkml warm")
    rows = BATCH * RANKS * (10 if bench.quick else 50)
    _write_images(f"{folder}/raw", rows)
    spark = _session(folder)
    seeds = itertools.count()  # each its own training: a finished one would not be done again

    def warm() -> float:
        began = time.monotonic()
        return _fit_images(spark, folder, next(seeds)) - began

    fit = [__file__, "submit", folder]
    without = f"-XX:SharedArchiveFile={class_archive.java().parents[1]}/lib/server/classes.jsa"  # Java's own, that it always has
    sides = {
        "bare session and imports": lambda: _fresh(["-c", BARE]),
        "session and fit, to its first step": lambda: _fresh([*fit, str(next(seeds))]),
        "bare, with the class archive": lambda: _fresh(["-c", ARCHIVE + BARE]),
        "session and fit, without it": lambda: _fresh([*fit, str(next(seeds))], SPARK_SUBMIT_OPTS=without),
        "fit in a session that is there, likewise": warm,
    }
    bare, fresh, bare_archive, fresh_without, ready = (side.wall_median for side in bench.compare(sides).values())
    spark.stop()
    bench.add("deep: bare session, TensorFlow, Horovod", bare, "s")
    bench.add("deep: submit to the first step", fresh, "s")
    bench.add("deep: submit to the first step - bare", fresh - bare, "s", at_most=3)
    bench.add("deep: likewise, both with the class archive", fresh - bare_archive, "s")
    bench.add("deep: likewise, both without", fresh_without - bare, "s")
    bench.add("deep: fit to the first step, warm session", ready, "s")


def _fresh(arguments: list[str], **environment: str) -> float:
    """Run Python and return the seconds until the moment that it prints."""
    adopt_orphans()
    before, began = set(psutil.Process().children()), time.monotonic()
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=True)
    for orphan in set(psutil.Process().children()) - before:  # its JVM outlives it by some tenths of a second
        orphan.wait()
    return float(done.stdout.split()[-1]) - began


def _fit_images(spark: Any, folder: str, seed: int) -> float:
    """Fit, and return when the driver heard of the first step."""
    reports: list[float] = []
    frame = spark.read.parquet(f"{folder}/raw")
    told = {"on_report": lambda _: reports.append(time.monotonic())}
    _classifier(seed=seed, checkpointDir=f"{folder}/fit", **told).fit(frame)
    return reports[0]


def transform(bench: Bench, folder: str) -> None:
    rows, slow_rows = (7_000, 200) if bench.quick else (70_000, 1_000)
    _write_images(f"{folder}/raw", rows)
    spark = _session(folder)
    frame = spark.read.parquet(f"{folder}/raw").cache()
    few = frame.where(f"id < {slow_rows}").repartition(RANKS).cache()
    model = _classifier(checkpointDir=f"{folder}/fit").fit(few)
    frame.count(), few.count()

    def all_rows() -> None:
        _to_nowhere(model.transform(frame))

    def by_row() -> None:
        call = functools.partial(one_row, model.body)
        _to_nowhere(few.withColumn("probability", _udf(call)("features")))

    cores = set(sorted(os.sched_getaffinity(0))[:RANKS])
    with lanes(plain=(functools.partial(predict, body=model.body, rows=rows, batch=PREDICT_ROWS), 1, cores)) as lane:
        sides = {"transform": all_rows, "keras.predict, 2 threads": lane["plain"].turn, f"UDF by row, {slow_rows:,} rows": by_row}
        mine, plain, slow = bench.compare(sides).values()
    spark.stop()
    bench.add("deep: transform", rows / mine.wall_median, "rows/s")
    bench.add("deep: keras.predict", rows / plain.wall_median, "rows/s")
    bench.add("deep: UDF by row", slow_rows / slow.wall_median, "rows/s")
    bench.add("deep: transform / keras.predict", plain.wall_median / mine.wall_median, "x", at_least=0.8)
    ratio = rows / mine.wall_median / (slow_rows / slow.wall_median)
    bench.add("deep: transform / UDF by row", ratio, "x", at_least=20)


def _udf(call: Any) -> Any:
    from pyspark.sql import functions as F

    return F.udf(lambda features: call(features), "array<float>")


def one_row(body: bytes, features: list[float]) -> list[float]:
    """Predict one row by a call of the model, which is faster than its ``predict``."""
    net = _loaded(body)
    return [float(value) for value in np.asarray(net(np.asarray(features, np.float32).reshape(1, *IMAGE), training=False))[0]]


@functools.lru_cache(1)
def _loaded(body: bytes) -> Any:
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")  # there is a worker per core
    from sparkml.learners import keras_file

    return keras_file.load(body, "the model")


def memory(bench: Bench, folder: str) -> None:
    sizes = (10_000, 100_000) if bench.quick else (100_000, 1_000_000)
    heads = f"{'Python MB':>11}{'JVM MB':>9}{'live heap MB':>14}{'needed MB':>11}{'rank MB':>9}"
    print(f"{'MB of shards':>12}{'seconds':>9}{heads}", flush=True)
    found: list[tuple[Peak, float]] = []
    for rows in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            _write_wide(f"{place}/raw", rows)
            with _RankPeak() as ranks:
                epochs = 2 * max(sizes) // rows
                peak = measure([sys.executable, __file__, "memory", place, str(epochs)], Path(place, "gc.log"))
        found.append((peak, ranks.mb))
        sides = f"{peak.python:>11.0f}{peak.jvm:>9.0f}{peak.heap:>14.0f}{peak.needed:>11.0f}{ranks.mb:>9.0f}"
        print(f"{rows * WIDTH * 4 / 1e6:>12,.0f}{peak.seconds:>9.1f}{sides}", flush=True)
    (small, small_rank), (large, large_rank) = found
    bench.add("deep: driver's peak RSS, ten times the shards", large.rss - small.rss, "MB more", at_most=50)
    bench.add("deep: driver's needed memory, likewise", large.needed - small.needed, "MB more", at_most=50)
    bench.add("deep: a rank's peak RSS, the larger set", large_rank, "MB")
    bench.add(
        "deep: a rank's peak RSS, likewise",
        large_rank - small_rank,
        "MB more",
        at_most=None if bench.quick else SHUFFLE_BYTES / MB,
    )


class _RankPeak:
    """The largest resident size that any rank below this process reached while the block ran, from the kernel's own mark."""

    def __enter__(self) -> _RankPeak:
        self.mb, self._over = 0.0, threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _sample(self) -> None:
        while not self._over.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "sparkml.launch.child" in process.cmdline():
                        status = Path(f"/proc/{process.pid}/status").read_text()
                        self.mb = max(self.mb, int(status.partition("VmHWM:")[2].split()[0]) / 1024)
                except (psutil.Error, OSError, IndexError):
                    continue  # it has just ended


def _write_images(folder: str, rows: int) -> None:
    os.makedirs(folder)
    for number, batch in enumerate(image_batches(rows, at_once=-(-rows // 4))):
        pq.write_table(pa.Table.from_batches([batch]), f"{folder}/part-{number}.parquet", use_dictionary=False)


def _write_wide(folder: str, rows: int) -> None:
    """Write the numbers that become shards of 1,000 bytes a row."""
    os.makedirs(folder)
    random, at_once = np.random.default_rng(7), rows // 10
    for number in range(10):
        values = pa.array(random.random(at_once * WIDTH, dtype=np.float32))
        offsets = pa.array(np.arange(0, (at_once + 1) * WIDTH, WIDTH, dtype=np.int32))
        columns = {"features": pa.ListArray.from_arrays(offsets, values), "label": pa.array(random.random(at_once))}
        pq.write_table(pa.table(columns), f"{folder}/part-{number}.parquet", use_dictionary=False, row_group_size=10_000)


def _to_nowhere(frame: Any) -> None:
    frame.write.format("noop").mode("overwrite").save()


def _classifier(**more: Any) -> Any:
    from sparkml.estimators.keras import KerasClassifier

    return KerasClassifier(
        model="cnn", inputShape=list(IMAGE), numClasses=10, numProc=RANKS, epochs=1, batchSize=BATCH, verbose=False, **more
    )


def _session(folder: str, master: str = f"local[{RANKS}]", **conf: str) -> Any:
    from sparkml.spark_session import session

    quiet = {"spark.ui.enabled": "false", "spark.local.dir": folder, "spark.sql.shuffle.partitions": "8"}
    log = Path(folder, "jvm.log")
    return session(master, app_name="sparkml-bench", conf={"spark.driver.memory": "3g", **quiet, **conf}, jvm_log=log)


def _fit_wide(folder: str, epochs: int) -> None:
    from sparkml.estimators.keras import KerasRegressor

    java = f"-Xms{HEAP_MB}m -XX:+AlwaysPreTouch -Xlog:gc:file={folder}/gc.log"
    conf = {"spark.driver.memory": f"{HEAP_MB}m", "spark.driver.extraJavaOptions": java}
    conf["spark.executorEnv.PYTHONPATH"] = os.environ["PYTHONPATH"]
    spark = _session(folder, "local-cluster[2,1,1024]", **conf)
    net = {"type": "mlp", "hidden": [16]}
    KerasRegressor(
        model=net,
        numProc=RANKS,
        epochs=epochs,
        batchSize=1024,
        shuffleBytes=SHUFFLE_BYTES,
        checkpointDir=f"{folder}/fit",
        verbose=False,
    ).fit(spark.read.parquet(f"{folder}/raw"))
    spark.stop()


if __name__ == "__main__":
    what, place, number = sys.argv[1:]
    if what == "memory":
        _fit_wide(place, int(number))
    else:
        print(_fit_images(_session(place), place, int(number)), flush=True)
