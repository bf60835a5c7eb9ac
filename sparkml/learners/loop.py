"""The training loop, once for every learner and strategy: epochs, metrics over all ranks, early stopping, checkpoints, resume."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sparkml.errors import DataError, StorageError, TrainingError
from sparkml.launch.worker import Worker
from sparkml.learners.checkpoint import Arrays, Checkpoint, digest
from sparkml.learners.feed import Batch, Rows, padded
from sparkml.learners.training import TrainingOptions
from sparkml.storage import Store

_REPORT_SECONDS = 1.0
Totals = npt.NDArray[np.float64]


class Learner(Protocol):
    """What is trained. Totals are sums over rows, so that they add up over ranks: rows, loss, metric."""

    def start(self, steps_per_epoch: int) -> None:
        """Build what depends on the number of steps and make all ranks equal."""

    def step(self, batch: Batch) -> None: ...
    def evaluate(self, batch: Batch) -> None: ...
    def take_totals(self) -> Totals:
        """Return the totals since the last call and reset them."""

    def end_epoch(self, rows: int) -> None:
        """Make equal on all ranks what steps do not keep equal; `rows` is this rank's share of the epoch."""

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return named means from totals over all ranks."""

    def learning_rate(self) -> float: ...
    def state(self) -> Arrays: ...
    def restore(self, state: Arrays) -> None: ...
    def weights(self) -> Arrays: ...
    def set_weights(self, weights: Arrays) -> None: ...


@dataclass(frozen=True)
class Data:
    """One rank's rows and how they become batches. `columns` are those of the features and the label."""

    train: Rows
    validation: Rows | None
    shape: tuple[int, ...]
    columns: tuple[str, str]


@dataclass(frozen=True)
class Course:
    """How the training goes: settings, seed, where checkpoints go, and the fingerprint that a checkpoint must carry."""

    options: TrainingOptions
    seed: int
    store: Store | None
    checkpoint: str
    fingerprint: str


@dataclass
class _Progress:
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    best: Arrays = field(default_factory=dict)
    resumed: str = ""


def train(worker: Worker, learner: Learner, data: Data, course: Course) -> dict[str, Any]:
    """Train; return ``epochs`` (a dict each), ``best_epoch``, ``resumed`` (how), ``digest`` of the weights, and ``ranks``.

    Raises
    ------
    DataError
        No rank has a training row.
    TrainingError
        The loss became NaN or infinite, or ranks ended with different weights.
    """
    options = course.options
    counts = _gathered(worker, [data.train.num_rows, 0 if data.validation is None else data.validation.num_rows])
    if counts[:, 0].sum() == 0:
        raise DataError("there are no training rows", hint="look at the split and at the contract's quarantine")
    steps, validation_steps = (int(np.ceil(counts[:, column].max() / options.batch_size)) for column in (0, 1))
    learner.start(steps)
    progress = _resumed(worker, learner, course)
    while progress.epoch < options.epochs and not _stopped(progress, options):
        began = time.monotonic()
        batches = padded(data.train, options.batch_size, steps, data.shape, data.columns, seed=course.seed, epoch=progress.epoch)
        for batch in _reported(worker, batches, progress.epoch, options.epochs, steps):
            learner.step(batch)
        learner.end_epoch(int(counts[worker.rank, 0]))
        found = learner.metrics(_summed(worker, learner.take_totals()))
        seconds = time.monotonic() - began
        if data.validation is not None and validation_steps:
            for batch in padded(
                data.validation, options.batch_size, validation_steps, data.shape, data.columns, seed=None, epoch=0
            ):
                learner.evaluate(batch)
            found |= {f"val_{name}": value for name, value in learner.metrics(_summed(worker, learner.take_totals())).items()}
        rate = float(counts[:, 0].sum()) / seconds
        _close_epoch(worker, learner, course, progress, {**found, "seconds": seconds, "rows_per_second": rate})
    if options.patience is not None and progress.best:
        learner.set_weights(progress.best)
    return {
        "epochs": progress.history,
        "best_epoch": progress.best_epoch,
        "resumed": progress.resumed,
        "digest": _equal_everywhere(worker, learner),
        "ranks": [{"rank": rank, "rows": int(rows)} for rank, rows in enumerate(counts[:, 0])],
    }


def _close_epoch(worker: Worker, learner: Learner, course: Course, progress: _Progress, found: dict[str, float]) -> None:
    progress.epoch += 1
    judged = found.get("val_loss", found["loss"])
    if not math.isfinite(found["loss"]):
        raise TrainingError(
            f"the loss of epoch {progress.epoch} is {found['loss']}",
            hint="lower learning_rate, and scale the features (a standard_scaler stage)",
        )
    if judged < progress.best_loss:
        progress.best_loss, progress.best_epoch = judged, progress.epoch
        progress.best = learner.weights() if course.options.patience is not None else {}
    progress.history.append({"epoch": progress.epoch, **found, "learning_rate": learner.learning_rate()})
    if worker.rank == 0 and course.store is not None:
        notes = {"history": progress.history, "best_epoch": progress.best_epoch, "best_loss": progress.best_loss}
        arrays = {**learner.state(), **{f"best/{name}": value for name, value in progress.best.items()}}
        body = Checkpoint(course.fingerprint, worker.size, progress.epoch, arrays, notes).encode()
        course.store.replace(course.checkpoint, body)
    worker.report({"epochs": course.options.epochs, **progress.history[-1]})


def _stopped(progress: _Progress, options: TrainingOptions) -> bool:
    return options.patience is not None and progress.epoch - progress.best_epoch >= options.patience


def _resumed(worker: Worker, learner: Learner, course: Course) -> _Progress:
    """Go on from the checkpoint if there is one of this very training; say why if it is not used."""
    body = b""
    if course.store is not None and course.store.exists(course.checkpoint):
        body = course.store.read(course.checkpoint)
    seen = set(worker.all_gather(hashlib.sha256(body).digest()))
    if len(seen) > 1:
        assert course.store is not None
        raise TrainingError(
            f"ranks see different checkpoints at {course.store.url(course.checkpoint)}",
            hint="choose a checkpointDir on storage that all hosts share",
        )
    if not body:
        return _Progress()
    try:
        saved = Checkpoint.decode(body)
    except StorageError as error:
        return _afresh(worker, error.message)
    if saved.fingerprint != course.fingerprint:
        return _afresh(worker, "it belongs to a training with other data or settings")
    learner.restore({name: value for name, value in saved.arrays.items() if not name.startswith("best/")})
    best = {name.removeprefix("best/"): value for name, value in saved.arrays.items() if name.startswith("best/")}
    text = f"went on after epoch {saved.epoch}"
    if saved.size != worker.size:
        text += f", with {worker.size} ranks instead of {saved.size}: the weights will not be those of an uninterrupted run"
    worker.log(text)
    notes = saved.notes
    return _Progress(saved.epoch, notes["history"], notes["best_epoch"], notes["best_loss"], best, text)


def _afresh(worker: Worker, reason: str) -> _Progress:
    text = f"the checkpoint is not used: {reason}"
    worker.log(text)
    return _Progress(resumed=text)


def _reported(worker: Worker, batches: Iterator[Batch], epoch: int, epochs: int, steps: int) -> Iterator[Batch]:
    due = time.monotonic() + _REPORT_SECONDS
    for number, batch in enumerate(batches):
        if time.monotonic() >= due:
            worker.report({"epoch": epoch, "epochs": epochs, "step": number, "steps": steps})
            due = time.monotonic() + _REPORT_SECONDS
        yield batch


def _gathered(worker: Worker, values: list[int]) -> npt.NDArray[np.int64]:
    """Return one row of integers per rank."""
    blocks = worker.all_gather(np.asarray(values, "<i8").tobytes())
    return np.stack([np.frombuffer(block, "<i8") for block in blocks])


def _summed(worker: Worker, totals: Totals) -> Totals:
    blocks = worker.all_gather(totals.astype("<f8").tobytes())
    return np.sum([np.frombuffer(block, "<f8") for block in blocks], axis=0)  # type: ignore[no-any-return]


def _equal_everywhere(worker: Worker, learner: Learner) -> str:
    marks = [block.decode() for block in worker.all_gather(digest(learner.weights()).encode())]
    different = [rank for rank, mark in enumerate(marks) if mark != marks[0]]
    if different:
        raise TrainingError(
            f"the weights of ranks {different} differ from those of rank 0 at the end of training",
            hint="a layer keeps its own state outside Keras's variables, or ranks run different versions",
        )
    return marks[0]
