"""Trying again: one policy for every storage service, with its bounds, and a count of how often it was needed."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from tenacity import RetryCallState, retry_if_exception, wait_exponential_jitter

log = logging.getLogger(__name__)

SERVICE_SECONDS = 300.0  # a NameNode that restarts, an endpoint that answers 503
FIRST_SECONDS = 10.0  # of a service that never answered this process: its address may be wrong
DATA_SECONDS = 60.0  # a block that no DataNode gives: it may be lost

_taken: Counter[str] = Counter()
_lock = threading.Lock()


def taken() -> Counter[str]:
    """Return how often this process has tried something again so far, by service."""
    with _lock:
        return _taken.copy()


def policy(
    service: str,
    passes: Callable[[BaseException], bool],
    seconds: Callable[[], float],
    words: Callable[[BaseException], str] = str,
) -> dict[str, Any]:
    """Return the arguments of tenacity's `Retrying` and `AsyncRetrying`.

    The waits double from 0.2 s to 10 s, with jitter, so that a thousand ranks do not come back at once; every one is logged.

    Parameters
    ----------
    passes
        Whether an error may pass by itself, and the call may be made again.
    seconds
        How long to go on, waits included; asked after every failure.
    words
        Says the error to a person.
    """

    def tell(state: RetryCallState) -> None:
        with _lock:
            _taken[service] += 1
        error = state.outcome.exception() if state.outcome is not None else None
        wait = state.next_action.sleep if state.next_action is not None else 0.0
        cause = words(error) if error is not None else "?"
        log.warning("%s: %s; attempt %d, once more in %.1f s", service, cause, state.attempt_number, wait)

    return {
        "retry": retry_if_exception(passes),
        "wait": wait_exponential_jitter(initial=0.2, max=10, jitter=0.5),
        "stop": lambda state: (state.seconds_since_start or 0.0) + state.upcoming_sleep > seconds(),
        "before_sleep": tell,
        "reraise": True,
    }
