"""The training loop, once for every learner and strategy: epochs, metrics over all ranks, early stopping, checkpoints, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sparkml.errors import DataError, TrainingError
from sparkml.launch.worker import Worker
from sparkml.learners import agree
from sparkml.learners.checkpoint import Arrays, Checkpoint, digest
from sparkml.learners.feed import Batch, Layout, Rows, padded
from sparkml.learners.progress import Progress
from sparkml.learners.resume import Keeper
from sparkml.learners.training import NetOptions

_REPORT_SECONDS = 1.0
_SLOW = 1.25  # a rank that computes this much longer than the median is told


class Learner(Protocol):
    """What is trained. Totals are sums over rows, so that they add up over ranks."""

    def start(self, steps_per_epoch: int) -> None:
        """Build what depends on the number of steps and make all ranks equal."""

    def begin(self) -> None:
        """Training begins, or goes on."""

    def begin_epoch(self, epoch: int) -> None: ...
    def step(self, batch: Batch, number: int, *, last: bool, due: bool) -> bool:
        """Take one step; return whether any rank found a checkpoint `due`, once ranks have combined (else False)."""

    def evaluate(self, batch: Batch) -> None: ...
    def average(self, rows: int) -> None:
        """Make equal on all ranks what steps do not keep equal; `rows` is this rank's share of the epoch."""

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> bool:
        """Return whether training shall stop here."""

    def end(self) -> None: ...
    def take_wait(self) -> float:
        """Return the seconds since the last call in which steps waited for other ranks."""

    def totals(self) -> Arrays: ...
    def set_totals(self, totals: Arrays) -> None:
        """Replace the totals; an empty mapping sets them to zero."""

    def metrics(self) -> dict[str, float]:
        """Return named means from the totals."""

    def learning_rate(self) -> float: ...
    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return what makes the course go on as it would have: arrays, and notes as JSON."""

    def restore(self, arrays: Arrays, notes: dict[str, Any]) -> None: ...
    def own_state(self) -> Arrays:
        """Return what differs between ranks in the middle of an epoch."""

    def restore_own(self, state: Arrays) -> None: ...
    def weights(self) -> Arrays: ...
    def set_weights(self, weights: Arrays) -> None: ...


@dataclass(frozen=True)
class Data:
    """One rank's rows and how they become batches."""

    train: Rows
    validation: Rows | None
    layout: Layout


@dataclass
class _Clock:
    """Where the seconds of an epoch went on this rank: `data` waiting for rows, `steps` in compiled steps."""

    data: float = 0.0
    steps: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def train(worker: Worker, learner: Learner, data: Data, options: NetOptions, keeper: Keeper) -> dict[str, Any]:
    """Train; return ``epochs`` (a dict each), ``best_epoch``, ``resumed`` (how), ``digest`` of the weights, and ``ranks``.

    Raises
    ------
    DataError
        No rank has a training row.
    TrainingError
        The loss became NaN or infinite, or ranks ended with different weights.
    """
    counts = data.train.counts(0)
    if sum(counts) == 0:
        raise DataError("there are no training rows", hint="look at the split and at the contract's quarantine")
    learner.start(_steps(counts, options))
    learner.begin()
    progress = keeper.resume(worker, learner, options)
    if keeper.begins_anew:
        keeper.begin_anew(_checkpoint(worker, learner, keeper, progress))
    while progress.epoch < options.epochs and not progress.stopped and not _patience_is_over(progress, options):
        if progress.step == 0:
            learner.begin_epoch(progress.epoch)
        clock = _Clock()
        steps = _train_epoch(worker, learner, data, options, keeper, progress, clock)
        found = _found(worker, learner)
        timing = _timing(worker, learner, clock, steps, data.train.counts(progress.epoch), options.batch_size)
        if data.validation is not None and sum(data.validation.counts(0)) > 0:
            found |= {f"val_{name}": value for name, value in _validate(worker, learner, data, data.validation, options).items()}
        _close_epoch(worker, learner, options, progress, {**found, **timing})
        keeper.save(worker, _checkpoint(worker, learner, keeper, progress), {})
    learner.end()
    if options.patience is not None and progress.best:
        learner.set_weights(progress.best)
    keeper.close()
    return {
        "epochs": progress.history,
        "best_epoch": progress.best_epoch,
        "resumed": progress.resumed,
        "digest": _equal_everywhere(worker, learner),
        "ranks": [{"rank": rank, "rows": int(rows)} for rank, rows in enumerate(data.train.counts(max(0, progress.epoch - 1)))],
        "checkpoints_failed": keeper.failures,
    }


def _steps(counts: list[int], options: NetOptions) -> int:
    return math.ceil(max(counts) / options.batch_size)


def _train_epoch(
    worker: Worker, learner: Learner, data: Data, options: NetOptions, keeper: Keeper, progress: Progress, clock: _Clock
) -> int:
    """Take the epoch's steps, from where a checkpoint left off; return how many were taken here."""
    epoch, first = progress.epoch, progress.step
    counts = data.train.counts(epoch)
    steps = _steps(counts, options)
    learner.take_wait()
    keeper.tick(progress)
    mine = counts[worker.rank]
    batches = _timed(padded(data.train, data.layout, options.batch_size, steps, epoch=epoch, mine=mine, done=first), clock)
    due_report = 0.0  # the first step tells that the training is on its way
    for number, batch in enumerate(batches, first):
        last = number + 1 == steps
        worker.note("step", number)
        began = time.monotonic()
        wanted = learner.step(batch, number, last=last, due=keeper.due(worker, number + 1))
        now = time.monotonic()
        clock.steps += now - began
        if wanted and not last:
            worker.note("checkpoint", number)
            progress.step = number + 1
            keeper.save(worker, _checkpoint(worker, learner, keeper, progress), learner.own_state())
        if now >= due_report:
            done = number + 1 - first
            rate = done * options.batch_size / clock.seconds
            worker.report(
                {
                    "epoch": epoch,
                    "epochs": options.epochs,
                    "step": number + 1,
                    "steps": steps,
                    "loss": learner.metrics()["loss"],
                    "rows_per_second": rate,
                    "step_ms": 1e3 * clock.steps / done,
                    "data_share": clock.data / clock.seconds,
                }
            )
            due_report = now + _REPORT_SECONDS
        worker.note("data", number)
    progress.step = 0
    return steps - first


def _timed(batches: Iterator[Batch], clock: _Clock) -> Iterator[Batch]:
    while True:
        began = time.monotonic()
        batch = next(batches, None)
        clock.data += time.monotonic() - began
        if batch is None:
            return
        yield batch


def _found(worker: Worker, learner: Learner) -> dict[str, float]:
    """Return the metrics over the rows of all ranks, and forget the totals."""
    learner.set_totals(agree.summed(worker, learner.totals()))
    found = learner.metrics()
    learner.set_totals({})
    return found


def _validate(worker: Worker, learner: Learner, data: Data, rows: Rows, options: NetOptions) -> dict[str, float]:
    worker.note("validation", 0)
    counts = rows.counts(0)
    batches = padded(rows, data.layout, options.batch_size, _steps(counts, options), epoch=0, mine=counts[worker.rank])
    for number, batch in enumerate(batches):
        learner.evaluate(batch)
        worker.note("validation", number)
    return _found(worker, learner)


def _timing(worker: Worker, learner: Learner, clock: _Clock, steps: int, counts: list[int], batch_size: int) -> dict[str, Any]:
    """Gather where each rank's seconds went; name ranks that compute much longer than the others."""
    waited = learner.take_wait()
    seconds = clock.seconds
    learner.average(counts[worker.rank])
    mine = {"host": worker.host, "seconds": seconds, "data": clock.data, "steps": clock.steps, "waited": waited}
    ranks = agree.gathered(worker, mine)
    computing = [rank["steps"] - rank["waited"] for rank in ranks]
    usual = float(np.median(computing))
    slow = [
        f"rank {at} on {rank['host']} computes {own / usual:.1f} times as long as the median rank"
        for at, (rank, own) in enumerate(zip(ranks, computing, strict=True))
        if worker.size > 1 and usual > 0 and own / usual > _SLOW
    ]
    for notice in slow if worker.rank == 0 else ():
        worker.log(f"straggler: {notice}")
    total = sum(rank["seconds"] for rank in ranks)
    return {
        "seconds": seconds,
        "rows_per_second": min(sum(counts), steps * batch_size * worker.size) / seconds,  # of a resumed epoch only what was left
        "step_ms": 1e3 * clock.steps / max(1, steps),
        "data_share": sum(rank["data"] for rank in ranks) / total,
        "wait_share": sum(rank["waited"] for rank in ranks) / total,
        "step_share": sum(rank["steps"] for rank in ranks) / total,
        **({"stragglers": slow} if slow else {}),
    }


def _close_epoch(worker: Worker, learner: Learner, options: NetOptions, progress: Progress, found: dict[str, Any]) -> None:
    progress.epoch += 1
    judged = found.get("val_loss", found["loss"])
    if not math.isfinite(found["loss"]):
        raise TrainingError(
            f"the loss of epoch {progress.epoch} is {found['loss']}",
            hint="lower learning_rate, and scale the features (a standard_scaler stage)",
        )
    if judged < progress.best_loss:
        progress.best_loss, progress.best_epoch = judged, progress.epoch
        progress.best = learner.weights() if options.patience is not None else {}
    progress.history.append({"epoch": progress.epoch, **found, "learning_rate": learner.learning_rate()})
    worker.note("callback", 0)
    numbers = {name: value for name, value in progress.history[-1].items() if isinstance(value, int | float)}
    stop = learner.end_epoch(progress.epoch - 1, {name: value for name, value in numbers.items() if name != "epoch"})
    progress.stopped = any(agree.gathered(worker, stop))
    worker.report({"epochs": options.epochs, **progress.history[-1]})


def _checkpoint(worker: Worker, learner: Learner, keeper: Keeper, progress: Progress) -> Checkpoint | None:
    """Return the present state on rank 0; the others have nothing to write."""
    if worker.rank != 0 or not keeper.writes:
        return None
    arrays, notes = learner.state()
    return Checkpoint(
        keeper.fingerprint,
        worker.size,
        progress.epoch,
        progress.step,
        {**arrays, **{f"best/{name}": value for name, value in progress.best.items()}},
        {
            "learner": notes,
            "history": list(progress.history),
            "best_epoch": progress.best_epoch,
            "best_loss": progress.best_loss,
            "stopped": progress.stopped,
            "shuffle_bytes": keeper.shuffle_bytes,
        },
    )


def _patience_is_over(progress: Progress, options: NetOptions) -> bool:
    return options.patience is not None and progress.epoch - progress.best_epoch >= options.patience


def _equal_everywhere(worker: Worker, learner: Learner) -> str:
    marks = agree.gathered(worker, digest(learner.weights()))
    different = [rank for rank, mark in enumerate(marks) if mark != marks[0]]
    if different:
        raise TrainingError(
            f"the weights of ranks {different} differ from those of rank 0 at the end of training",
            hint="a layer keeps its own state outside Keras's variables, a callback changed only some ranks, or versions differ",
        )
    return str(marks[0])
