"""Dates of a pipeline: what is typed, what is filled in, what is refused, and what a finished date remembers."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sparkml.config import load_layers, validate
from sparkml.errors import ConfigError
from sparkml.flow.dates import Remembered, chosen_dates, days_between, filled, parse_date, settings_of, with_date
from sparkml.flow.run import resume_command
from sparkml.lineage.records import start_run
from sparkml.settings import Settings
from sparkml.storage import Store

DAY = date(2026, 11, 5)
CLICKS = """
pipeline: clicks
source: {type: csv, path: %s, columns: {id: bigint, label: string}, derive: {day: "date'{date}'"}}
target: {column: label, task: classification}
features: {stages: [{type: assembler, inputs: [id], output: features}]}
train: {candidates: {linear: {trainer: mllib, algorithm: LogisticRegression}}}
"""


def settings(folder: Path, path: str, derive: bool = True) -> Settings:
    file = folder / "clicks.yaml"
    file.write_text((CLICKS if derive else CLICKS.replace("{date}", "2026-01-01")) % path)
    return validate(Settings, load_layers(file, None))


def test_days_are_iso_or_relative_to_utc() -> None:
    today = datetime.now(UTC).date()
    assert parse_date("2024-02-29") == date(2024, 2, 29)
    assert parse_date("today") - parse_date("yesterday") == timedelta(days=1)
    assert parse_date("today") - today <= timedelta(days=1)
    for wrong in ("2026-02-30", "20261120", "2026-W47-5", "20.11.2026", "2026-11-20T00:00", "", "tomorrow"):
        with pytest.raises(ConfigError, match=f"--to-date '{wrong}' is no date"):
            parse_date(wrong, "--to-date")


def test_ranges_include_both_ends() -> None:
    assert days_between(DAY, DAY) == [DAY]
    assert [day.day for day in days_between(date(2024, 2, 27), date(2024, 3, 1))] == [27, 28, 29, 1]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"day": "2026-11-20", "first": "2026-11-01"}, "--date 2026-11-20 stands alone", "--from-date"),
        ({"first": "2026-11-20"}, "--from-date 2026-11-20 needs --to-date", "--to-date yesterday"),
        ({"last": "2026-11-20"}, "--to-date 2026-11-20 needs --from-date", "--from-date"),
        ({"first": "2026-11-20", "last": "2026-11-01"}, "comes after --to-date 2026-11-01", "--from-date 2026-11-01"),
        ({"day": "2026-11-20", "keep_going": True}, "--keep-going is for several dates", "--from-date"),
        ({"skip_missing": True}, "--skip-missing is for several dates", "--from-date"),
        ({"first": "2026-11-01", "last": "2026-11-02", "resume": "R"}, "--resume R takes up the run of one date", "--date"),
    ],
)
def test_dates_that_make_no_sense_are_refused(options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        chosen_dates(**{"day": None, "first": None, "last": None, **options})
    assert hint in str(caught.value)


def test_every_string_of_the_source_is_filled_and_nothing_else(tmp_path: Path) -> None:
    before = settings(tmp_path, "'raw/{date:%Y/%m/%d}/*.csv'")
    after = settings_of(before, DAY)
    assert after.source.options.path == ["raw/2026/11/05/*.csv"]
    assert after.source.options.derive == {"day": "date'2026-11-05'"}
    assert before.source.options.path == ["raw/{date:%Y/%m/%d}/*.csv"], "the settings of the next date are as they were"
    assert after.model_dump(exclude={"source"}) == before.model_dump(exclude={"source"})
    assert filled({"a": ["{date}", 3, None], "{date}": "{date:%Y%j}"}, DAY) == {"a": ["2026-11-05", 3, None], "{date}": "2026309"}


def test_a_date_and_a_dated_source_belong_together(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'clicks' reads one partition per date \(date'\{date\}', raw/\{date\}\) and was given no date"
    ) as dated:
        settings_of(settings(tmp_path, "'raw/{date}'"), None)
    assert "--date yesterday" in str(dated.value)
    undated = settings(tmp_path, "raw/all", derive=False)
    with pytest.raises(ConfigError, match=r"given the date 2026-11-05, but nothing that it reads has \{date\}"):
        settings_of(undated, DAY)
    assert settings_of(undated, None).source.options.path == ["raw/all"]


@pytest.mark.parametrize("place", ["{date:%H}", "{date:%d.%B.%Y}", "{date:%}", "{date:}", "{date:%Y-%Q}"])
def test_a_format_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match="is no format of a date; allowed: %Y %m %d"):
        with_date([f"raw/{place}"], DAY, "p")


@pytest.mark.parametrize("place", ["{date:%Y/%m}", "{date:%d}", "{date:%m%d}", "{date:x}"])
def test_days_that_would_share_a_partition_are_refused(place: str) -> None:
    with pytest.raises(ConfigError, match="is the same for several days"):
        with_date([f"raw/{place}"], DAY, "p")
    assert with_date([f"raw/{place}", "{date:%Y-%j}"], DAY, "p"), "one string that tells them apart is enough"


def test_a_date_remembers_what_was_decided_on_the_very_same_things(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    monday, tuesday, undated = (Remembered(store, "clicks", day) for day in ("2026-11-02", "2026-11-03", None))
    monday.put("register", {"model": "a"}, {"version": None})
    monday.put("score", {"model": "a"}, {"version": 3})
    undated.put("register", {"model": "a"}, {"version": 1})
    assert monday.get("register", {"model": "a"}) == {"version": None}
    assert monday.get("score", {"model": "a"}) == {"version": 3}
    assert monday.get("register", {"model": "b"}) is None
    assert tuesday.get("register", {"model": "a"}) is None
    assert undated.get("register", {"model": "a"}) is None


def test_the_resume_command_names_the_day_whatever_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_run("clicks", None, {}, {}, "2026-11-05")
    for typed in (
        ["--date", "yesterday", "--set", "seed=3"],
        ["--date=yesterday", "--set", "seed=3", "--resume", "R"],
        ["--from-date", "2026-11-01", "--keep-going", "--to-date=2026-11-09", "--set", "seed=3", "--skip-missing"],
    ):
        monkeypatch.setattr(sys, "argv", ["sparkml", "run", "clicks", *typed])
        assert resume_command(run).endswith(f" run clicks --set seed=3 --date 2026-11-05 --resume {run.run_id}")
