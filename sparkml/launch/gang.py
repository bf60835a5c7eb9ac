"""`Gang`: run one function on N ranks; `Hub`: where the ranks of a running gang meet."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sparkml.errors import LaunchError
from sparkml.launch.failure import TAIL_LINES, RankFailure
from sparkml.launch.pulse import BEAT_SECONDS, LEAST_STALL_SECONDS, Beat, Pulse
from sparkml.launch.worker import Worker

log = logging.getLogger(__name__)
rank_log = logging.getLogger("sparkml.ranks")  # every line that a rank writes

Report = Callable[[dict[str, Any]], None]
Reply = Callable[[list[bytes]], None]

STALL_SECONDS = 300.0
_SECONDARY_GRACE_SECONDS = 2.0
_CHECK_SECONDS = 1.0


class Gang(ABC):
    """Ranks that run one function together: all of them end with a result, or the gang ends with one error.

    Parameters
    ----------
    log_dir
        Local folder that gets ``rank-N.log``, one file per rank; None writes none. Every line also goes to the logger
        ``sparkml.ranks``.
    on_report
        Called with every `Worker.report`, from a thread of the gang.
    pin
        Give every rank its own cores where its host has at least one per rank. Two gangs on one host would share them.
    stall_timeout
        Seconds after which a rank that gives no sign of life ends the gang, and so do ranks none of which gets on to another
        phase or step (`Worker.note`).
    env
        Environment variables for the ranks alone. They go before those of the executor and before our own (``OMP_NUM_THREADS``).
    """

    def __init__(
        self,
        *,
        log_dir: str | None = None,
        on_report: Report | None = None,
        pin: bool = True,
        stall_timeout: float = STALL_SECONDS,
        env: Mapping[str, str] | None = None,
    ) -> None:
        if not stall_timeout >= LEAST_STALL_SECONDS:
            raise LaunchError(
                f"a stall timeout of {stall_timeout:g} s is too short: ranks give a sign of life every {BEAT_SECONDS:g} s",
                hint=f"set stallTimeout to {LEAST_STALL_SECONDS:g} or more; inf never gives up",
            )
        self.log_dir, self.on_report, self.pin, self.stall_timeout = log_dir, on_report, pin, stall_timeout
        self.env = dict(env or {})

    @abstractmethod
    def run(self, fn: Callable[[Worker], bytes], size: int) -> list[bytes]:
        """Run `fn` on `size` ranks and return what each returned, in rank order.

        `fn` travels by cloudpickle to child processes of our own and returns data only (JSON, Arrow, a file's bytes).

        Raises
        ------
        LaunchError
            The gang did not start, or a rank was killed, lost or stalled; the message names the rank, its host, the cause and
            shows its last lines.
        TrainingError
            `fn` raised on a rank. A `SparkmlError` raised by `fn` keeps its class.

        An error that a rank brought about has the `RankFailure` as its ``failure``.
        """

    def available(self, size: int) -> int:
        """Return how many of `size` ranks could start now; waits a little for slots that are on their way."""
        return size


class Meeting(Protocol):
    """What the supervisor of a rank needs: the `Hub` itself, or a channel to it."""

    def offer(self, rank: int, payload: bytes, reply: Reply) -> None:
        """Take part in an all-gather; `reply` is called with all payloads once every rank has offered."""

    def beat(self, rank: int, beat: Beat) -> None: ...
    def report(self, rank: int, progress: dict[str, Any]) -> None: ...
    def log(self, rank: int, line: str) -> None: ...
    def done(self, rank: int) -> None:
        """The rank has its result."""

    def fail(self, failure: RankFailure) -> None:
        """The rank failed: the whole gang is aborted."""

    def on_abort(self, stop: Callable[[], None]) -> None:
        """Have `stop` called when the gang is aborted; at once if it already is."""


class Hub:
    """The meeting place in the process that started the gang. Never blocks its callers; every method may come from any thread.

    Notices by itself when a rank falls silent or when none gets on, from when all have joined until `abort` or `close`.
    """

    def __init__(self, size: int, log_dir: str | None, on_report: Report | None, stall_timeout: float = STALL_SECONDS) -> None:
        self.size = size
        self._on_report = on_report
        self._lock = threading.Lock()
        self._reports = threading.Lock()
        self._pulse = Pulse(size, stall_timeout)
        self._offers: dict[int, tuple[bytes, Reply]] = {}
        self._done: set[int] = set()
        self._failures: list[RankFailure] = []
        self._stops: list[Callable[[], None]] = []
        self._aborted = threading.Event()
        self._over = threading.Event()
        self._tails: dict[int, deque[str]] = {rank: deque(maxlen=TAIL_LINES) for rank in range(size)}
        self._logs = {}
        if log_dir is not None:
            os.makedirs(log_dir, exist_ok=True)
            self._logs = {rank: open(f"{log_dir}/rank-{rank}.log", "a", encoding="utf-8") for rank in range(size)}  # noqa: SIM115
        threading.Thread(target=self._watch, name="sparkml-pulse", daemon=True).start()

    def joined(self, rank: int, host: str) -> None:
        """The rank has a place on `host`."""
        with self._lock:
            self._pulse.joined(rank, host)

    def beat(self, rank: int, beat: Beat) -> None:
        with self._lock:
            self._pulse.beat(rank, beat)

    def _watch(self) -> None:
        while not self._over.wait(_CHECK_SECONDS):
            with self._lock:
                failure = self._pulse.check(set(self._offers))
            if failure is not None:
                self.fail(failure)
                return

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
            self._pulse.left(rank)
        self._check_nobody_left()

    def _check_nobody_left(self) -> None:
        with self._lock:
            waiting, gone = sorted(self._offers), sorted(self._done)
            hosts = self._pulse.hosts
        if waiting and gone:
            cause = f"waits in a collective that rank {gone[0]} will never join: that rank has finished"
            self.fail(RankFailure(waiting[0], hosts.get(waiting[0], "?"), "exception", cause, "TrainingError"))

    def report(self, rank: int, progress: dict[str, Any]) -> None:
        if self._on_report is not None:
            try:
                with self._reports:
                    self._on_report({**progress, "rank": rank})
            except Exception:  # showing progress must not end a training
                log.exception("the progress of rank %d could not be shown", rank)

    def log(self, rank: int, line: str) -> None:
        rank_log.info("%s", line)
        with self._reports:
            self._tails[rank].append(line.partition("] ")[2])
            if rank in self._logs:
                try:
                    self._logs[rank].write(line + "\n")
                    self._logs[rank].flush()
                except OSError as error:  # a full disk: the rank goes on without its log
                    log.error("the log of rank %d ends here: %s", rank, error)
                    self._logs.pop(rank)

    def fail(self, failure: RankFailure) -> None:
        tail = failure.tail or tuple(self._tails[failure.rank])
        with self._lock:
            self._failures.append(dataclasses.replace(failure, tail=tail))
            self._pulse.left(failure.rank)
        if failure.secondary:  # the rank that is really to blame has a moment to say why
            timer = threading.Timer(_SECONDARY_GRACE_SECONDS, self._blame_the_silent)
            timer.daemon = True
            timer.start()
        else:
            self.abort()

    def _blame_the_silent(self) -> None:
        """The collectives of a rank broke before our own patience with another one did."""
        with self._lock:
            silent = None if self._over.is_set() else self._pulse.silent()
        if silent is not None:
            self.fail(silent)
        self.abort()

    def abort(self) -> None:
        """Stop every rank."""
        with self._lock:
            self._aborted.set()
            stops, self._stops = self._stops, []
        self._over.set()
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
        self._over.set()
        for file in self._logs.values():
            file.close()
