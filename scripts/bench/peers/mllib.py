"""MLlib's LogisticRegression: from Parquet through a VectorAssembler, or from the assembled frame in Spark's cache.

The frame lies in the cache before the clock starts, which ours never has: it is MLlib's best case.
Its heap is half of the machine's memory, so that neither cache nor blocks spill (Spark's default of 1 GiB would). All Params are
the defaults, the tolerance too: it brings coefficients closer than 1e-4 to the optimum, which linear_peers.py checks.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import SparkSession

from scripts.bench.peers.measured import Fitted, Turn, run

_HEAP_MB = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 >> 20


def read(turn: Turn) -> Any:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master(f"local[{turn.threads}]").config("spark.driver.memory", f"{_HEAP_MB}m")
    for key, value in {
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }.items():
        builder = builder.config(key, value)
    frame = builder.getOrCreate().read.parquet(turn.rows)
    assembler = VectorAssembler(inputCols=[name for name in frame.columns if name != "label"], outputCol="features")
    assembled = assembler.transform(frame).select("features", "label")
    if turn.variant == "cache":
        assembled = assembled.persist()
        assembled.count()
    return assembled


def fit(frame: Any, turn: Turn) -> Fitted:
    model = LogisticRegression(maxIter=turn.limit or 100).fit(frame)
    return Fitted.linear(model.coefficients.toArray(), model.intercept, model.summary.totalIterations)


if __name__ == "__main__":
    sys.exit(run("pyspark", read, fit, ["parquet", "cache"], held=["cache"]))
