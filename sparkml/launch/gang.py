"""`Gang`: run one function on N ranks; `Hub`: where the ranks of a running gang meet."""

from __future__ import annotations

import logging
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sparkml import errors
from sparkml.errors import LaunchError, SparkmlError, TrainingError
from sparkml.launch.worker import Worker

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
Reply = Callable[[list[bytes]], None]

# raised by a rank because another one went away: never the cause that the user looks for
_SECONDARY = frozenset({"HorovodInternalError", "HorovodShutdownError", "HorovodTimeoutException"})
_SECONDARY_GRACE_SECONDS = 2.0
TAIL_LINES = 20


class Gang(ABC):
    """Ranks that run one function together: all of them end with a result, or the gang ends with one error.

    Parameters
    ----------
    log_dir
        Local folder that gets ``rank-N.log``, one file per rank; None writes none.
    on_report
        Called with every `Worker.report`, from a thread of the gang.
    pin
        Give every rank its own cores where its host has at least one per rank. Two gangs on one host would share them.
    """

    def __init__(self, *, log_dir: str | None = None, on_report: Report | None = None, pin: bool = True) -> None:
        self.log_dir, self.on_report, self.pin = log_dir, on_report, pin

    @abstractmethod
    def run(self, fn: Callable[[Worker], bytes], size: int) -> list[bytes]:
        """Run `fn` on `size` ranks and return what each returned, in rank order.

        `fn` travels by cloudpickle to child processes of our own and returns data only (JSON, Arrow, a file's bytes).

        Raises
        ------
        LaunchError
            The gang did not start, or a rank was killed or lost; the message names the rank, its host, the cause and shows its
            last lines.
        TrainingError
            `fn` raised on a rank. A `SparkmlError` raised by `fn` keeps its class.
        """


@dataclass(frozen=True)
class RankFailure:
    """Why a rank ended: what it raised, which signal or exit code ended it, or that contact was lost."""

    rank: int
    host: str
    kind: Literal["exception", "signal", "exit", "lost"]
    cause: str
    error_type: str = ""
    hint: str | None = None
    tail: tuple[str, ...] = ()

    @property
    def secondary(self) -> bool:
        return self.error_type in _SECONDARY

    def as_error(self) -> SparkmlError:
        """Return the error for the user: its own class if it was ours, `TrainingError` if `fn` raised, else `LaunchError`."""
        lines = "".join(f"\n    {line}" for line in self.tail)
        message = f"rank {self.rank} on {self.host} {self.cause}" + (f"\n  its last lines:{lines}" if lines else "")
        own = getattr(errors, self.error_type, None) if self.kind == "exception" else None
        if isinstance(own, type) and issubclass(own, SparkmlError):
            return own(message, hint=self.hint)
        return (TrainingError if self.kind == "exception" else LaunchError)(message, hint=self.hint)


def ended_by(code: int) -> tuple[Literal["signal", "exit"], str, str | None]:
    """Return kind, cause in words, and hint for a process's return code (negative: a signal, as `subprocess` has it)."""
    if code >= 0:
        return "exit", f"ended with exit code {code} before its work was done", None
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    hint = "the kernel kills with SIGKILL when memory runs out: lower batch_size or the number of ranks" if code == -9 else None
    return "signal", f"was killed by signal {-code} ({name})", hint


class Meeting(Protocol):
    """What the supervisor of a rank needs: the `Hub` itself, or a channel to it."""

    def offer(self, rank: int, payload: bytes, reply: Reply) -> None:
        """Take part in an all-gather; `reply` is called with all payloads once every rank has offered."""

    def report(self, rank: int, progress: dict[str, Any]) -> None: ...
    def log(self, rank: int, line: str) -> None: ...
    def done(self, rank: int) -> None:
        """The rank has its result."""

    def fail(self, failure: RankFailure) -> None:
        """The rank failed: the whole gang is aborted."""

    def on_abort(self, stop: Callable[[], None]) -> None:
        """Have `stop` called when the gang is aborted; at once if it already is."""


class Hub:
    """The meeting place in the process that started the gang. Never blocks its callers; every method may come from any thread."""

    def __init__(self, size: int, log_dir: str | None, on_report: Report | None) -> None:
        self.size = size
        self._on_report = on_report
        self._lock = threading.Lock()
        self._reports = threading.Lock()
        self._offers: dict[int, tuple[bytes, Reply]] = {}
        self._done: set[int] = set()
        self._failures: list[RankFailure] = []
        self._stops: list[Callable[[], None]] = []
        self._aborted = threading.Event()
        self._logs = {}
        if log_dir is not None:
            os.makedirs(log_dir, exist_ok=True)
            self._logs = {rank: open(f"{log_dir}/rank-{rank}.log", "a", encoding="utf-8") for rank in range(size)}  # noqa: SIM115

    def offer(self, rank: int, payload: bytes, reply: Reply) -> None:
        with self._lock:
            self._offers[rank] = (payload, reply)
            complete = len(self._offers) == self.size
            offers = self._offers
            if complete:
                self._offers = {}
        if complete:
            blocks = [offers[other][0] for other in range(self.size)]
            for _, answer in offers.values():
                answer(blocks)
        else:
            self._check_nobody_left()

    def done(self, rank: int) -> None:
        with self._lock:
            self._done.add(rank)
        self._check_nobody_left()

    def _check_nobody_left(self) -> None:
        with self._lock:
            waiting, gone = sorted(self._offers), sorted(self._done)
        if waiting and gone:
            cause = f"waits in a collective that rank {gone[0]} will never join: that rank has finished"
            self.fail(RankFailure(waiting[0], "", "exception", cause, "TrainingError"))

    def report(self, rank: int, progress: dict[str, Any]) -> None:
        if self._on_report is not None:
            try:
                with self._reports:
                    self._on_report({**progress, "rank": rank})
            except Exception:  # showing progress must not end a training
                log.exception("the progress of rank %d could not be shown", rank)

    def log(self, rank: int, line: str) -> None:
        with self._reports:
            if rank in self._logs:
                try:
                    self._logs[rank].write(line + "\n")
                    self._logs[rank].flush()
                except OSError as error:  # a full disk: the rank goes on without its log
                    log.error("the log of rank %d ends here: %s", rank, error)
                    self._logs.pop(rank)

    def fail(self, failure: RankFailure) -> None:
        with self._lock:
            self._failures.append(failure)
        if failure.secondary:  # the rank that is really to blame has a moment to say why
            timer = threading.Timer(_SECONDARY_GRACE_SECONDS, self.abort)
            timer.daemon = True
            timer.start()
        else:
            self.abort()

    def abort(self) -> None:
        """Stop every rank."""
        with self._lock:
            self._aborted.set()
            stops, self._stops = self._stops, []
        for stop in stops:
            stop()

    def on_abort(self, stop: Callable[[], None]) -> None:
        with self._lock:
            if not self._aborted.is_set():
                self._stops.append(stop)
                return
        stop()

    @property
    def aborted(self) -> bool:
        return self._aborted.is_set()

    @property
    def failure(self) -> RankFailure | None:
        """The failure to show: the first that is not merely the echo of another."""
        with self._lock:
            return min(self._failures, key=lambda failure: failure.secondary, default=None)

    def close(self) -> None:
        for file in self._logs.values():
            file.close()
