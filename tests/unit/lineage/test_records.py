"""Fingerprints and run records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sparkml.errors import ConfigError, StorageError
from sparkml.lineage.fingerprint import code_fingerprint, fingerprint, function_fingerprint, is_function
from sparkml.lineage.openlineage import save_events
from sparkml.lineage.records import InputRef, StageRecord, all_runs, load_run, restart_run, save_run, start_run
from sparkml.storage import Store


def test_a_fingerprint_sees_every_value_and_the_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"a": 1, "b": [1, 2]})
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"b": 2, "a": 1})
    assert len({fingerprint(value) for value in ({"a": 1}, {"a": "1"}, {"a": 1.5}, {"a": None}, {"a": [1]}, {"b": 1})}) == 6


def test_the_code_fingerprint_is_of_the_named_rooms() -> None:
    assert code_fingerprint("storage", "registry") == code_fingerprint("registry", "storage")
    assert code_fingerprint("storage") != code_fingerprint("registry")


def test_the_fingerprint_of_a_function_sees_what_it_computes() -> None:
    def power(base: float, by: float = 2) -> float:
        return float(base**by)

    def of(factor: float, inner: Any = power) -> Any:
        return lambda x: factor * inner(x + 1)

    def cube(base: float, by: float = 3) -> float:
        return float(base**by)

    def warm(base: float, *, by: float = 2) -> float:
        return float(base**by)

    def warmer(by: float) -> Any:
        warm.__kwdefaults__ = {"by": by}
        return function_fingerprint(warm)

    assert function_fingerprint(of(2)) == function_fingerprint(of(2)) and warmer(2) != warmer(3)
    others = [of(2), of(3), of(2, cube), lambda x: x + 1, lambda x: x + 2, lambda x: x - 1, power, cube]
    others += [partial(power, by=4), partial(power, by=5), partial(cube, by=4)]
    assert all(is_function(function) for function in others) and not is_function(3)
    assert len({function_fingerprint(function) for function in others}) == len(others)


def test_the_fingerprint_of_a_function_is_the_same_in_every_process() -> None:
    script = (
        "from sparkml.lineage.fingerprint import *; print(function_fingerprint(lambda x, y={'a', 'b'}: x in {'p', 'q', 'r'}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1 and len(found.pop()) == 17


def test_a_run_record_survives_and_a_killed_one_is_seen(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run = start_run("p", "local", {"seed": 1}, {})
    save_run(store, run)
    assert load_run(store, run.run_id) == run
    assert run.shown_status() == "running"
    dead = run.model_copy(update={"pid": 2**22 + 1})
    assert dead.shown_status() == "killed"
    again = restart_run(dead)
    assert (again.run_id, again.attempts, again.shown_status()) == (run.run_id, 2, "running")


def test_unknown_and_torn_records(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    save_run(store, start_run("p", None, {}, {}))
    with pytest.raises(ConfigError, match="no run 'x'"):
        load_run(store, "x")
    store.replace("runs/torn/run.json", b'{"run_id": "to')
    with pytest.raises(StorageError, match="torn"):
        load_run(store, "torn")
    assert len(list(all_runs(store))) == 1


def test_openlineage_events_name_inputs_outputs_and_errors(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run = start_run("p", None, {}, {}, "2026-01-01")
    raw = InputRef(name="raw", url="/data/a.csv", fingerprint="f", files=[{"path": "/data/a.csv", "size": 1}])
    run.stages = [
        StageRecord(
            stage="ingest", status="ran", started="2026-01-01T00:00:00+00:00", seconds=1, artifact="s3a://b/x", inputs=[raw]
        ),
        StageRecord(stage="contract", status="failed", started="2026-01-01T00:00:00+00:00", seconds=1, error="too many bad rows"),
    ]
    save_events(store, run)
    events = [json.loads(line) for line in store.read(f"runs/{run.run_id}/openlineage.ndjson").splitlines()]
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        ("p.ingest", "START"),
        ("p.ingest", "COMPLETE"),
        ("p.contract", "START"),
        ("p.contract", "FAIL"),
    ]
    assert (events[1]["inputs"][0]["namespace"], events[1]["inputs"][0]["name"]) == ("file", "/data/a.csv")
    assert (events[1]["outputs"][0]["namespace"], events[1]["outputs"][0]["name"]) == ("s3a://b", "/x")
    assert events[0]["run"]["facets"]["nominalTime"]["nominalStartTime"] == "2026-01-01T00:00:00Z"
    assert events[3]["run"]["facets"]["errorMessage"]["message"] == "too many bad rows"
    assert events[0]["run"]["runId"] == events[1]["run"]["runId"] != events[2]["run"]["runId"]
