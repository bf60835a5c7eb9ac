"""Sums through memory among real processes: the right ones, the same bits everywhere, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from sparkml.errors import LaunchError, TrainingError
from sparkml.launch import shared_memory
from sparkml.launch.processes import ProcessGang
from sparkml.launch.shared_memory import MAX_BYTES, meet
from sparkml.launch.worker import Worker

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/dev/shm"), reason="sums through memory need /dev/shm (Linux; mount a tmpfs there)"
)


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> object:
    before = set(Path("/dev/shm").glob("sparkml-*"))
    yield
    assert set(Path("/dev/shm").glob("sparkml-*")) == before


def values(rank: int, turn: int, count: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng([rank, turn]).normal(size=count).astype(np.float32)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_rank_gets_the_sum_in_rank_order(size: int) -> None:
    def fn(worker: Worker) -> bytes:
        host = meet(worker, 5000)
        assert host is not None and host.capacity == 5000
        marks = []
        for turn in range(60):
            if turn % 7 == worker.rank:
                time.sleep(0.003)  # ranks take turns in being late
            total = host.sum(values(worker.rank, turn, 1 + 80 * turn))
            marks.append(total.tobytes().hex())
        host.close()
        return json.dumps(marks).encode()

    found = [json.loads(result) for result in ProcessGang().run(fn, size)]
    for turn in range(60):
        wanted = values(0, turn, 1 + 80 * turn)
        for rank in range(1, size):
            wanted = wanted + values(rank, turn, 1 + 80 * turn)
        assert [marks[turn] for marks in found] == [wanted.tobytes().hex()] * size


def test_one_rank_too_many_ranks_and_too_much_memory_have_none() -> None:
    def fn(worker: Worker) -> bytes:
        return str(meet(worker, 10) is None).encode()

    assert ProcessGang().run(fn, 1) == [b"True"]
    assert ProcessGang().run(fn, shared_memory.MAX_RANKS + 1) == [b"True"] * 5

    def large(worker: Worker) -> bytes:
        return str(meet(worker, MAX_BYTES) is None).encode()

    assert ProcessGang().run(large, 2) == [b"True"] * 2


@pytest.mark.parametrize("what", ["_reserved", "_mapped"])
def test_ranks_agree_when_one_of_them_has_no_memory_or_does_not_see_the_others(what: str) -> None:
    def fn(worker: Worker) -> bytes:
        def refuse(*arguments: object) -> object:
            if what == "_mapped":
                raise FileNotFoundError
            return False

        if worker.rank == 1:
            setattr(shared_memory, what, refuse)
        return str(meet(worker, 10) is None).encode()

    assert ProcessGang().run(fn, 2) == [b"True"] * 2


def test_a_killed_rank_leaves_nothing_and_ends_the_others() -> None:
    def fn(worker: Worker) -> bytes:
        host = meet(worker, 10)
        assert host is not None
        for turn in range(1000):
            if worker.rank == 1 and turn == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            host.sum(np.ones(10, np.float32))
        return b""

    with pytest.raises(LaunchError, match=r"rank 1 on \S+ was killed by signal 9"):
        ProcessGang().run(fn, 2)


def test_a_rank_that_fails_is_to_blame_though_the_others_notice_first() -> None:
    def fn(worker: Worker) -> bytes:
        host = meet(worker, 10)
        assert host is not None
        host.sum(np.ones(10, np.float32))
        if worker.rank == 1:
            host.close()
            worker.log("closed")
            time.sleep(0.5)
            raise ValueError("the cause")
        time.sleep(0.1)
        for _ in range(2):
            host.sum(np.ones(10, np.float32))
        return b""

    with pytest.raises(TrainingError, match=r"rank 1 on \S+ failed: ValueError: the cause"):
        ProcessGang().run(fn, 2)
