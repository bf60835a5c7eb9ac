"""What ranks do in the linear benchmarks, without a gang: one process per rank that lives through all turns, pinned to a core."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from scripts.bench.harness import Taken
from sparkml.launch.processes import ProcessGang
from sparkml.launch.worker import Worker
from sparkml.learners.linear.families import Binomial
from sparkml.learners.linear.job import LinearJob, train_linear
from sparkml.learners.linear.passes import Task
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.rows import RankRows, RowSource
from sparkml.learners.linear.sums import Adder
from sparkml.shards.reader import ShardReader

RANKS = 2
Work = Callable[..., Any]


class Ranks:
    """So many processes, each on a core of its own, BLAS in one thread, as ranks have it."""

    def __init__(self, size: int = RANKS) -> None:
        self.size = size

    def __enter__(self) -> Ranks:
        spawn = get_context("spawn")
        self._pools = [ProcessPoolExecutor(1, mp_context=spawn, initializer=_pin, initargs=(at,)) for at in range(self.size)]
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown()

    def all(self, work: Work, *arguments: Any) -> list[Any]:
        """Return what ``work(rank, size, *arguments)`` gives in each process, all at once."""
        jobs = [pool.submit(work, rank, self.size, *arguments) for rank, pool in enumerate(self._pools)]
        return [job.result() for job in jobs]

    def passing(self, rows: int, work: Work, *arguments: Any) -> Callable[[], None]:
        """Return a side that has the ranks go over their rows, which must be `rows` in all."""

        def run() -> None:
            found = sum(self.all(work, *arguments))
            if found != rows:
                raise AssertionError(f"{found} rows were seen, there are {rows}")

        return run


class _Alone:
    """A worker that needs no other."""

    host = "here"

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.local_size = rank, size, size


def _pin(rank: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    threadpool_limits(1, user_api="blas")


def rows_of(rank: int, size: int, url: str, label: str = "label") -> RankRows:
    """Return a rank's rows, of which none are kept."""
    return RankRows(_Alone(rank, size), RowSource(url, "x", (label,), memory=0))  # type: ignore[arg-type]


def read(rank: int, size: int, url: str) -> int:
    """Decode the features and labels of a rank's row groups, and look at one value of each block."""
    mine = rows_of(rank, size, url)
    rows, seen = 0, 0.0
    for _, blocks in ShardReader(mine.set, [mine.groups[number] for number in mine.mine], ["x", "label"]).by_group(
        cached=mine.cached
    ):
        for batch in blocks:
            rows += len(batch["label"])
            seen += float(batch["x"][0, 0]) + float(batch["label"][0])
    return rows


def one_pass(rank: int, size: int, url: str, family: Any, label: str = "label") -> int:
    """Do what a rank does in one pass over its rows, nothing kept."""
    mine = rows_of(rank, size, url, label)
    adder = Adder(family, np.full(mine.features + 1, 0.01))
    for _, blocks in mine.by_group(list(mine.mine)):
        for rows in blocks:
            adder.take(rows.of(0))
    return int(adder.sums().rows)


def syrk(rank: int, size: int, rows: int, features: int, seconds: float = 1.0) -> tuple[float, float]:
    """Return the operations of x.T @ x of float32, again and again on one block, per second and per second of CPU."""
    x = np.random.default_rng(rank).standard_normal((rows, features), np.float32)
    x.T @ x
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        x.T @ x
        count += 1
    done = count * gram_flops(rows, features)
    return done / (time.perf_counter() - wall), done / (time.process_time() - cpu)


def gram_flops(rows: int, features: int) -> int:
    """Return the operations of a Gram matrix: one multiplication and one addition per row for each of its different entries."""
    return rows * features * (features + 1)


def copy(rank: int, size: int, seconds: float = 1.0) -> float:
    """Return the bytes per second that are read, and as many written, by a copy of 256 MiB."""
    source = np.ones(1 << 26, np.float32)
    target = np.zeros_like(source)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        np.copyto(target, source)
        count += 1
    return count * source.nbytes / (time.perf_counter() - began)


def fit_of(url: str, tolerance: float = 1e-6) -> LinearJob:
    """Return the job of a logistic regression of all rows, as the estimator makes it."""
    return LinearJob(RowSource(url, "x", ("label",)), (Binomial(),), (Task(Penalty()),), tolerance=tolerance)


def gang_fit(url: str, size: int, cores: set[int] | None = None) -> Taken:
    """Fit by a gang of `size` ranks, all of them on `cores` if given; return what its slowest rank took, and the CPU of all.

    The start of processes is not in it: the same on all sides, and the same whatever there is to fit.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        found = ProcessGang().run(partial(_timed_fit, job=fit_of(url)), size)
    finally:
        os.sched_setaffinity(0, before)
    seconds = [tuple(map(float, answer.split())) for answer in found]
    return Taken(max(wall for wall, _ in seconds), sum(cpu for _, cpu in seconds))


def _timed_fit(worker: Worker, job: LinearJob) -> bytes:
    worker.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    train_linear(worker, job)
    return f"{time.perf_counter() - wall} {time.process_time() - cpu}".encode()
