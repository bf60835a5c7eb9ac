"""A secret that the settings refer to reaches Spark, and nothing that a run writes or prints."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import psutil
import pytest

from tests.spark.tiny import Tiny

CANARIES = {"CANARY_ENV": "c4n4ry-from-the-environment-1f9b", "CANARY_FILE": "c4n4ry-from-a-file-77ce"}


@pytest.fixture
def planted(tiny: Tiny) -> Tiny:
    """The pipeline with secrets under names that Spark's own redaction knows and does not know, and an event log."""
    (tiny.root / "key").write_text(CANARIES["CANARY_FILE"] + "\n")
    (tiny.root / "events").mkdir()
    tiny.environment["CANARY_ENV"] = CANARIES["CANARY_ENV"]
    tiny.yaml.write_text(
        tiny.yaml.read_text()
        + f"""
spark:
  conf:
    spark.eventLog.enabled: true
    spark.eventLog.compress: false
    spark.eventLog.dir: file://{tiny.root / "events"}
    spark.hadoop.fs.s3a.secret.key: "${{env:CANARY_ENV}}"
    spark.hadoop.vendor.api_key: "${{env:CANARY_ENV}}"
    spark.sparkml.test.credential: "${{file:{tiny.root / "key"}}}"
"""
    )
    return tiny


def holding_a_canary(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "key"]
    assert len(files) > 20
    return [str(path) for path in files if any(canary.encode() in path.read_bytes() for canary in CANARIES.values())]


def watched(tiny: Tiny, *words: str) -> tuple[str, str, set[str]]:
    """Run a command; return what it printed, and the command lines of all its processes: every user of a host can read those."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    seen.add(" ".join(process.cmdline()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        out, err = tiny.run(*words)
    finally:
        over.set()
        thread.join()
    return out, err, seen


def test_secrets_stay_out_of_everything_a_run_leaves(planted: Tiny) -> None:
    out, err, seen = watched(planted, "run", str(planted.yaml), "--verbose")
    assert len(seen) > 1 and any("java" in line for line in seen)  # Spark's JVM was among them
    assert not [line for line in seen for canary in CANARIES.values() if canary in line]
    shown = planted.run("config", "show", str(planted.yaml))[0]
    assert "${env:CANARY_ENV}" in shown
    for canary in CANARIES.values():
        assert canary not in out + err + shown
    log = "".join(path.read_text() for path in (planted.root / "events").rglob("*") if path.is_file())
    assert "spark.hadoop.fs.s3a.secret.key" in log  # Spark did get them: the log lists the keys, redacted
    assert "spark.hadoop.vendor.api_key" in log
    assert holding_a_canary(planted.root) == []


def test_secrets_stay_out_when_a_run_fails(planted: Tiny) -> None:
    planted.csv.write_text("id,age\n")
    out, err = planted.run("run", str(planted.yaml), "--verbose", code=3)
    assert not any(canary in out + err for canary in CANARIES.values())


def test_a_literal_secret_is_refused_and_not_repeated(tiny: Tiny) -> None:
    tiny.yaml.write_text(tiny.yaml.read_text() + "\nspark: {conf: {spark.hadoop.fs.s3a.secret.key: pl41n-t3xt}}\n")
    out, err = tiny.run("run", str(tiny.yaml), code=2)
    assert "a secret stands in the settings" in err
    assert "pl41n-t3xt" not in out + err
