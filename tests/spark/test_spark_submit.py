"""The jobs under a real spark-submit, with the package's wheel in --py-files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparkml.lineage.records import all_runs
from tests.spark.tiny import Tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(dist.glob("sparkml-*.whl"))


def submit(tiny: Tiny, wheel: Path, script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).parent / "spark-submit"),
        "--properties-file", str(ROOT / "conf/spark/local.conf"),
        "--master", "local[2]",
        "--py-files", str(wheel),
        str(script), *words,
    ]  # fmt: skip
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "XDG_STATE_HOME": str(tiny.root / "state")}
    environment.pop("SPARKML_CONF_DIR", None)  # the settings come with the wheel
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tiny.root, timeout=400, check=False)


def test_the_pipeline_job_runs_from_the_wheel(tiny: Tiny, wheel: Path) -> None:
    done = submit(tiny, wheel, ROOT / "jobs/pipeline.py", str(tiny.yaml), "--set", f"store={tiny.root / 'store'}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    run = next(all_runs(tiny.store))
    assert (run.status, run.result["version"]) == ("done", "tiny@1")
    assert {stage.status for stage in run.stages} == {"ran"}
    probe = tiny.root / "probe.py"
    probe.write_text("import sparkml.cli, sys\nsys.exit(0 if '.whl' in sparkml.cli.__file__ else 9)\n")
    assert submit(tiny, wheel, probe).returncode == 0, "the checkout was imported instead of the wheel"


def test_a_wrong_setting_ends_spark_submit_with_exit_code_2(tiny: Tiny, wheel: Path) -> None:
    done = submit(tiny, wheel, ROOT / "jobs/ingest.py", str(tiny.yaml), "--set", "sourc.path=x")
    assert done.returncode == 2
    assert "did you mean 'source'" in done.stdout + done.stderr
