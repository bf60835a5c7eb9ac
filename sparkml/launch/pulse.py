"""`Pulse`: what the ranks of a gang were last heard to do, and whether one of them has stalled."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from sparkml.launch.failure import RankFailure

BEAT_SECONDS = 2.0  # how often a rank says what it does
LEAST_STALL_SECONDS = 5.0  # below it, a busy machine would look like a stalled rank
_QUIET_SECONDS = 2 * BEAT_SECONDS  # without a beat for longer, what a rank said last may be long out of date
_OWN_WORD_SECONDS = 15.0  # a rank's supervisor, who can look at its process, has this long to speak before we do
_JUMP_SECONDS = 5.0


@dataclass(frozen=True)
class Beat:
    """A sign of life: the phase and step that the rank is in (no phase: it has not told any yet), and for how long."""

    phase: str
    step: int
    seconds: float

    def __str__(self) -> str:
        if not self.phase:
            return "has not said yet what it does"
        return f"in step {self.step}" if self.phase == "step" else f'in phase "{self.phase}" of step {self.step}'


class RunningClock:
    """Seconds that this process was running, to measure the silence of others.

    A process that was stopped itself (Ctrl-Z, a frozen virtual machine) hears nobody meanwhile; such a jump between two ticks
    counts as a few seconds only.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last = now()
        self.seconds = 0.0

    def tick(self) -> float:
        """Move on to the present; to be called every second or so, by one thread."""
        now = self._now()
        self.seconds += min(now - self._last, _JUMP_SECONDS)
        self._last = now
        return self.seconds


def too_slow(limit: float) -> str:
    """Return the hint for a stall."""
    return f"if this may take so long here, raise stallTimeout (it is {limit:g} s)"


class Pulse:
    """The last beat of every rank. Not thread-safe: the `Hub` takes turns.

    Parameters
    ----------
    limit
        Seconds without a beat of a rank, or without headway of any rank, that count as a stall.
    """

    def __init__(self, size: int, limit: float, clock: RunningClock | None = None) -> None:
        self._size, self._limit = size, limit
        self._clock = clock or RunningClock()
        self.hosts: dict[int, str] = {}
        self._heard: dict[int, float] = {}
        self._beats: dict[int, Beat] = {}
        self._moved: dict[int, float] = {}
        self._left: set[int] = set()

    def joined(self, rank: int, host: str) -> None:
        """The rank's task is there; beats are expected as soon as all are, for only then the rank itself can start."""
        self.hosts[rank] = host
        if len(self.hosts) == self._size:
            for each in self.hosts:
                self._heard.setdefault(each, self._clock.seconds)

    def beat(self, rank: int, beat: Beat) -> None:
        before = self._beats.get(rank)
        self._beats[rank] = beat
        self._heard[rank] = self._clock.seconds
        # fewer seconds than before: it went elsewhere and came back between two beats
        if before is None or (before.phase, before.step) != (beat.phase, beat.step) or beat.seconds < before.seconds:
            self._moved[rank] = self._clock.seconds

    def left(self, rank: int) -> None:
        """The rank has ended: no more beats are expected."""
        self._left.add(rank)

    def check(self, waiting: Collection[int] = ()) -> RankFailure | None:
        """Return why the gang has stalled, if it has. `waiting` are the ranks known to wait for others in an all-gather."""
        self._clock.tick()
        return self.silent(self._limit + _OWN_WORD_SECONDS) or self._hanging(waiting)

    def silent(self, limit: float = _OWN_WORD_SECONDS) -> RankFailure | None:
        """Return the rank that was silent for the longest time, if that is longer than `limit`."""
        silence = {rank: self._clock.seconds - heard for rank, heard in self._heard.items() if rank not in self._left}
        rank = max(silence, key=lambda each: silence[each], default=None)
        if rank is None or silence[rank] <= limit:
            return None
        cause = f"was lost: no sign of life for {silence[rank]:.0f} s, nor from its task (host or network gone, or task stopped?)"
        return RankFailure(rank, self.hosts.get(rank, "?"), "lost", cause, hint=too_slow(self._limit))

    def _hanging(self, waiting: Collection[int]) -> RankFailure | None:
        live = {rank: beat for rank, beat in sorted(self._beats.items()) if rank not in self._left}
        if len(live) < self._size - len(self._left) or not any(beat.phase for beat in live.values()):
            return None  # ranks that are still to come, or a function that never tells what it does
        if any(self._clock.seconds - self._heard[rank] > _QUIET_SECONDS for rank in live):
            return None  # its supervisor is about to say what its process does; failing that, `silent` does
        if any(self._clock.seconds - self._moved[rank] <= self._limit for rank in live):
            return None
        free = [rank for rank in live if rank not in waiting] or list(live)
        # a rank in a step waits in a collective, for one that is elsewhere or behind
        suspects = [rank for rank in free if live[rank].phase != "step"] or free
        rank = min(suspects, key=lambda each: live[each].step)
        mine = live[rank]
        others = {each: beat for each, beat in live.items() if each != rank}
        cause = f"hangs: {mine} for {mine.seconds:.0f} s"
        if others and all((beat.phase, beat.step) == (mine.phase, mine.step) for beat in others.values()):
            cause += " like every other rank; a collective that never ends (network?)"
        elif others:
            told = ", ".join(f"rank {each} {beat}" for each, beat in list(others.items())[:8])
            cause += f"; meanwhile the others wait for it ({told})"
        return RankFailure(rank, self.hosts.get(rank, "?"), "stalled", cause, hint=too_slow(self._limit))
