from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sparkml.learners.feed import padded


class Rows:
    def __init__(self, count: int) -> None:
        self.num_rows = count
        self.x = np.arange(count * 4, dtype=np.float64).reshape(count, 4)

    def batches(self, batch_size: int, *, shuffle_seed: int | None, epoch: int) -> Iterator[dict[str, Any]]:
        for start in range(0, self.num_rows, batch_size):
            yield {"x": self.x[start : start + batch_size], "y": self.x[start : start + batch_size, 0]}


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_every_row_counts_once_and_every_batch_has_the_same_shape(count: int) -> None:
    batches = list(padded(Rows(count), 4, 3, (2, 2), ("x", "y"), seed=None, epoch=0))
    assert [(x.shape, y.shape, weight.shape) for x, y, weight in batches] == [((4, 2, 2), (4,), (4,))] * 3
    assert all(part.dtype == np.float32 for batch in batches for part in batch)
    counted = sorted(y[row] for _, y, weight in batches for row in range(4) if weight[row] == 1)
    assert counted == [row * 4 for row in range(count)]
    assert {float(value) for _, _, weight in batches for value in weight} <= {0.0, 1.0}


def test_padding_is_made_of_the_rank_s_own_rows() -> None:
    batches = list(padded(Rows(5), 4, 3, (4,), ("x", "y"), seed=None, epoch=0))
    assert batches[1][1].tolist() == [16, 16, 16, 16] and batches[1][2].tolist() == [1, 0, 0, 0]
    np.testing.assert_array_equal(batches[2][0], batches[1][0])
