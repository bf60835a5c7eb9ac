"""`ScoreAdder`: how much the rows' scores spread, the filling of sandwich estimates of a covariance.

Huber, "The behavior of maximum likelihood estimates under nonstandard conditions", 1967; White, "A heteroskedasticity-consistent
covariance matrix estimator", 1980.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparkml.learners.linear.families import Array, Family
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.sums import Block
from sparkml.learners.linear.tree_sum import Array as Summand

COVARIANCES = ("nonrobust", "HC0", "HC1")
_BYTES = 2 << 20  # of what a block is spread to


@dataclass(frozen=True)
class Spread:
    """The sum of score score' over rows, (size, size), and which estimate is made of it: HC0, or HC1 for few rows."""

    kind: str
    scores: Summand

    def covariance(self, inverse: Summand, rows: float, rank: int) -> Summand:
        """Return that of the coefficients. `inverse` is the Hessian's (of the sum of losses): (size, size)."""
        factor = 1.0 if self.kind == "HC0" else rows / (rows - rank) if rows > rank else np.nan
        found: Summand = inverse @ self.scores @ inverse * factor
        return found


class ScoreAdder:
    """Adds up score score' at the coefficients `w`: one predictor's, or (outputs * (features + 1),), class by class.

    A row's score is its weight times the slope of its loss: a weight stands for how exact a row is (statsmodels'
    ``var_weights``), not for that many rows.
    """

    def __init__(self, family: Family | Multinomial, w: Summand) -> None:
        self.family = family
        self.w = w.reshape(family.classes if isinstance(family, Multinomial) else 1, -1)
        self._sum = np.zeros((w.size, w.size))

    def take(self, block: Block) -> None:
        rows = max(64, _BYTES // (block.x.dtype.itemsize * self.w.size))
        for start in range(0, len(block.x), rows):
            at = slice(start, start + rows)
            self._take(Block(*(None if part is None else part[at] for part in (block.x, block.y, block.weight, block.offset))))  # type: ignore[arg-type]

    def _take(self, block: Block) -> None:
        kind = block.x.dtype
        eta = block.x @ self.w[:, :-1].T.astype(kind) + self.w[:, -1].astype(kind)
        slope = self._slopes(eta, block)
        if block.weight is not None:
            slope *= block.weight[:, None]
        scores = np.empty((len(eta), *self.w.shape), kind)
        np.multiply(slope[:, :, None], block.x[:, None, :], out=scores[:, :, :-1])
        scores[:, :, -1] = slope
        flat = scores.reshape(len(eta), -1)
        self._sum += flat.T @ flat

    def _slopes(self, eta: Array, block: Block) -> Array:
        """Return d loss / d eta: (rows, outputs)."""
        if isinstance(self.family, Multinomial):
            slope = self.family.predict(eta)
            slope[np.arange(len(eta)), block.y.astype(np.int64)] -= 1
            return slope
        one = eta[:, 0] if block.offset is None else eta[:, 0] + block.offset
        return self.family.evaluate(one, block.y)[1][:, None]

    def packed(self) -> Summand:
        """Return one half of the symmetric matrix as a vector."""
        return self._sum[np.triu_indices(len(self._sum))]

    @staticmethod
    def numbers(size: int) -> int:
        """Return how long the vector is."""
        return size * (size + 1) // 2

    @staticmethod
    def unpacked(upper: Summand, size: int) -> Summand:
        full = np.zeros((size, size))
        full[np.triu_indices(size)] = upper
        return full + np.triu(full, 1).T
