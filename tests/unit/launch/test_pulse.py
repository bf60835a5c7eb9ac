from __future__ import annotations

import pytest

from sparkml.launch.failure import RankFailure
from sparkml.launch.pulse import Beat, Pulse, RunningClock


class Ranks:
    """A gang of beating ranks in made-up time: `states` maps a rank to (phase, step), None for one that is silent."""

    def __init__(self, size: int, limit: float = 20.0) -> None:
        self.now = 0.0
        self.pulse = Pulse(size, limit, RunningClock(lambda: self.now))
        self.since: dict[int, tuple[tuple[str, int], float]] = {}
        for rank in range(size):
            self.pulse.joined(rank, f"host{rank}")

    def run(self, seconds: int, states: dict[int, tuple[str, int] | None], waiting: set[int] | None = None) -> RankFailure | None:
        for _ in range(seconds):
            self.now += 1.0
            for rank, state in states.items():
                if state is not None:
                    if self.since.get(rank, (None, 0.0))[0] != state:
                        self.since[rank] = (state, self.now)
                    self.pulse.beat(rank, Beat(*state, self.now - self.since[rank][1]))
            failure = self.pulse.check(waiting or set())
            if failure is not None:
                return failure
        return None


def test_ranks_that_get_on_are_left_alone() -> None:
    ranks = Ranks(2)
    for step in range(10):
        assert ranks.run(15, {0: ("step", step), 1: ("step", 0)}) is None  # rank 1 is slow, but rank 0 moves


def test_the_rank_that_is_not_in_a_step_is_to_blame() -> None:
    ranks = Ranks(3)
    failure = ranks.run(60, {0: ("step", 7), 1: ("checkpoint", 7), 2: ("step", 6)})
    assert failure is not None and (failure.rank, failure.host, failure.kind) == (1, "host1", "stalled")
    assert 'in phase "checkpoint" of step 7 for 2' in failure.cause
    assert "rank 0 in step 7, rank 2 in step 6" in failure.cause
    assert failure.hint is not None and "raise stallTimeout (it is 20 s)" in failure.hint


def test_otherwise_it_is_the_one_that_is_behind() -> None:
    failure = Ranks(3).run(60, {0: ("step", 7), 1: ("step", 7), 2: ("step", 6)})
    assert failure is not None and failure.rank == 2


def test_a_rank_known_to_wait_for_others_is_never_to_blame() -> None:
    failure = Ranks(2).run(60, {0: ("checkpoint", 3), 1: ("step", 4)}, waiting={0})
    assert failure is not None and failure.rank == 1


def test_nobody_is_behind_when_all_are_in_the_same_step() -> None:
    failure = Ranks(2).run(60, {0: ("step", 7), 1: ("step", 7)})
    assert failure is not None and "like every other rank; a collective that never ends" in failure.cause


def test_a_function_that_never_notes_may_take_for_ever() -> None:
    assert Ranks(2).run(1000, {0: ("", 0), 1: ("", 0)}) is None


def test_a_rank_that_never_noted_is_to_blame_when_those_that_did_hang() -> None:
    failure = Ranks(2).run(60, {0: ("step", 0), 1: ("", 0)})
    assert failure is not None and failure.rank == 1 and "has not said yet what it does" in failure.cause


def test_a_rank_that_came_back_between_two_beats_has_moved() -> None:
    ranks = Ranks(1)
    for _ in range(5):
        assert ranks.run(15, {0: ("step", 1)}) is None
        ranks.since.clear()  # the seconds start again


def test_silence_of_task_and_rank_is_noticed_later_than_the_supervisor_would() -> None:
    ranks = Ranks(2)
    assert ranks.run(30, {0: ("", 0), 1: None}) is None
    failure = ranks.run(30, {0: ("", 0), 1: None})
    assert failure is not None and (failure.rank, failure.kind) == (1, "lost")
    assert "no sign of life for 36 s" in failure.cause


def test_a_rank_that_waits_for_a_silent_one_is_not_to_blame() -> None:
    """The silent one was last heard in the last step of an epoch, and stopped in the next: by its step it looks far ahead."""
    ranks = Ranks(2)
    assert ranks.run(1, {0: ("step", 48), 1: ("step", 49)}) is None
    failure = ranks.run(60, {0: ("step", 15), 1: None})
    assert failure is not None and (failure.rank, failure.kind) == (1, "lost")


@pytest.mark.parametrize("joined", [1, 2])
def test_beats_are_expected_only_from_when_all_have_joined(joined: int) -> None:
    ranks = Ranks(0)
    ranks.pulse = Pulse(2, 20.0, RunningClock(lambda: ranks.now))
    for rank in range(joined):
        ranks.pulse.joined(rank, "host")
    assert (ranks.run(100, {}) is None) == (joined < 2)


def test_a_rank_that_has_ended_is_not_missed() -> None:
    ranks = Ranks(2)
    assert ranks.run(10, {0: ("step", 1), 1: ("step", 1)}) is None
    ranks.pulse.left(1)
    failure = ranks.run(60, {0: ("step", 2)})
    assert failure is not None and failure.rank == 0
    ranks.pulse.left(0)
    assert ranks.run(100, {}) is None


def test_a_driver_that_was_stopped_itself_blames_nobody() -> None:
    ranks = Ranks(2)
    ranks.run(3, {0: ("step", 1), 1: ("step", 1)})
    ranks.now += 3600
    assert ranks.run(10, {0: ("step", 1), 1: None}) is None
