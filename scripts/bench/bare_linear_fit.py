"""One fit as a job of its own, for linear.py: ``bare_linear_fit.py URL logistic|linear TOL``; prints the outcome as JSON."""

from __future__ import annotations

import json
import sys
import time

import sparkml
from sparkml.estimators import LinearRegression, LogisticRegression


def main() -> int:
    url, kind, tolerance = sys.argv[1:]
    spark = sparkml.session("local[2]")
    began = time.perf_counter()
    rows = spark.read.parquet(url)
    shared = {"featuresCol": "x", "tol": float(tolerance), "verbose": False}
    if kind == "logistic":
        model = LogisticRegression(labelCol="label", family="binomial", **shared).fit(rows)
    else:
        model = LinearRegression(labelCol="value", **shared).fit(rows)
    found = {
        "kind": kind,
        "seconds of fit": round(time.perf_counter() - began, 2),
        "passes": model.history["passes"],
        "error": model.history["error"],
        "w": [*model.coefficients, model.intercept],
    }
    spark.stop()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
