"""What dates share and what they do not: raw input, decisions that are kept, and the registration of one model."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparkml.config import load_layers, validate
from sparkml.errors import ConfigError, DataError, NoInputError, SparkmlError
from sparkml.flow import commands
from sparkml.flow.backfill import Backfill
from sparkml.flow.dates import Dates, parse_date, settings_of
from sparkml.flow.engine import Engine, Selection
from sparkml.flow.pipeline import Pipeline
from sparkml.flow.registration import Registration
from sparkml.lineage.records import start_run
from sparkml.registry.bundle import Bundle
from sparkml.registry.gates import Decision
from sparkml.registry.registry import ModelVersion
from sparkml.settings import Settings
from sparkml.storage import Store
from sparkml.storage.lease import lease

CLICKS = """
pipeline: clicks
source: {type: csv, path: "%s/dt={date}", columns: {id: bigint, label: string}}
target: {column: label, task: classification}
features: {stages: [{type: assembler, inputs: [id], output: features}]}
train: {candidates: {linear: {trainer: mllib, algorithm: LogisticRegression}}}
"""


class Lines:
    """A board that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def line(self, text: str) -> None:
        self.told.append(text)

    def skipped(self, name: str, reason: str) -> None:
        self.told.append(f"{name} skipped: {reason}")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for day in ("2026-11-01", "2026-11-02"):
        (tmp_path / "raw" / f"dt={day}").mkdir(parents=True)
        (tmp_path / "raw" / f"dt={day}" / "a.csv").write_text("1,a\n")
    return tmp_path / "raw"


def engine_of(raw: Path, day: str, *, force: bool = False) -> tuple[Engine, Settings]:
    file = raw.parent / "clicks.yaml"
    file.write_text(CLICKS % raw)
    settings = settings_of(validate(Settings, load_layers(file, None)), parse_date(day))
    run: Any = start_run("clicks", None, {}, {}, day)
    board: Any = Lines()
    return Engine(Store(str(raw.parent / "store")), settings, run, board, Selection(force=force)), settings


def test_equal_files_of_two_dates_are_two_inputs_and_a_late_file_changes_one(raw: Path) -> None:
    def mark(day: str) -> str:
        return Pipeline(*engine_of(raw, day)).raw_input().fingerprint

    before = {day: mark(day) for day in ("2026-11-01", "2026-11-02")}
    assert before["2026-11-01"] != before["2026-11-02"]
    (raw / "dt=2026-11-02" / "a.csv").touch()
    assert {day: mark(day) for day in before} == before
    (raw / "dt=2026-11-02" / "late.csv").write_text("2,b\n")
    assert mark("2026-11-01") == before["2026-11-01"]
    assert mark("2026-11-02") != before["2026-11-02"]


def test_an_unchanged_file_is_not_read_again_whatever_dates_ran_between(raw: Path) -> None:
    for day in ("2026-11-01", "2026-11-02"):
        Pipeline(*engine_of(raw, day)).raw_input()
    known = Store(str(raw.parent / "store"))
    at = "datasets/clicks/ingest/_files-2026-11-01.json"
    (path,) = known.read_json(at)
    known.replace(at, {path: {**known.read_json(at)[path], "sha256": "as it was"}})
    assert Pipeline(*engine_of(raw, "2026-11-01")).raw_input().files[0]["sha256"] == "as it was"


def test_a_missing_partition_is_named(raw: Path) -> None:
    with pytest.raises(NoInputError, match=r"no partition of 2026-11-09 yet: .*/raw/dt=2026-11-09 does not exist") as caught:
        Pipeline(*engine_of(raw, "2026-11-09")).raw_input()
    assert (caught.value.exit_code, "--skip-missing" in str(caught.value)) == (3, True)


def test_files_that_change_while_they_are_read_are_refused(raw: Path) -> None:
    pipeline = Pipeline(*engine_of(raw, "2026-11-01"))
    listed = pipeline.raw_input()
    pipeline._refuse_changed(listed)
    (raw / "dt=2026-11-01" / "late.csv").write_text("2,b\n")
    with pytest.raises(DataError, match=r"the input changed while it was read: .*/dt=2026-11-01/late\.csv"):
        pipeline._refuse_changed(listed)


def test_a_rejected_model_stays_rejected_for_its_date(raw: Path) -> None:
    winner: Any = SimpleNamespace(name="linear", model=SimpleNamespace(fingerprint="f"))
    decision = Decision("linear", "rejected", "worse")
    first, settings = engine_of(raw, "2026-11-01")
    Registration(first, settings)._remember(winner, decision, None)
    again, settings = engine_of(raw, "2026-11-01")
    assert Registration(again, settings)._finished(winner) == (decision, None)
    assert [(stage.stage, stage.status) for stage in again.run.stages] == [("register", "skipped")]
    other, settings = engine_of(raw, "2026-11-02")
    assert Registration(other, settings)._finished(winner) is None


def test_a_decision_whose_version_is_gone_is_made_again(raw: Path) -> None:
    winner: Any = SimpleNamespace(name="linear", model=SimpleNamespace(fingerprint="f"))
    engine, settings = engine_of(raw, "2026-11-01")
    registration, version = Registration(engine, settings), SimpleNamespace(version=7)
    registration._remember(winner, Decision("linear", "champion", "first"), version)  # type: ignore[arg-type]
    assert registration._finished(winner) is None


def test_a_later_champion_does_not_score_a_finished_date_again(raw: Path) -> None:
    winner: Any = SimpleNamespace(name="linear", model=SimpleNamespace(fingerprint="f"))
    good: Any = SimpleNamespace(fingerprint="rows")
    registry: Any = SimpleNamespace(versions=lambda _: [1, 2], get=lambda _, version: version, resolve=lambda _: 2)

    def registration(*, force: bool = False) -> Registration:
        made = Registration(*engine_of(raw, "2026-11-01", force=force))
        made.registry, made._winner = registry, lambda _: (winner, True)  # type: ignore[method-assign]
        return made

    assert registration().scorer(good, []) == 2, "the champion"
    registration().remember_scorer(good, [], SimpleNamespace(version=1))  # type: ignore[arg-type]
    assert registration().scorer(good, []) == 1
    assert registration(force=True).scorer(good, []) == 2
    assert registration().scorer(SimpleNamespace(fingerprint="with a late file"), []) == 2  # type: ignore[arg-type]


def test_the_second_of_two_registrations_waits_for_the_first(raw: Path) -> None:
    engine, settings = engine_of(raw, "2026-11-01")
    held, release, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with lease(engine.store, "_leases/register-clicks.json", {"run_id": "other"}, what="the registration of clicks"):
            held.set()
            release.wait(30)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait(30)
    engine.board.line = lambda text: (order.append(text), release.set())  # type: ignore[assignment, func-returns-value]
    with Registration(engine, settings)._alone():
        order.append("second")
    thread.join()
    assert order[0].startswith("register waits: the registration of clicks is already running: run other, pid")
    assert order[1:] == ["first", "second"]


def test_score_fills_inputs_output_and_what_the_model_derives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"type": "csv", "path": ["raw/dt={date}"], "derive": {"day": "date'{date}'"}}
    manifest: Any = SimpleNamespace(fingerprint="f")
    version = ModelVersion("clicks", 3, "models/clicks/3", manifest, Bundle.model_construct(pipeline="clicks", source=source))
    seen: list[Any] = []

    def score_files(_: Any, version: ModelVersion, inputs: list[str], output: str, **__: Any) -> tuple[Any, dict[str, Any]]:
        seen.extend([version.bundle.source["derive"], inputs, output])
        return manifest, {"good": 1, "bad": 0, "quarantine": ""}

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(commands, "Registry", lambda _: SimpleNamespace(resolve=lambda _: version))
    monkeypatch.setattr(commands, "score_files", score_files)
    given = ("clicks", ["raw/{date:%Y%m%d}"], "out/{date}", None, None, [], [f"store={tmp_path}"], False)
    found = commands.score_command(*given, "2026-11-20")
    assert seen == [{"day": "date'2026-11-20'"}, ["raw/20261120"], "out/2026-11-20"]
    assert found["output"] == "out/2026-11-20"
    assert [row["date"] for row in commands.list_runs(None, None, [f"store={tmp_path}"], 9)] == ["2026-11-20"]
    with pytest.raises(ConfigError, match="score with clicks@3 reads one partition per date"):
        commands.score_command(*given)


def test_missing_partitions_are_passed_over_but_not_all_of_them(raw: Path) -> None:
    file = raw.parent / "clicks.yaml"
    file.write_text(CLICKS % raw)
    layered = load_layers(file, None)
    told: list[SparkmlError] = []
    backfill = Backfill(validate(Settings, layered), layered, env=None, selection=Selection(), tell=told.append)
    days = [parse_date("2026-11-08"), parse_date("2026-11-09")]
    assert [row["exit_code"] for row in backfill.run(Dates(days[1:], backfill=True, skip_missing=True))] == [0], "a holiday"
    assert told == []
    rows = backfill.run(Dates(days, backfill=True, skip_missing=True))
    assert [(row["status"], row["exit_code"]) for row in rows] == [("missing", 0), ("missing", 3)]
    assert "none of the 2 dates has a partition" in told[0].message and "dt=2026-11-09 does not exist" in told[0].message
