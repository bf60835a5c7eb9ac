"""The same linear fit in local mode, on executors of its own, and on YARN: the same bits, from the same rows on HDFS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.devcluster.cluster import ROOT, Cluster

FIT = """
import json, sys
from sparkml import session
from sparkml.estimators import CrossValidator, LogisticRegression
from pyspark.ml.tuning import ParamGridBuilder

master, url, conf = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
spark = session(master, conf=conf)
rows = spark.read.parquet(url)
lr = LogisticRegression(featuresCol="x", labelCol="y", verbose=False)
model = lr.fit(rows)
grid = ParamGridBuilder().addGrid(lr.regParam, [0.001, 0.1]).build()
found = CrossValidator(estimator=lr, estimatorParamMaps=grid, numFolds=3).fit(rows)
told = {
    "coefficients": [value.hex() for value in model.coefficients.toArray().tolist()],
    "errors": model.summary.coefficientStandardErrors.tolist(),
    "folds": [value.hex() for value in found.avgMetrics],
    "application": spark.sparkContext.applicationId,
}
print(json.dumps(told))
spark.stop()
"""
WRITE = """
import sys
from tests.unit.learners.linear.test_job import publish, rows
print(publish(sys.argv[1], *rows(30_000)))
"""


def run(folder: Path, body: str, *words: str) -> Any:
    script = folder / "script.py"
    script.write_text(body)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.timeout(1200)
def test_the_same_bits_on_threads_executors_and_yarn(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.up(["hdfs", "yarn"])
    variables = cluster.environment() | {"SPARKML_DEVCLUSTER": cluster.state()["mark"]}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    url = run(tmp_path, WRITE, f"{variables['SPARKML_HDFS']}/linear")
    lines = (ROOT / "conf" / "spark" / "yarn.conf").read_text().splitlines()
    yarn = dict(line.split() for line in lines if line.startswith("spark."))
    yarn |= {"spark.pyspark.python": sys.executable, "spark.executorEnv.PYTHONPATH": str(ROOT)}
    # containers do not get our variables, and another kernel of BLAS rounds otherwise
    yarn |= {f"spark.executorEnv.{name}": value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
    apart = {"spark.executor.memory": "512m", "spark.executorEnv.PYTHONPATH": str(ROOT)}
    masters: dict[str, dict[str, str]] = {"local[2]": {}, "local-cluster[2,1,512]": apart, "yarn": yarn}
    told = {master: json.loads(run(tmp_path, FIT, master, url, json.dumps(conf))) for master, conf in masters.items()}
    assert told["yarn"].pop("application").startswith("application_")
    for master in ("local[2]", "local-cluster[2,1,512]"):
        told[master].pop("application")
        assert told[master] == told["yarn"], master
