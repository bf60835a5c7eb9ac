"""Rows held in memory, and small jobs on them: what the Keras tests share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparkml.learners.keras import KerasJob, Target
from sparkml.learners.training import TrainingOptions
from sparkml.learners.zoo.mlp import Mlp, MlpOptions
from sparkml.storage import Store


@dataclass
class Memory:
    """Stands in for a shard reader."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float64]
    shuffled: bool = True

    @property
    def num_rows(self) -> int:
        return len(self.x)

    def batches(self, batch_size: int, *, shuffle_seed: int | None, epoch: int) -> Iterator[dict[str, Any]]:
        order = np.arange(len(self.x))
        if shuffle_seed is not None and self.shuffled:
            np.random.default_rng([shuffle_seed, epoch]).shuffle(order)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield {"features": self.x[chosen], "label": self.y[chosen]}


def blobs(rows: int, seed: int = 0) -> Memory:
    """Three classes around three corners of the unit cube."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    return Memory((np.eye(3)[y] + rng.normal(0, 0.4, (rows, 3))).astype(np.float32), y.astype(np.float64))


def a_job(store: Store | None = None, build: Any = None, checkpoint: str = "checkpoint.npz", **options: Any) -> KerasJob:
    settings = TrainingOptions(**{"epochs": 3, "batch_size": 16, "learning_rate": 0.05, **options})
    return KerasJob(
        build=build or Mlp(MlpOptions(hidden=(8,), dropout=0.2)).build,
        target=Target("classification", 3),
        shape=(3,),
        options=settings,
        seed=5,
        train="",
        validation=None,
        data_mark="d",
        columns=("features", "label"),
        store=store,
        checkpoint=checkpoint,
    )


def softmax_regression(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    import keras

    return keras.Sequential([keras.Input(shape), keras.layers.Dense(outputs, activation="softmax")])


class Alone:
    """A gang of one, in this process."""

    rank, size, local_rank, local_size, host = 0, 1, 0, 1, "here"

    def barrier(self) -> None: ...
    def all_gather(self, payload: bytes) -> list[bytes]:
        return [payload]

    def log(self, text: str) -> None: ...
    def report(self, progress: dict[str, Any]) -> None: ...
