"""Partitioned daily input through the real command line: one date, a range, a late file, two schedulers at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparkml.ingest.weblog.generate import Generate, generate
from sparkml.registry.registry import Registry
from tests.spark.tiny import Tiny, people

LOGS = """
source: {{type: web_logs, path: "{data}/dt={{date}}"}}
target: {{column: label, task: classification}}
features: {{stages: [{{type: assembler, inputs: [requests], output: features}}]}}
train: {{candidates: {{linear: {{trainer: mllib, algorithm: LogisticRegression}}}}}}
"""


@pytest.fixture
def daily(tiny: Tiny) -> Tiny:
    """The tiny pipeline, reading a folder per date."""
    tiny.yaml.write_text(tiny.yaml.read_text().replace(f"[{tiny.csv}]", f'"{tiny.csv.parent}/dt={{date}}"'))
    return tiny


def put(tiny: Tiny, day: int, text: str, name: str = "a.csv") -> None:
    folder = tiny.csv.parent / f"dt=2026-11-{day:02}"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def backfill(tiny: Tiny, first: int, last: int, *words: str, code: int = 0) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """Run a range; return the status by day, and the rows."""
    days = ["--from-date", f"2026-11-{first:02}", "--to-date", f"2026-11-{last:02}"]
    found = tiny.json("run", str(tiny.yaml), *days, *words, code=code)
    assert found["exit_code"] == code
    return {int(row["date"][-2:]): row["status"] for row in found["dates"]}, found["dates"]


def test_dates_are_done_once_and_a_late_file_redoes_its_own(daily: Tiny) -> None:
    registry = Registry(daily.store)
    for day in (1, 2):
        put(daily, day, people(600, seed=day))
    statuses, rows = backfill(daily, 1, 2)
    assert statuses == {1: "done", 2: "done"}
    records = [daily.store.read_json(f"runs/{row['run_id']}/run.json") for row in rows]
    assert [record["date"] for record in records] == ["2026-11-01", "2026-11-02"]
    plans = {record["stages"][0]["plan"].count("== Physical Plan ==") for record in records}
    assert len(plans) == 1 and 0 not in plans, "each date's record has the plans of its own"
    logs = [daily.store.exists(f"runs/{record['run_id']}/logs/spark.log") for record in records]
    assert all(logs), "what the one JVM printed is kept with every date"

    # a later champion does not reopen a finished date; a missing one is passed over; no JVM, no version, no report
    registry.set_alias("tiny", "champion", max(registry.versions("tiny")), run_id="by hand", when="now", reason="a test")
    models, reports = daily.store.files("models"), [record["report"] for record in records]
    out, err = daily.run("run", str(daily.yaml), "--from-date", "2026-11-01", "--to-date", "2026-11-03", "--skip-missing")
    assert ("Spark" in err, out.count("unchanged"), out.count("missing")) == (False, 2, 1)
    assert daily.store.files("models") == models
    assert sorted(run["report"] for run in daily.json("runs") if run["report"]) == sorted(reports)
    plan = daily.json("run", str(daily.yaml), "--date", "2026-11-01", "--dry-run")["result"]["plan"]
    assert {item["action"] for item in plan} == {"up to date"}

    # without leave, the missing date ends the backfill with its path
    statuses, rows = backfill(daily, 3, 4, code=3)
    assert statuses == {3: "missing"}
    assert "dt=2026-11-03 does not exist" in rows[0]["result"]

    # a late file makes exactly its date stale
    put(daily, 1, "id,age,height,city,label\n9001,44,170,a,yes\n", "late.csv")
    statuses, rows = backfill(daily, 1, 2)
    assert statuses == {1: "done", 2: "unchanged"}
    late = daily.store.read_json(f"runs/{rows[0]['run_id']}/run.json")
    assert late["stages"][0]["rows"] == 601
    assert {Path(file["path"]).name for file in late["stages"][0]["inputs"][0]["files"]} == {"a.csv", "late.csv"}
    assert "2026-11-01" in daily.run("runs")[0]


def test_two_schedulers_and_a_date_that_fails(daily: Tiny) -> None:
    for day in (1, 2, 4):
        put(daily, day, people(200))
    put(daily, 3, "")
    until = ("--to", "ingest")
    first = daily.start("run", str(daily.yaml), "--date", "2026-11-01", *until)
    assert first.stderr is not None
    run_id = next(line for line in first.stderr if "] run " in line).split("] run ")[1].split()[0]
    next(line for line in first.stderr if "ingest ..." in line)
    _, err = daily.run("run", str(daily.yaml), "--date", "2026-11-01", *until, code=8)
    assert f"pipeline 'tiny' of 2026-11-01 is already running: run {run_id}, pid {first.pid}" in err
    assert len(daily.json("runs")) == 1, "the second left nothing behind"
    beside = daily.json("run", str(daily.yaml), "--date", "2026-11-02", *until)  # another date may run meanwhile
    first.communicate()
    assert first.returncode == 0
    assert daily.store.list("_leases") == daily.store.list("_staging") == []
    assert beside["stages"][0]["fingerprint"] not in daily.store.read(f"runs/{run_id}/run.json").decode(), (
        "equal files, two dates"
    )

    assert backfill(daily, 1, 4, *until, code=3)[0] == {1: "unchanged", 2: "unchanged", 3: "failed"}
    statuses, rows = backfill(daily, 1, 5, "--keep-going", "--skip-missing", *until, code=3)
    assert statuses == {1: "unchanged", 2: "unchanged", 3: "failed", 4: "done", 5: "missing"}
    assert "dt=2026-11-03/a.csv is empty" in rows[2]["result"]
    failed = next(run for run in daily.json("runs") if run["status"] == "failed")
    assert f"--date 2026-11-03 --resume {failed['run_id']}" in failed["result"]
    assert "--from-date" not in failed["result"]
    put(daily, 3, people(200))
    resumed = daily.json("run", str(daily.yaml), "--date", "2026-11-03", "--resume", failed["run_id"], *until)
    assert (resumed["run_id"], resumed["date"], resumed["status"]) == (failed["run_id"], "2026-11-03", "done")
    refused = daily.json("run", str(daily.yaml), "--date", "2026-11-02", "--resume", failed["run_id"], code=2)
    assert "that is a run of 2026-11-03" in refused["error"]


def test_no_checkpoint_is_left_by_a_date_that_succeeds_fails_or_is_killed(tiny: Tiny) -> None:
    tiny.yaml.write_text(LOGS.format(data=tiny.csv.parent))
    for day, malformed in ((1, 0.01), (2, 0.2), (3, 0.01)):
        generate(
            tiny.csv.parent / f"dt=2026-11-0{day}", Generate(lines=2000 if day < 3 else 200_000, sources=2, malformed=malformed)
        )
    until = ("--to", "ingest")
    assert backfill(tiny, 1, 2, *until, code=3)[0] == {1: "done", 2: "failed"}
    assert checkpoints(tiny) == tiny.store.list("_staging") == []

    killed = tiny.start("run", str(tiny.yaml), "--date", "2026-11-03", *until, start_new_session=True)
    children = []
    while not checkpoints(tiny):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.communicate()
    psutil.wait_procs(children, timeout=60)
    assert checkpoints(tiny), "this kill came too late to prove anything"
    (run,) = [run for run in tiny.json("runs") if run["status"] == "killed"]
    tiny.json("run", str(tiny.yaml), "--date", "2026-11-03", "--resume", run["run_id"], *until)
    assert checkpoints(tiny) == tiny.store.list("_staging") == tiny.store.list("_leases") == []


def checkpoints(tiny: Tiny) -> list[str]:
    return [path for path in tiny.store.files("") if "/rdd-" in path]
