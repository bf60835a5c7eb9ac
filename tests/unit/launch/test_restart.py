from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sparkml.errors import ConfigError, DataError, LaunchError, SparkmlError, StorageError, TrainingError
from sparkml.launch import restart
from sparkml.launch.failure import RankFailure
from sparkml.launch.gang import Gang
from sparkml.launch.processes import ProcessGang
from sparkml.launch.restart import Restart, run_with_restarts
from sparkml.launch.worker import Worker


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; none is made."""
    asked: list[float] = []
    monkeypatch.setattr(restart.time, "sleep", asked.append)
    return asked


class Scripted(Gang):
    """A gang that fails as it is told, then succeeds; `slots` is what is available before each start."""

    def __init__(self, *failures: BaseException, slots: list[int] | None = None) -> None:
        super().__init__()
        self.failures, self.slots, self.sizes = list(failures), slots or [], list[int]()

    def run(self, fn: Callable[[Worker], bytes], size: int) -> list[bytes]:
        self.sizes.append(size)
        if self.failures:
            raise self.failures.pop(0)
        return [b"done"] * size

    def available(self, size: int) -> int:
        return min(size, self.slots.pop(0))


def nothing(worker: Worker) -> bytes:
    return b""


def ended(kind: str = "signal", error_type: str = "") -> SparkmlError:
    return RankFailure(1, "host1", kind, "was killed\nby someone", error_type).as_error()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["signal", "exit", "lost", "stalled"])
def test_a_failure_that_may_pass_is_tried_again(pauses: list[float], kind: str) -> None:
    seen: list[Restart] = []
    gang = Scripted(ended(kind), ended(kind))
    results, restarts = run_with_restarts(gang, nothing, 2, max_restarts=2, on_restart=seen.append)
    assert results == [b"done"] * 2 and restarts == seen
    assert [(each.attempt, each.size, each.reason) for each in seen] == [
        (1, 2, "rank 1 on host1 was killed"),
        (2, 2, "rank 1 on host1 was killed"),
    ]
    assert pauses == [1.0, 2.0]


def test_what_is_raised_twice_in_a_row_is_not_tried_a_third_time(pauses: list[float]) -> None:
    with pytest.raises(TrainingError, match=r"was killed(.|\n)*after 1 restart$"):
        run_with_restarts(Scripted(*[ended("exception", "OSError") for _ in range(3)]), nothing, 2, max_restarts=5)
    other = RankFailure(0, "host1", "exception", "failed: OSError: another", "OSError").as_error()
    results, restarts = run_with_restarts(Scripted(ended("exception", "OSError"), other), nothing, 2, max_restarts=5)
    assert results == [b"done"] * 2 and len(restarts) == 2


@pytest.mark.parametrize(
    "error",
    [
        ended("exception", "ConfigError"),
        ended("exception", "TrainingError"),
        ended("exception", "AttributeError"),
        ended("exception", "DataError"),
        ended("unfit"),
        LaunchError("3 ranks need 3 slots"),
        KeyboardInterrupt(),
    ],
)
def test_what_would_come_out_the_same_is_raised_at_once(pauses: list[float], error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        run_with_restarts(Scripted(error), nothing, 2, max_restarts=5)
    assert caught.value is error and "restart" not in str(error) and pauses == []


@pytest.mark.parametrize(
    ("name", "kind"), [("ConfigError", ConfigError), ("DataError", DataError), ("StorageError", StorageError)]
)
def test_errors_of_ours_keep_their_class_and_carry_the_failure(name: str, kind: type[SparkmlError]) -> None:
    error = ended("exception", name)
    assert type(error) is kind and isinstance(error.failure, RankFailure)


def test_io_trouble_is_tried_again(pauses: list[float]) -> None:
    assert len(run_with_restarts(Scripted(ended("exception", "StorageError")), nothing, 1, max_restarts=1)[1]) == 1


def test_the_last_error_tells_after_how_many_restarts(pauses: list[float]) -> None:
    with pytest.raises(LaunchError, match=r"rank 1 on host1 was killed(.|\n)*after 6 restarts"):
        run_with_restarts(Scripted(*[ended() for _ in range(7)]), nothing, 2, max_restarts=6)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    with pytest.raises(LaunchError, match=r"3 slots\n  after 1 restart$"):
        run_with_restarts(Scripted(ended(), LaunchError("3 slots")), nothing, 3, max_restarts=6)
    with pytest.raises(LaunchError) as caught:
        run_with_restarts(Scripted(ended()), nothing, 2)
    assert "restart" not in str(caught.value)


def test_it_goes_on_smaller_if_it_may(pauses: list[float]) -> None:
    gang = Scripted(ended(), ended(), ended(), slots=[3, 9, 1, 2])
    _, restarts = run_with_restarts(gang, nothing, 4, max_restarts=3, min_size=2)
    assert gang.sizes == [3, 4, 2, 2]  # never below the least: then the preflight of `run` has the word
    assert [each.size for each in restarts] == [4, 2, 2]


def test_it_stays_as_large_as_it_was_unless_told(pauses: list[float]) -> None:
    gang = Scripted(ended(), slots=[])
    assert len(run_with_restarts(gang, nothing, 4, max_restarts=1)[0]) == 4


@pytest.mark.parametrize("least", [0, 3])
def test_an_impossible_least_size_is_refused(least: int) -> None:
    with pytest.raises(LaunchError, match=rf"2 ranks cannot start with {least}"):
        run_with_restarts(Scripted(), nothing, 2, min_size=least)


def test_real_ranks_that_are_killed_once_finish(tmp_path: Path) -> None:
    def fn(worker: Worker) -> bytes:
        if worker.rank == 1 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        worker.barrier()
        return bytes([worker.rank])

    results, restarts = run_with_restarts(ProcessGang(), fn, 2, max_restarts=1)
    assert results == [b"\0", b"\1"]
    assert "rank 1 on" in restarts[0].reason and "SIGKILL" in restarts[0].reason and restarts[0].seconds > 0


def test_an_exception_of_the_function_is_tried_again_and_kept() -> None:
    def fn(worker: Worker) -> bytes:
        raise OSError("disk is away")

    with pytest.raises(TrainingError, match=r"disk is away(.|\n)*after 1 restart"):
        run_with_restarts(ProcessGang(), fn, 1, max_restarts=1)
