"""One fit as a job of its own, for linear_jobs.py: ``bare_linear_fit.py URL logistic|linear|search TOL``; prints JSON."""

from __future__ import annotations

import json
import sys
import time

from pyspark.ml.tuning import ParamGridBuilder

import sparkml
from sparkml.estimators import CrossValidator, LinearRegression, LogisticRegression

PENALTIES = [10.0**power for power in range(-10, 0)]


def main() -> int:
    url, kind, tolerance = sys.argv[1:]
    spark = sparkml.session("local[2]")
    began = time.perf_counter()
    rows = spark.read.parquet(url)
    shared = {"featuresCol": "x", "tol": float(tolerance), "verbose": False}
    if kind == "logistic":
        model = LogisticRegression(labelCol="label", family="binomial", **shared).fit(rows)
    elif kind == "search":
        estimator = LogisticRegression(labelCol="label", family="binomial", **shared)
        grid = ParamGridBuilder().addGrid(estimator.regParam, PENALTIES).build()
        model = CrossValidator(estimator=estimator, estimatorParamMaps=grid, numFolds=10).fit(rows).bestModel
    else:
        model = LinearRegression(labelCol="value", **shared).fit(rows)
    found = {
        "kind": kind,
        "seconds of fit": round(time.perf_counter() - began, 2),
        "passes": model.history["passes"],
        "error": model.history["error"],
        "w": [*model.coefficients, model.intercept],
    }
    if kind == "search":
        said = model.history["validation"]
        found["best"] = PENALTIES[said["best"]]
        found["largest bound of a fold's fit"] = max(error or float("inf") for several in said["errors"] for error in several)
    spark.stop()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
