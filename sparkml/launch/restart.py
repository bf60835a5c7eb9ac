"""`run_with_restarts`: start a gang again when a rank was lost, killed, or failed in a way that may not happen twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from sparkml.errors import ConfigError, DataError, LaunchError, SparkmlError, TrainingError
from sparkml.launch.failure import RankFailure
from sparkml.launch.gang import Gang
from sparkml.launch.worker import Worker

log = logging.getLogger(__name__)

# our own verdict (a loss that is not finite), and faults in the code that runs
_FINAL = frozenset({TrainingError.__name__, "AttributeError", "ImportError", "ModuleNotFoundError", "NameError", "TypeError"})
_PAUSES = (1.0, 2.0, 4.0, 8.0)
_LONGEST_PAUSE = 10.0


@dataclass(frozen=True)
class Restart:
    """A gang that was started again.

    Attributes
    ----------
    attempt
        Number of the restart, from 1.
    size
        Ranks of the new gang.
    reason
        One line: which rank, on which host, and what became of it.
    seconds
        How long the gang that failed had run.
    """

    attempt: int
    size: int
    reason: str
    seconds: float


def run_with_restarts(
    gang: Gang,
    fn: Callable[[Worker], bytes],
    size: int,
    *,
    max_restarts: int = 0,
    min_size: int | None = None,
    on_restart: Callable[[Restart], None] | None = None,
) -> tuple[list[bytes], list[Restart]]:
    """Run `fn` as `gang.run` does, again from its start up to `max_restarts` times; `fn` finds its own checkpoint.

    Started again after: a rank that was killed, lost or stalled, that exited, or on which `fn` raised, except for what would
    come out the same again: `ConfigError`, `DataError`, `TrainingError`, a fault in the code, what was raised twice in a row, a
    host with other versions. Never after Ctrl-C or a gang that could not start for want of slots.

    Parameters
    ----------
    min_size
        Go on with so few ranks, also at the first start, when there are fewer slots than `size`; None: `size`.
    on_restart
        Called before each new start.

    Raises
    ------
    SparkmlError
        What `Gang.run` raised last; the message tells after how many restarts.
    """
    least = size if min_size is None else min_size
    if not 1 <= least <= size:
        raise LaunchError(f"a gang of {size} ranks cannot start with {least} at least", hint=f"set min_proc to 1...{size}")
    restarts: list[Restart] = []
    ranks = _ranks(gang, size, least)
    while True:
        began = time.monotonic()
        try:
            return gang.run(fn, ranks), restarts
        except SparkmlError as error:
            failure = _passing(error)
            same = failure is not None and failure.kind == "exception" and [failure.reason] == [r.reason for r in restarts[-1:]]
            if failure is None or same or len(restarts) >= max_restarts:
                if restarts:
                    error.message += f"\n  after {len(restarts)} restart{'s' if len(restarts) > 1 else ''}"
                raise
            seconds = time.monotonic() - began
        time.sleep(_PAUSES[len(restarts)] if len(restarts) < len(_PAUSES) else _LONGEST_PAUSE)
        ranks = _ranks(gang, size, least)
        restart = Restart(len(restarts) + 1, ranks, failure.reason, seconds)
        restarts.append(restart)
        log.warning("restart %d of %d with %d ranks: %s", restart.attempt, max_restarts, ranks, restart.reason)
        if on_restart is not None:
            on_restart(restart)


def _ranks(gang: Gang, size: int, least: int) -> int:
    # with fewer than `least`, it is the preflight of `run` that waits longer and then says what is wrong
    return size if least == size else max(least, min(size, gang.available(size)))


def _passing(error: SparkmlError) -> RankFailure | None:
    """Return the failure of a rank that need not happen again."""
    failure = error.failure
    if not isinstance(failure, RankFailure) or failure.kind == "unfit" or isinstance(error, ConfigError | DataError):
        return None
    if failure.error_type in _FINAL:
        return None
    return failure
