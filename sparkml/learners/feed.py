"""Fixed-shape batches for compiled steps: every row exactly once, the rest padded with rows that do not count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sparkml.learners.inputs import Input, Target

Array = npt.NDArray[Any]


class Batch(NamedTuple):
    """Tensors of one step, ``batch_size`` rows each.

    Attributes
    ----------
    inputs, labels
        One array per `Input` and `Target`.
    counts
        1 for a row of the data, 0 for padding; shape (rows,).
    weights
        `counts` times the row's own weight; shape (rows,).
    """

    inputs: tuple[Array, ...]
    labels: tuple[Array, ...]
    counts: Array
    weights: Array


class Rows(Protocol):
    """The rows of all ranks, and this rank's share of them in every epoch."""

    def counts(self, epoch: int) -> list[int]:
        """Return how many rows each rank has in that epoch."""

    def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Iterator[Mapping[str, Array]]:
        """Yield this rank's rows of an epoch, without the first `skip` of them."""


@dataclass(frozen=True)
class Layout:
    """How the columns of rows become a `Batch`. `weight` is the column of row weights, if there is one."""

    inputs: tuple[Input, ...]
    targets: tuple[Target, ...]
    weight: str | None = None

    @property
    def columns(self) -> list[str]:
        names = [*(item.name for item in self.inputs), *(target.column for target in self.targets)]
        return list(dict.fromkeys([*names, self.weight] if self.weight else names))

    def batch(self, block: Mapping[str, Array], size: int) -> Batch:
        """Return a batch of `size` rows; a shorter block is filled up with its own rows, which do not count.

        They are rows of the real distribution, so that batch statistics inside the net stay sensible.
        """
        found = len(block[self.targets[0].column])
        counts = np.zeros(size, np.float32)
        counts[:found] = 1.0
        weights = counts.copy()
        if self.weight is not None:
            weights[:found] = block[self.weight]
        order = None if found == size else np.arange(size) % found
        inputs = [block[item.name].astype(item.dtype, copy=False).reshape(found, *item.shape) for item in self.inputs]
        labels = [
            block[target.column].astype(np.float32, copy=False).reshape(found, *target.label_shape) for target in self.targets
        ]
        if order is not None:
            inputs, labels = [values[order] for values in inputs], [values[order] for values in labels]
        return Batch(tuple(inputs), tuple(labels), counts, weights)

    def nothing(self, size: int) -> Batch:
        """Return a batch in which no row counts."""
        zero = np.zeros(size, np.float32)
        inputs = tuple(np.zeros((size, *item.shape), item.dtype) for item in self.inputs)
        return Batch(inputs, tuple(np.zeros((size, *target.label_shape), np.float32) for target in self.targets), zero, zero)


def padded(rows: Rows, layout: Layout, batch_size: int, steps: int, *, epoch: int, mine: int, done: int = 0) -> Iterator[Batch]:
    """Yield the batches of an epoch from step `done` to step `steps`; a rank that has run out repeats its last, uncounted.

    `mine` is the number of this rank's rows.
    """
    last = layout.nothing(batch_size)
    own = -(-mine // batch_size)
    first = min(done, max(0, own - 1))  # the last batch is needed even when it was trained on before
    for number, block in enumerate(rows.batches(batch_size, epoch=epoch, skip=first * batch_size), first):
        last = layout.batch(block, batch_size)
        if number >= done:
            yield last
    idle = last._replace(counts=np.zeros_like(last.counts), weights=np.zeros_like(last.weights))
    for _ in range(max(own, done), steps):
        yield idle


class Shards:
    """`Rows` of a published shard set. With a seed, groups are dealt to ranks and rows shuffled anew in every epoch."""

    def __init__(self, url: str, columns: Sequence[str], rank: int, size: int, seed: int | None, shuffle_bytes: int) -> None:
        from sparkml.shards.reader import ShardSet

        self._set, self._columns = ShardSet.open(url), list(columns)
        self._rank, self._size, self._seed, self._shuffle_bytes = rank, size, seed, shuffle_bytes

    def counts(self, epoch: int) -> list[int]:
        return [sum(group.rows for group in share) for share in self._set.deal(self._size, self._seed, epoch)]

    def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Iterator[Mapping[str, Array]]:
        from sparkml.shards.reader import ShardReader

        mine = self._set.assign(self._rank, self._size, self._seed, epoch)
        reader = ShardReader(self._set, mine, self._columns, shuffle_bytes=self._shuffle_bytes)
        return reader.batches(batch_size, shuffle_seed=self._seed, epoch=epoch, skip=skip)
