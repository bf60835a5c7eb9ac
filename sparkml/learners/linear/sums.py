"""`Sums`: what one pass over rows adds up at given coefficients, and the `Adder` that adds up blocks of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparkml.learners.linear.families import Array, Family
from sparkml.learners.linear.tree_sum import Array as Summand


@dataclass(frozen=True)
class Block:
    """Rows: `x` is (rows, features), the others (rows,) or absent. All have one type, float32 or float64."""

    x: Array
    y: Array
    weight: Array | None = None
    offset: Array | None = None


@dataclass(frozen=True)
class Sums:
    """Sums over rows, each times its weight; of ``size`` coefficients, the intercept last.

    Attributes
    ----------
    rows, weight, loss
        Number of rows, their weights, their losses.
    pearson
        Pearson's chi-square: sum of slope**2 / curvature; 0 for families whose dispersion is known.
    gradient
        (size,)
    gram
        (size, size): the Hessian of the loss.
    """

    rows: float
    weight: float
    loss: float
    pearson: float
    gradient: Summand
    gram: Summand

    def packed(self) -> Summand:
        """Return all of it as one vector: of the symmetric matrix one half."""
        upper = self.gram[np.triu_indices(len(self.gradient))]
        return np.concatenate([[self.rows, self.weight, self.loss, self.pearson], self.gradient, upper])

    @classmethod
    def unpacked(cls, vector: Summand, size: int) -> Sums:
        gradient, upper = np.split(vector[4:], [size])
        gram = np.zeros((size, size))
        gram[np.triu_indices(size)] = upper
        gram += np.triu(gram, 1).T
        rows, weight, loss, pearson = vector[:4].tolist()
        return cls(rows, weight, loss, pearson, gradient, gram)


class Adder:
    """Adds blocks up at the coefficients `w` = (features..., intercept).

    A block is worked on in its own precision, and what it adds up to is added in float64.

    Attributes
    ----------
    margin
        Of two classes: the least (2 y - 1) eta; above 0 the coefficients tell the classes apart without an error.
    """

    def __init__(self, family: Family, w: Summand) -> None:
        self.family, self.w = family, w
        self.margin = np.inf
        self._numbers = np.zeros(4)
        self._gradient, self._gram = np.zeros(len(w)), np.zeros((len(w), len(w)))
        self._scaled = np.empty((0, len(w) - 1))

    def take(self, block: Block) -> None:
        x, own, kind, family = block.x, block.weight, block.x.dtype, self.family
        eta = x @ self.w[:-1].astype(kind)
        eta += kind.type(self.w[-1])
        if block.offset is not None:
            eta += block.offset
        losses, slope, curvature = family.evaluate(eta, block.y)
        pearson = 0.0
        if family.dispersion is None:
            with np.errstate(divide="ignore", invalid="ignore"):
                chi = np.square(slope) / curvature
            pearson = float(chi.sum(dtype=np.float64) if own is None else chi @ own)
        if family.separable:
            self.margin = min(self.margin, _margin(block, eta))
        if own is not None:
            slope, curvature, losses = slope * own, curvature * own, losses * own
        self._gradient[:-1] += slope @ x
        self._gradient[-1] += slope.sum(dtype=np.float64)
        self._gram[-1, :-1] += curvature @ x
        self._gram[-1, -1] += curvature.sum(dtype=np.float64)
        if len(self._scaled) < len(x) or self._scaled.dtype != kind:
            self._scaled = np.empty(x.shape, kind)  # made anew for every block it would cost as much as the product
        part = np.multiply(x, np.sqrt(curvature)[:, None], out=self._scaled[: len(x)])
        self._gram[:-1, :-1] += part.T @ part
        weight = len(x) if own is None else float(own.sum(dtype=np.float64))
        self._numbers += [len(x), weight, losses.sum(dtype=np.float64), pearson]

    def sums(self) -> Sums:
        gram = self._gram.copy()
        gram[:-1, -1] = gram[-1, :-1]
        rows, weight, loss, pearson = self._numbers.tolist()
        return Sums(rows, weight, loss, pearson, self._gradient, gram)


def _margin(block: Block, eta: Array) -> float:
    """Return the least (2 y - 1) eta of rows that weigh something; a share between 0 and 1 is on no side."""
    margins = np.where((block.y > 0) & (block.y < 1), 0, 2 * block.y - 1) * eta
    if block.weight is not None:
        margins = margins[block.weight > 0]
    return float(margins.min(initial=np.inf))
