from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sparkml.learners.feed import Layout, padded
from sparkml.learners.inputs import Input, Target

LAYOUT = Layout((Input("x", (2, 2)),), (Target("y", "classification", 9),))


class Rows:
    def __init__(self, count: int) -> None:
        self.num_rows = count
        self.x = np.arange(count * 4, dtype=np.float64).reshape(count, 4)

    def counts(self, epoch: int) -> list[int]:
        return [self.num_rows]

    def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Iterator[dict[str, Any]]:
        for start in range(skip, self.num_rows, batch_size):
            chosen = self.x[start : start + batch_size]
            yield {"x": chosen, "y": chosen[:, 0], "ids": chosen.astype(np.int64), "w": chosen[:, 0] / 4 + 0.5}


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_every_row_counts_once_and_every_batch_has_the_same_shape(count: int) -> None:
    batches = list(padded(Rows(count), LAYOUT, 4, 3, epoch=0, mine=count))
    assert [(b.inputs[0].shape, b.labels[0].shape, b.counts.shape) for b in batches] == [((4, 2, 2), (4,), (4,))] * 3
    assert all(part.dtype == np.float32 for batch in batches for part in (*batch.inputs, *batch.labels, batch.counts))
    counted = sorted(batch.labels[0][row] for batch in batches for row in range(4) if batch.counts[row] == 1)
    assert counted == [row * 4 for row in range(count)]
    assert {float(value) for batch in batches for value in batch.counts} <= {0.0, 1.0}


def test_padding_is_made_of_the_rank_s_own_rows() -> None:
    batches = list(padded(Rows(5), LAYOUT, 4, 3, epoch=0, mine=5))
    assert batches[1].labels[0].tolist() == [16, 16, 16, 16] and batches[1].counts.tolist() == [1, 0, 0, 0]
    np.testing.assert_array_equal(batches[2].inputs[0], batches[1].inputs[0])
    assert batches[2].counts.sum() == 0


def test_an_epoch_goes_on_in_its_middle() -> None:
    whole, rest = (list(padded(Rows(9), LAYOUT, 4, 6, epoch=0, mine=9, done=done)) for done in (0, 2))
    assert len(rest) == 4
    for done in (2, 3, 5):  # also when all rows were seen before: what idle steps repeat shapes the net's batch statistics
        rest = list(padded(Rows(9), LAYOUT, 4, 6, epoch=0, mine=9, done=done))
        assert len(rest) == 6 - done
        for found, wanted in zip(rest, whole[done:], strict=True):
            np.testing.assert_array_equal(found.inputs[0], wanted.inputs[0])
            np.testing.assert_array_equal(found.counts, wanted.counts)
    assert list(padded(Rows(9), LAYOUT, 4, 3, epoch=0, mine=9, done=3)) == []


def test_weights_ids_and_several_columns() -> None:
    layout = Layout(
        (Input("x", (4,)), Input("ids", (4,), "int32", 40)), (Target("y", "regression", 1), Target("x", "regression", 4)), "w"
    )
    assert layout.columns == ["x", "ids", "y", "w"]
    first, second = padded(Rows(5), layout, 4, 2, epoch=0, mine=5)
    assert [value.dtype for value in first.inputs] == [np.float32, np.int32]
    assert [value.shape for value in first.labels] == [(4, 1), (4, 4)]
    assert first.weights.tolist() == [0.5, 1.5, 2.5, 3.5] and second.weights.tolist() == [4.5, 0, 0, 0]
