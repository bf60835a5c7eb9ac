"""sparkml's LogisticRegression on `spark.read.parquet` of its shards, in a running session.

Tolerance and all other Params are the defaults; reading is a part of the fit, as ranks read while they add up.
"""

from __future__ import annotations

import sys
from typing import Any

import sparkml
from scripts.bench.peers.measured import Fitted, Turn, run
from sparkml.estimators import LogisticRegression


def read(turn: Turn) -> Any:
    return sparkml.session(f"local[{turn.threads}]").read.parquet(turn.rows)


def fit(frame: Any, turn: Turn) -> Fitted:
    estimator = LogisticRegression(featuresCol="x", family="binomial", verbose=False)
    if turn.limit:
        estimator.setParams(maxIter=turn.limit)
    model = estimator.fit(frame)
    return Fitted.linear(model.coefficients.toArray(), model.intercept, model.history["passes"])


if __name__ == "__main__":
    sys.exit(run("sparkml", read, fit))
