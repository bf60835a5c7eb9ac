"""sparkml's LogisticRegression in a running session, on `spark.read.parquet` of its shards or of plain Parquet.

Tolerance and all other Params are the defaults. Reading is a part of the fit, as ranks read while they add up; plain Parquet's
columns, assembled by a VectorAssembler, are read in place.
"""

from __future__ import annotations

import sys
from typing import Any

from pyspark.ml.feature import VectorAssembler

import sparkml
from scripts.bench.peers.measured import Fitted, Turn, run
from sparkml.estimators import LogisticRegression


def read(turn: Turn) -> Any:
    frame = sparkml.session(f"local[{turn.threads}]").read.parquet(turn.rows)
    if turn.variant == "shards":
        return frame
    return VectorAssembler(inputCols=[name for name in frame.columns if name != "label"], outputCol="x").transform(frame)


def fit(frame: Any, turn: Turn) -> Fitted:
    estimator = LogisticRegression(featuresCol="x", family="binomial", verbose=False)
    if turn.limit:
        estimator.setParams(maxIter=turn.limit)
    model = estimator.fit(frame)
    return Fitted.linear(model.coefficients.toArray(), model.intercept, model.history["passes"])


if __name__ == "__main__":
    sys.exit(run("sparkml", read, fit, ["shards", "parquet"]))
