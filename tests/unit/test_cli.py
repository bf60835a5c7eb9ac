"""The command line's wrong usage: message, advice and exit code, before any JVM starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparkml import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARKML_CONF_DIR", str(ROOT / "conf"))


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sparkml", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "digist"], "did you mean 'digits'"),
        (["run", "digits", "--env", "yran"], "--env 'yran'"),
        (["run", "digits", "--from", "trian"], "did you mean 'train'"),
        (["run", "digits", "--from", "score", "--to", "train"], "comes after"),
        (["run", "digits", "--only", "train", "--to", "score"], "--only stands alone"),
        (["run", "digits", "--date", "2026-11-20"], "nothing that it reads has {date}"),
        (["train", "logs", "--data", "raw/dt={date}"], "reads one partition per date (raw/dt={date}) and was given no date"),
        (["run", "logs", "--data", "raw/{date:%d.%B}", "--date", "today"], "is no format of a date"),
        (["run", "digits", "--date", "2026-02-30"], "--date '2026-02-30' is no date"),
        (["run", "digits", "--from-date", "2026-11-20", "--to-date", "2026-11-01"], "comes after --to-date"),
        (["run", "digits", "--set", "epochs"], "key.path=value"),
        (["run", "digits", "--set", "train.candidates.net.epochz=3"], "did you mean 'epochs'"),
        (["run", "digits", "--set", "train.candidates.net.epochs=many"], "valid integer"),
        (["run", "digits", "--set", "train.candidates.forest.params.numTree=3"], "did you mean 'numTrees'"),
        (["run", "digits", "--set", "train.candidates.forest.algorithm=RandomForst"], "did you mean 'RandomForest"),
        (["run", "digits", "--set", "source.type=sklaern"], "did you mean 'sklearn'"),
        (["run", "digits", "--set", "pipeline=../x"], "not allowed"),
        (["run", "digits", "--set", "train.candidates=null"], "train.candidates = None"),
        (["run", "digits", "--set", "evaluate.slices=[colour]"], "features.keep"),
        (["run", "digits", "--set", "register.metric=rmse"], "not among the metrics that are evaluated"),
        (["run", "digits", "--set", "register.gates=[{metric: accuracyy, min: 0.9}]"], "did you mean 'accuracy'"),
        (["run", "digits", "--resume", "nothing"], "no run 'nothing'"),
        (["train", "digits", "--resume", "nothing"], "no run 'nothing'"),
        (["score", "digits@champion", "in.csv"], "INPUT"),
        (["score", "digits@champion", "in.csv", "out"], "no model 'digits'"),
        (["models", "nothing"], "no model 'nothing'"),
        (["lineage", "a/b"], "neither an artifact nor an output"),
        (["report", "nothing"], "no run 'nothing'"),
        (["frobnicate"], "No such command"),
        (["run"], "Missing argument"),
    ],
)
def test_wrong_usage_says_what_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    code, out, err = run(monkeypatch, capsys, *words)
    assert expected in err
    assert code == 2
    assert out == ""


def test_json_stays_one_document_when_it_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, "run", "digist", "--json")
    document = json.loads(out)
    assert (document["exit_code"], document["status"], code) == (2, "failed", 2)


def test_config_show_names_the_origin_of_every_value(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(monkeypatch, capsys, "config", "show", "digits", "--env", "local", "--set", "seed=3")
    lines = dict(line.split("  # ") for line in (" ".join(line.split(" ")) for line in out.splitlines()))
    origins = {key.partition(":")[0].strip(): value for key, value in lines.items()}
    assert origins["seed"] == "--set"
    assert origins["source.dataset"].endswith("pipelines/digits.yaml:7")
    assert "env/local.yaml" in origins["spark.master"]
    assert "base.yaml" in origins["store"]


def test_a_secret_reference_is_shown_as_a_reference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KEY", "the-value")
    setting = "spark.conf={spark.hadoop.fs.s3a.secret.key: '${env:KEY}'}"
    _, out, err = run(monkeypatch, capsys, "config", "show", "digits", "--set", setting)
    assert "${env:KEY}" in out
    assert "the-value" not in out + err


def test_help_and_import_start_nothing_heavy() -> None:
    code = (
        "import sys, sparkml, sparkml.cli, sparkml.settings; "
        "heavy = {'pyspark', 'tensorflow', 'keras', 'horovod', 'matplotlib', 'sklearn'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_job_is_a_thin_entry_point() -> None:
    for job in (ROOT / "jobs").glob("*.py"):
        assert len(job.read_text().splitlines()) <= 20
        done = subprocess.run(
            [sys.executable, str(job), "--help"], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
