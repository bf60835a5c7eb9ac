"""`PairAdder`: sums at several points at once, for rows of few features.

The products of every two features of a row are the same at all points. They are made once; times the curvatures, that is (pairs,
rows) times (rows, points), they are the Hessians of all points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparkml.learners.linear.families import Array, Family
from sparkml.learners.linear.sums import Block, Cut, Sums, row_margins
from sparkml.learners.linear.tree_sum import Array as Summand

_NUMBERS = 1 << 16  # of linear predictors at a time: what is worked on stays in the cache
_PAIRS = 1 << 20


class PairAdder:
    """Adds blocks up at the points `w`, (points, features + 1), in `parts` that are kept apart.

    The sums are those of an `Adder` at each point, up to rounding.

    Parameters
    ----------
    parts
        As many as folds, or 1.
    without
        Of each point the fold that is left out of its sums; None: none is.

    Attributes
    ----------
    margins
        As an `Adder`'s: (points, parts).
    """

    def __init__(self, family: Family, w: Summand, parts: int, without: Sequence[int | None]) -> None:
        (points, size), self.family, self.w = w.shape, family, w
        self.margins = np.full((points, parts), np.inf)
        self._without = np.array([-1 if fold is None else fold for fold in without])
        self._numbers, self._gradient = np.zeros((points, parts, 4)), np.zeros((points, parts, size))
        self._gram = np.zeros((points, parts, size * (size + 1) // 2))
        self._made = np.empty(0)

    def take(self, block: Block, cuts: Sequence[Cut] = ()) -> None:
        """Add the block to the first part, or the rows of each cut to its own, if there are several."""
        most = max(64, min(_NUMBERS // len(self.w), _PAIRS // self._gram.shape[2]))
        for first, last, fold in cuts or ((0, len(block.y), -2),):
            points = np.flatnonzero(self._without != fold)
            for start in range(first, last, most) if len(points) else ():
                self._take(block.part(start, min(start + most, last)), points, fold if self.margins.shape[1] > 1 else 0)

    def _take(self, block: Block, points: np.ndarray[tuple[int], np.dtype[np.intp]], part: int) -> None:
        own, family = block.weight, self.family
        x, pairs = self._products(block.x)
        eta = self.w[points].astype(x.dtype) @ x
        if block.offset is not None:
            eta += block.offset
        losses, slope, curvature = family.evaluate(eta, block.y)
        chi = np.zeros((1, 1), x.dtype)
        if family.dispersion is None:
            with np.errstate(divide="ignore", invalid="ignore"):
                chi = np.square(slope) / curvature
        if family.separable:
            least = row_margins(block, eta).min(axis=1, initial=np.inf)
            self.margins[points, part] = np.minimum(self.margins[points, part], least)
        weight = float(len(block.y))
        if own is not None:
            losses, slope, curvature, chi = losses * own, slope * own, curvature * own, chi * own
            weight = float(own.sum(dtype=np.float64))
        sums = (values.sum(axis=1, dtype=np.float64) for values in (losses, chi))
        self._numbers[points, part] += np.column_stack(np.broadcast_arrays(len(block.y), weight, *sums))
        self._gradient[points, part] += slope @ x.T
        self._gram[points, part] += (pairs @ curvature.T).T

    def _products(self, x: Array) -> tuple[Array, Array]:
        """Return features and a 1, (features + 1, rows), and the products of every two, as `np.triu_indices` has them.

        Both are used up before the next block.
        """
        size, rows = x.shape[1] + 1, len(x)
        numbers = (size + self._gram.shape[2]) * rows
        if len(self._made) < numbers or self._made.dtype != x.dtype:
            self._made = np.empty(numbers, x.dtype)
        turned, pairs = np.split(self._made[:numbers].reshape(-1, rows), [size])
        turned[:-1], turned[-1] = x.T, 1
        at = 0
        for first in range(size):
            np.multiply(turned[first:], turned[first], out=pairs[at : at + size - first])
            at += size - first
        return turned, pairs

    def sums(self, point: int, part: int = 0) -> Sums:
        return Sums.unpacked(
            np.concatenate([each[point, part] for each in (self._numbers, self._gradient, self._gram)]), self.w.shape[1]
        )
