"""`PairAdder`: sums at several points at once, for rows of few features.

The products of every two features of a row are the same at all points. They are made once; times the curvatures, that is (pairs,
rows) times (rows, points), they are the Hessians of all points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparkml.learners.linear.families import Array, Family
from sparkml.learners.linear.sums import Block, Cut, Sums, row_margins, row_terms
from sparkml.learners.linear.tree_sum import Array as Summand

_NUMBERS = 1 << 16  # of linear predictors at a time: what is worked on stays in the cache
_PAIRS = 5 << 18  # products of pairs at a time: a whole block of ten features


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
        rows, several = len(block.y), self.margins.shape[1] > 1
        most, at_once = max(64, _PAIRS // self._gram.shape[2]), max(64, _NUMBERS // len(self.w))
        for first in range(0, rows, most):
            x, pairs = self._products(block.x[first : first + most])
            for start, stop, fold in cuts or ((0, rows, -2),):
                points, last = np.flatnonzero(self._without != fold), min(stop, first + most)
                for at in range(max(start, first), last, at_once) if len(points) else ():
                    end = min(at + at_once, last)
                    own = slice(at - first, end - first)
                    self._take(block.part(at, end), x[:, own], pairs[:, own], points, fold if several else 0)

    def _take(self, block: Block, x: Array, pairs: Array, points: np.ndarray[tuple[int], np.dtype[np.intp]], part: int) -> None:
        eta = self.w[points].astype(x.dtype) @ x
        if block.offset is not None:
            eta += block.offset
        losses, slope, curvature, chi = row_terms(self.family, block, eta)
        if self.family.separable:
            least = row_margins(block, eta).min(axis=1, initial=np.inf)
            self.margins[points, part] = np.minimum(self.margins[points, part], least)
        numbers = np.empty((len(points), 4))
        numbers[:, 0] = len(block.y)
        numbers[:, 1] = len(block.y) if block.weight is None else block.weight.sum(dtype=np.float64)
        losses.sum(axis=1, dtype=np.float64, out=numbers[:, 2])
        numbers[:, 3] = 0.0 if chi is None else chi.sum(axis=1, dtype=np.float64)
        self._numbers[points, part] += numbers
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
