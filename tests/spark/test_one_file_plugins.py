"""The plugins of docs/how-to/add-a-plugin.md: each is one file added to a copy of the package, and works everywhere at once."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "how-to" / "add-a-plugin.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
PIPELINE = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
SUITES = {"ingest": "test_sources", "estimators": "test_trainers", "evaluate": "test_metrics"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its tests with the page's files added."""
    folder = tmp_path_factory.mktemp("copy")
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("sparkml", "tests", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, text in FILES.items():
        assert not (folder / path).exists()
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def run(copy: Path, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy), "SPARKML_CONF_DIR": str(copy / "conf")}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd or copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def differences(compared: filecmp.dircmp[str], below: str = "") -> list[str]:
    found = [f"{below}{name}" for name in [*compared.right_only, *compared.diff_files] if name != "__pycache__"]
    for name, deeper in compared.subdirs.items():
        found += differences(deeper, f"{below}{name}/")
    return found


def test_one_file_each_and_nothing_else_differs(copy: Path) -> None:
    assert len(FILES) == 3
    assert sorted(f"sparkml/{path}" for path in differences(filecmp.dircmp(ROOT / "sparkml", copy / "sparkml"))) == sorted(FILES)


def test_the_contract_suites_take_them_up(copy: Path) -> None:
    suites = [f"tests/contracts/{name}.py" for name in SUITES.values()]
    chosen = " or ".join(Path(path).stem for path in FILES)
    done = run(copy, "pytest", "-q", "-rA", "-p", "no:cacheprovider", *suites, "-k", chosen)
    for path in FILES:
        assert re.search(rf"PASSED tests/contracts/{SUITES[path.split('/')[1]]}\.py::\S*{Path(path).stem}", done.stdout), (
            done.stdout
        )


def test_a_pipeline_of_the_three_runs(copy: Path, tmp_path: Path) -> None:
    import pandas as pd
    from sklearn.datasets import load_iris
    from sklearn.metrics import balanced_accuracy_score

    data = load_iris()
    lines = [
        json.dumps({"id": n, "sepal": float(row[0]), "petal": float(row[2]), "species": str(data.target_names[data.target[n]])})
        for n, row in enumerate(data.data)
    ]
    (tmp_path / "flowers.jsonl").write_text("\n".join([*lines, '{"id": "not a number"']) + "\n")
    (tmp_path / "flowers.yaml").write_text(PIPELINE)
    words = ("sparkml.cli", "run", "flowers.yaml", "--env", "local", "--set", f"store={tmp_path / 'store'}", "--json")
    record = json.loads(run(copy, *words, cwd=tmp_path).stdout)
    assert record["status"] == "done"
    stages = {stage["stage"]: stage for stage in record["stages"]}
    assert stages["contract"]["rows"] == 150
    predictions = pd.read_parquet(stages["evaluate.machines"]["artifact"].removeprefix("file://") + "/predictions")
    wanted = balanced_accuracy_score(predictions["label"], predictions["prediction"])
    assert record["result"]["candidates"]["machines"]["balanced_accuracy"]["value"] == pytest.approx(wanted, abs=1e-12)
    assert wanted > 0.6
