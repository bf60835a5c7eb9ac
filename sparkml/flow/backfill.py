"""Several dates of a pipeline, one after the other in one process and one Spark session."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from sparkml.config import Layered, redact
from sparkml.errors import BusyError, NoInputError, SparkmlError
from sparkml.flow.commands import outcome_of
from sparkml.flow.dates import Dates, settings_of
from sparkml.flow.engine import SPARK_LOG, Selection
from sparkml.flow.run import idle, run_pipeline
from sparkml.lineage.records import RunRecord, new_run_id
from sparkml.observe.logs import log_folder
from sparkml.observe.progress import Board
from sparkml.settings import Settings

Row = dict[str, Any]
COLUMNS = ("date", "status", "seconds", "run_id", "result")


class Backfill:
    """Runs dates and tells what became of each.

    Parameters
    ----------
    tell
        Shows the error of a date, with its hint.
    """

    def __init__(
        self,
        settings: Settings,
        layered: Layered,
        *,
        env: str | None,
        selection: Selection,
        tell: Callable[[SparkmlError], None],
        verbose: bool = False,
    ) -> None:
        self.settings, self.layered, self.env, self.selection = settings, layered, env, selection
        self.tell, self.verbose = tell, verbose
        self.spark_log: Path = log_folder(new_run_id(f"{settings.pipeline}-backfill")) / SPARK_LOG

    def run(self, dates: Dates) -> list[Row]:
        """Run the days in their order; return a row for each that was come to.

        The first that fails is the last, unless `dates.keep_going`; then too when Spark itself was lost. ``exit_code`` of a row
        is that of its run, 0 for a partition that is missing and may be; all of several may not: a wrong path looks like that.
        """
        rows: list[Row] = []
        began, board = time.monotonic(), Board()
        settings_of(self.settings, dates.days[0])  # what is wrong with the settings is no date's fault
        for day in filter(None, dates.days):
            row = self._one(day, skip_missing=dates.skip_missing)
            rows.append(row)
            board.line(f"{day} {row['status']}{': ' if row['result'] else ''}{row['result']}")
            if row["exit_code"] and not (dates.keep_going and _spark_answers()):
                if len(rows) < len(dates.days):
                    board.line(f"{len(dates.days) - len(rows)} more dates were not come to")
                break
        if len(rows) > 1 and all(row["status"] == "missing" and not row["exit_code"] for row in rows):
            none = NoInputError(f"none of the {len(rows)} dates has a partition: {rows[-1]['result']}", hint="check source.path")
            rows[-1]["exit_code"] = none.exit_code
            self.tell(none)
        board.line(f"{len(rows)} dates in {time.monotonic() - began:.1f} s")
        return rows

    def _one(self, day: date, *, skip_missing: bool) -> Row:
        began = time.monotonic()
        row: Row = {"date": str(day), "status": "done", "run_id": "", "seconds": 0.0, "result": "", "exit_code": 0}
        try:
            if skip_missing:
                settings_of(self.settings, day).source.files()
            record = self._run(day)
            run_id = "" if self.selection.dry_run else record.run_id  # of a run that leaves no record
            row |= {"run_id": run_id, "status": self._status(record), "result": self._result(record)}
        except SparkmlError as error:
            missing = isinstance(error, NoInputError)
            status = "missing" if missing else "busy" if isinstance(error, BusyError) else "failed"
            row |= {"status": status, "result": redact(error.message.splitlines()[0])}
            if not (missing and skip_missing):
                row["exit_code"] = error.exit_code
                self.tell(error)
        row["seconds"] = round(time.monotonic() - began, 1)
        return row

    def _run(self, day: date) -> RunRecord:
        return run_pipeline(
            self.settings,
            self.layered,
            env=self.env,
            selection=self.selection,
            resume=None,
            board=Board(),
            verbose=self.verbose,
            day=day,
            spark_log=self.spark_log,
        )

    def _status(self, record: RunRecord) -> str:
        if self.selection.dry_run:
            return "unchanged" if all(item["action"] == "up to date" for item in record.result["plan"]) else "would run"
        return "unchanged" if idle(record) else "done"

    def _result(self, record: RunRecord) -> str:
        if not self.selection.dry_run:
            return outcome_of(record)
        first = next((item for item in record.result["plan"] if item["action"] != "up to date"), None)
        return "" if first is None else f"{first['stage']}: {first['action'].removeprefix('would run: ')}"


def _spark_answers() -> bool:
    """Whether the session can go on, or there is none yet: after a lost one every further date would fail in the same way."""
    from pyspark import SparkContext

    context = SparkContext._active_spark_context
    if context is None:
        return True
    try:
        return not context._jsc.sc().isStopped()
    except Exception:  # Py4J's, when the JVM is gone
        return False
