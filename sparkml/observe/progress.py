"""Live progress on a terminal, plain lines elsewhere; always on stderr, so that stdout stays for results."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

log = logging.getLogger(__name__)

SparkCounts = Callable[[], tuple[int, int]]
SparkNews = Callable[[], list[str]]


class StageProgress:
    """What a running stage may tell: a short note, and reports of ranks."""

    def __init__(self, board: Board, name: str) -> None:
        self.board, self.name, self.text = board, name, ""

    def note(self, text: str) -> None:
        """Show a short text beside the stage."""
        self.text = text
        self.board.changed(self)

    def rank(self, report: dict[str, Any]) -> None:
        """Show what a rank reports: ``rank``, ``epoch`` of ``epochs``, metrics and rates by name."""
        self.board.rank(self, report)


class Board:
    """The progress of a run. On a terminal: one live line per stage and per rank. Elsewhere: one line per stage and per epoch."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=16)),
            BarColumn(bar_width=24, table_column=Column(min_width=24)),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, ratio=1, overflow="ellipsis")),
            console=self.console,
            expand=True,
            disable=not self.live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._spark_counts: SparkCounts | None = None
        self._spark_news: SparkNews | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Board:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def watch_spark(self, counts: SparkCounts, news: SparkNews) -> None:
        """Fill the bar of the running stage from Spark's (finished, all) task counts, and print as warnings what is new."""
        self._spark_counts, self._spark_news = counts, news

    def line(self, text: str) -> None:
        """Print one line for a person."""
        log.info(text)
        if self.live:
            self._bars.console.print(text, highlight=False)
        else:
            self.console.print(
                f"[{time.monotonic() - self._started:7.1f} s] {text}", highlight=False, markup=False, soft_wrap=True
            )

    @contextmanager
    def stage(self, name: str) -> Iterator[StageProgress]:
        """Show a stage while the block runs."""
        stage = StageProgress(self, name)
        self._tasks[name] = self._bars.add_task(name, total=None, text="")
        if not self.live:
            self.line(f"{name} ...")
        done = threading.Event()
        poller = threading.Thread(target=self._poll, args=(name, done), daemon=True)
        poller.start()
        began = time.monotonic()
        try:
            yield stage
        except BaseException:
            self._bars.update(self._tasks[name], description=f"[red]{name} failed")
            raise
        finally:
            done.set()
            poller.join(5)  # seconds: a JVM that does not answer must not hold up the end
            self._drop_ranks(name)
        self._bars.update(self._tasks[name], total=1, completed=1, text=stage.text)
        if not self.live:
            self.line(f"{name} done in {time.monotonic() - began:.1f} s{'  ' + stage.text if stage.text else ''}")

    def skipped(self, name: str, reason: str) -> None:
        """Say that a stage had nothing to do."""
        log.info("%s skipped: %s", name, reason)
        if self.live:
            task = self._bars.add_task(f"[dim]{name}", total=1, text=f"[dim]{reason}")
            self._bars.update(task, completed=1)
        else:
            self.line(f"{name} skipped: {reason}")

    def changed(self, stage: StageProgress) -> None:
        """Redraw a stage's note."""
        self._bars.update(self._tasks[stage.name], text=stage.text)

    def rank(self, stage: StageProgress, report: dict[str, Any]) -> None:
        """Redraw a rank's line; off a terminal, print rank 0's once per epoch."""
        log.info("rank report", extra={"stage": stage.name, "report": report})
        if "note" in report:
            self.line(f"{stage.name}: {report['note']}")
            return
        rank, epoch, epochs = report.get("rank", 0), report.get("epoch"), report.get("epochs")
        rest = "  ".join(filter(None, (_shown(key, value) for key, value in report.items())))
        for straggler in report.get("stragglers", ()) if rank == 0 else ():
            self.line(f"{stage.name} straggler: {straggler}")
        if not self.live:
            if rank == 0 and epoch is not None and "step" not in report:
                self.line(f"{stage.name} epoch {epoch}/{epochs}  {rest}")
            return
        key = f"{stage.name} rank {rank}"
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(f"  [dim]{key}", total=epochs, text="")
        done = (epoch or 0) + report.get("step", 0) / report.get("steps", 1)
        self._bars.update(self._tasks[key], completed=done, text=f"epoch {math.ceil(done)}/{epochs}  {rest}")

    def _drop_ranks(self, stage: str) -> None:
        for key in [key for key in self._tasks if key.startswith(f"{stage} rank ")]:
            self._bars.remove_task(self._tasks.pop(key))

    def _poll(self, name: str, done: threading.Event) -> None:
        over = False
        while not over:
            over = done.wait(_POLL_SECONDS)  # then once more: what happened last is told, too
            if self._spark_counts is None or self._spark_news is None:
                continue
            try:
                for text in self._spark_news():
                    self.line(f"warning: {text}")
                finished, total = self._spark_counts() if self.live and not over else (0, 0)
            except Exception:  # the JVM is gone; whoever waits for it will say so
                return
            if total:
                self._bars.update(self._tasks[name], total=total, completed=min(finished, total - 1))


_POLL_SECONDS = 0.5
_UNITS = {"rows_per_second": "{:,.0f} rows/s", "step_ms": "{:.1f} ms/step", "seconds": "{:.1f} s"}
_SHARES = {"data_share": "data", "wait_share": "waits"}
_APART = frozenset({"rank", "epoch", "epochs", "step", "steps", "restart", "step_share"})


def _shown(key: str, value: Any) -> str:
    """Return one figure of a rank's report for a person; the share of time spent waiting only where it is worth a look."""
    if key in _APART or not isinstance(value, int | float):
        return ""
    if key in _SHARES:
        return f"{_SHARES[key]} {value:.0%}" if value >= 0.05 else ""
    return _UNITS[key].format(value) if key in _UNITS else f"{key} {value:,.4g}"
