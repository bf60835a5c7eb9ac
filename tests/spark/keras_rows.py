"""Rows held in memory, and small jobs on them: what the Keras tests share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparkml.learners.feed import Layout
from sparkml.learners.inputs import Input, Target
from sparkml.learners.keras_job import KerasJob
from sparkml.learners.source import source_of
from sparkml.learners.training import TrainingOptions
from sparkml.learners.zoo.mlp import Mlp, MlpOptions
from sparkml.storage import Store

LAYOUT = Layout((Input("features", (3,)),), (Target("label", "classification", 3),))


@dataclass
class Memory:
    """Stands in for shards. `sizes` are the rows of all ranks, by default only these."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float64]
    shuffled: bool = True
    seed: int = 5
    sizes: tuple[int, ...] = ()
    weight: npt.NDArray[np.float32] | None = None

    def counts(self, epoch: int) -> list[int]:
        return list(self.sizes or (len(self.x),))

    def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Iterator[dict[str, Any]]:
        order = np.arange(len(self.x))
        if self.shuffled:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        for start in range(skip, len(order), batch_size):
            chosen = order[start : start + batch_size]
            extra = {} if self.weight is None else {"weight": self.weight[chosen]}
            yield {"features": self.x[chosen], "label": self.y[chosen], **extra}


class Unread(Memory):
    """Rows that must not be read."""

    def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Iterator[dict[str, Any]]:
        raise AssertionError(f"rows of epoch {epoch} are read")


def blobs(rows: int, seed: int = 0) -> Memory:
    """Three classes around three corners of the unit cube."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    return Memory((np.eye(3)[y] + rng.normal(0, 0.4, (rows, 3))).astype(np.float32), y.astype(np.float64))


def a_job(store: Store | None = None, build: Any = None, checkpoint: str = "checkpoints", **options: Any) -> KerasJob:
    settings = TrainingOptions(**{"epochs": 3, "batch_size": 16, "learning_rate": 0.05, **options})
    return KerasJob(
        source=source_of(build or Mlp(MlpOptions(hidden=(8,), dropout=0.2))),
        layout=LAYOUT,
        options=settings,
        seed=5,
        train="",
        validation=None,
        data_mark="d",
        store=store,
        checkpoint=checkpoint,
    )


def softmax_regression(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    import keras

    return keras.Sequential([keras.Input(shape), keras.layers.Dense(outputs, activation="softmax")])


def plain_fit(build: Any, x: Any, y: Any, batch_size: int, epochs: int = 1, **settings: Any) -> list[np.ndarray[Any, Any]]:
    """Train by Keras's own loop from the same initial weights."""
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(5)
    model = build()
    model.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, **settings)
    return model.get_weights()  # type: ignore[no-any-return]


def assert_same(found: Any, wanted: list[np.ndarray[Any, Any]]) -> None:
    for mine, theirs in zip(found.weights().values(), wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)


class Alone:
    """A gang of one, in this process."""

    rank, size, local_rank, local_size, host = 0, 1, 0, 1, "here"

    def barrier(self) -> None: ...
    def all_gather(self, payload: bytes) -> list[bytes]:
        return [payload]

    def note(self, phase: str, step: int) -> None: ...
    def log(self, text: str) -> None: ...
    def report(self, progress: dict[str, Any]) -> None: ...
