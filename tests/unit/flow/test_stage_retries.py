"""What storage had to try again stands in the record of the stage that waited for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tenacity import Retrying

from sparkml.flow.engine import Build, Engine, Selection
from sparkml.lineage.records import start_run
from sparkml.observe.progress import Board
from sparkml.storage import Store, retries


def test_a_stage_s_record_counts_its_retries_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    settings: Any = None  # no Spark is started
    engine = Engine(store, settings, start_run("p", None, {}, {}), Board(), Selection())
    failures = [ConnectionError()] * 2

    def build(work: Build) -> dict[str, Any]:
        def attempt() -> None:
            if failures:
                raise failures.pop()

        Retrying(**retries.policy("hdfs", lambda _: True, lambda: 9.0))(attempt)
        store.replace(f"{work.staging.path}/a", b"1")
        return {}

    for stage in ("ingest", "contract"):
        engine.artifact(stage, kind="table", settings={}, inputs=[], rooms=["score"], build=build)
    record = json.loads(store.read(f"runs/{engine.run.run_id}/run.json"))
    assert [stage["retries"] for stage in record["stages"]] == [{"hdfs": 2}, {}]
