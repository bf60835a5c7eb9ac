"""The jobs under a real spark-submit, with the package's wheel in --py-files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_pipeline_job_runs_from_the_wheel(tiny) -> None:  # type: ignore[no-untyped-def]
    dist = tiny.root / "dist"
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(ROOT)],
        check=True,
        capture_output=True,
    )
    wheel = next(dist.glob("sparkml-*.whl"))
    submit = Path(sys.executable).parent / "spark-submit"
    command = [
        str(submit),
        "--properties-file",
        str(ROOT / "conf/spark/local.conf"),
        "--master",
        "local[2]",
        "--py-files",
        str(wheel),
        str(ROOT / "jobs/pipeline.py"),
        str(tiny.yaml),
        "--set",
        f"store={tiny.root / 'store'}",
        "--json",
    ]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "XDG_STATE_HOME": str(tiny.root / "state")}
    environment.pop("SPARKML_CONF_DIR", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tiny.root, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads(done.stdout)
    assert record["status"] == "done"
    assert record["result"]["version"] == "tiny@1"


def test_a_wrong_setting_ends_spark_submit_with_exit_code_2(tiny) -> None:  # type: ignore[no-untyped-def]
    submit = Path(sys.executable).parent / "spark-submit"
    command = [str(submit), "--master", "local[1]", str(ROOT / "jobs/ingest.py"), str(tiny.yaml), "--set", "sourc.path=x"]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARKML_CONF_DIR": str(ROOT / "conf")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tiny.root, timeout=200, check=False)
    assert done.returncode == 2
    assert "did you mean 'source'" in done.stderr
