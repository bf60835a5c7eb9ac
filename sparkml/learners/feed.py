"""Fixed-shape batches for compiled steps: every row exactly once, the rest padded with rows of weight zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Batch = tuple[Array, Array, Array]


class Rows(Protocol):
    """The rows of one rank; `sparkml.shards.reader.ShardReader` is one."""

    @property
    def num_rows(self) -> int: ...

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None, epoch: int
    ) -> Iterator[dict[str, npt.NDArray[np.generic]]]: ...


def padded(
    rows: Rows, batch_size: int, steps: int, shape: tuple[int, ...], columns: tuple[str, str], *, seed: int | None, epoch: int
) -> Iterator[Batch]:
    """Yield `steps` batches of features ``(batch_size, *shape)``, labels and weights ``(batch_size,)``.

    A short batch is filled up with its own rows, and a rank that has run out repeats its last batch, all of weight zero: rows of
    the real distribution, so that batch statistics inside the net stay sensible.
    """
    features, label = columns
    last: Batch = (
        np.zeros((batch_size, *shape), np.float32),
        np.zeros(batch_size, np.float32),
        np.zeros(batch_size, np.float32),
    )
    given = 0
    if rows.num_rows:
        for block in rows.batches(batch_size, shuffle_seed=seed, epoch=epoch):
            x = block[features].astype(np.float32, copy=False).reshape(-1, *shape)
            y = block[label].astype(np.float32, copy=False)
            weight = np.ones(batch_size, np.float32)
            if len(x) < batch_size:
                weight[len(x) :] = 0.0
                order = np.arange(batch_size) % len(x)
                x, y = x[order], y[order]
            last = (x, y, weight)
            yield last
            given += 1
    idle = np.zeros(batch_size, np.float32)
    for _ in range(given, steps):
        yield last[0], last[1], idle
