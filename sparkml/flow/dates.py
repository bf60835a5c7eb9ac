"""Dated pipelines: ``{date}`` in the source's settings, the date of a run, and what a finished date remembers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sparkml.errors import ConfigError
from sparkml.settings import Settings
from sparkml.storage import Store

_PLACE = re.compile(r"\{date(?::([^{}]*))?\}")
_FORMAT = re.compile(r"(?:[^%]|%[YmdjGVu%])*")  # the same text on every machine: no names of months, which have a language
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}")
_TWO_YEARS = 731


def parse_date(text: str, option: str = "--date") -> date:
    """Return the day that ``2026-11-20``, ``today`` or ``yesterday`` (both in UTC) means."""
    today = datetime.now(UTC).date()
    if text in {"today", "yesterday"}:
        return today if text == "today" else today - timedelta(days=1)
    try:
        if _ISO.fullmatch(text):  # fromisoformat takes weeks and other spellings too
            return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is no date: {error}", hint=f"{option} {today}") from None
    raise ConfigError(f"{option} {text!r} is no date: YYYY-MM-DD, 'today' or 'yesterday' (UTC)", hint=f"{option} {today}")


def days_between(first: date, last: date) -> list[date]:
    """Return every day from `first` to `last`, both included."""
    if first > last:
        raise ConfigError(f"--from-date {first} comes after --to-date {last}", hint=f"--from-date {last} --to-date {first}")
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


@dataclass(frozen=True)
class Dates:
    """The days that a command was told to run. `backfill`: they came as a range."""

    days: Sequence[date | None]
    backfill: bool = False
    keep_going: bool = False
    skip_missing: bool = False


def chosen_dates(
    day: str | None,
    first: str | None,
    last: str | None,
    keep_going: bool = False,
    skip_missing: bool = False,
    resume: str | None = None,
) -> Dates:
    """Return what ``--date``, ``--from-date`` and ``--to-date`` mean together; one ``None`` when none was given."""
    if first is None and last is None:
        for given, option in ((keep_going, "--keep-going"), (skip_missing, "--skip-missing")):
            if given:
                raise ConfigError(f"{option} is for several dates", hint=f"--from-date DATE --to-date DATE {option}")
        return Dates([None if day is None else parse_date(day)])
    if day is not None:
        raise ConfigError(f"--date {day} stands alone: it means --from-date {day} --to-date {day}")
    if first is None or last is None:
        option, other = ("--from-date", "--to-date") if last is None else ("--to-date", "--from-date")
        raise ConfigError(f"{option} {first or last} needs {other}, which is included", hint=f"{other} yesterday")
    if resume is not None:
        raise ConfigError(
            f"--resume {resume} takes up the run of one date",
            hint="give its --date; or run the range again without --resume: finished dates are passed over",
        )
    days = days_between(parse_date(first, "--from-date"), parse_date(last, "--to-date"))
    return Dates(days, backfill=True, keep_going=keep_going, skip_missing=skip_missing)


# --- the source's settings ---


def dated_texts(value: Any) -> list[str]:
    """Return the strings with a ``{date}`` anywhere in a setting."""
    if isinstance(value, str):
        return [value] if _PLACE.search(value) else []
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else ()
    return [text for item in items for text in dated_texts(item)]


def filled(value: Any, day: date) -> Any:
    """Return a setting with the day in place of every ``{date}`` (ISO) and ``{date:%Y/%m/%d}``."""
    if isinstance(value, str):
        return _PLACE.sub(lambda place: day.strftime(place[1]) if place[1] else day.isoformat(), value)
    if isinstance(value, Mapping):
        return {key: filled(item, day) for key, item in value.items()}
    return [filled(item, day) for item in value] if isinstance(value, list) else value


def with_date(value: Any, day: date | None, who: str) -> Any:
    """Return a setting of `who` with its date filled in, as it is when it has none.

    Raises
    ------
    ConfigError
        There is a ``{date}`` and no day, or a day and no ``{date}``; a format is not known, or the same for several days.
    """
    texts = dated_texts(value)
    if not texts and day is not None:
        raise ConfigError(
            f"{who} was given the date {day}, but nothing that it reads has {{date}}",
            hint="write {date} where the date belongs, for example 'raw/dt={date}', or leave the date out",
        )
    if not texts:
        return value
    _check_formats(texts)
    if day is None:
        raise ConfigError(
            f"{who} reads one partition per date ({', '.join(texts)}) and was given no date",
            hint="--date yesterday, --date 2026-11-20, or to run several --from-date 2026-11-01 --to-date 2026-11-20",
        )
    return filled(value, day)


def settings_of(settings: Settings, day: date | None) -> Settings:
    """Return the settings of one date's run; raises what `with_date` raises."""
    source = settings.source
    options = source.options.model_dump(mode="json", exclude_unset=True)
    options = source.Options.model_validate(with_date(options, day, f"pipeline {settings.pipeline!r}"))
    return settings.model_copy(update={"source": type(source)(options)})


def _check_formats(texts: Sequence[str]) -> None:
    for text in texts:
        for place in _PLACE.finditer(text):
            if place[1] is not None and not (place[1] and _FORMAT.fullmatch(place[1])):
                raise ConfigError(
                    f"source: {place[0]} in {text!r} is no format of a date; allowed: %Y %m %d %j (day of the year), "
                    "%G %V %u (ISO year, week, weekday)",
                    hint="{date} is {date:%Y-%m-%d}",
                )
    days = days_between(date(2023, 1, 1), date(2024, 12, 31))
    if len({tuple(filled(text, day) for text in texts) for day in days}) < _TWO_YEARS:
        raise ConfigError(
            f"source: {', '.join(texts)} is the same for several days: each date must have a partition of its own",
            hint="{date}, {date:%Y/%m/%d} or {date:%Y%m%d}",
        )


class Remembered:
    """What the runs of a date decided, kept in the store: a champion of a later date does not reopen a finished one.

    Nothing is remembered for a run without a date.
    """

    def __init__(self, store: Store, pipeline: str, day: str | None) -> None:
        self.store = store
        self._path = None if day is None else f"datasets/{pipeline}/_dates/{day}.json"

    def get(self, what: str, of: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what was decided on exactly these things."""
        found = self._all().get(what)
        return found["found"] if found is not None and found["of"] == dict(of) else None

    def put(self, what: str, of: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Remember a decision. The caller holds the lease of the date."""
        if self._path is not None:
            self.store.replace(self._path, {**self._all(), what: {"of": dict(of), "found": dict(found)}})

    def _all(self) -> dict[str, Any]:
        known = self._path is not None and self.store.exists(self._path)
        return dict(self.store.read_json(str(self._path))) if known else {}
