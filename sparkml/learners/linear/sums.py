"""`Sums`: what one pass over rows adds up at given coefficients, and the `Adder` that adds up blocks of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkml.learners.linear.families import Array, Family
from sparkml.learners.linear.tree_sum import Array as Summand


def is_sparse(x: Any) -> bool:
    """Whether rows are SciPy's: asked without `scipy.sparse`, which takes a third as long to import as all that a rank needs."""
    return not isinstance(x, np.ndarray)


@dataclass(frozen=True)
class Block:
    """Rows: `x` is (rows, features), the others (rows,) or absent.

    All have one type, float32 or float64; a sparse `x` (SciPy's ``csr_array``) may have another than the rest.
    """

    x: Any
    y: Array
    weight: Array | None = None
    offset: Array | None = None

    def part(self, start: int, stop: int) -> Block:
        at = slice(start, stop)
        if start == 0 and stop == len(self.y):
            return self  # rows of a sparse matrix would be copied
        return Block(self.x[at], self.y[at], *(None if values is None else values[at] for values in (self.weight, self.offset)))


Cut = tuple[int, int, int]  # first row, the row after the last, and the part that these rows are added to


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

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def loss_after(self, step: Summand) -> float:
        """Return the sum of losses a step further on: exact for squared errors, to third order in the step for others."""
        return self.loss + float(self.gradient @ step + step @ (self.gram @ step) / 2)

    def packed(self) -> Summand:
        """Return all of it as one vector: of the symmetric matrix one half."""
        upper = self.gram[np.triu_indices(len(self.gradient))]
        return np.concatenate([[self.rows, self.weight, self.loss, self.pearson], self.gradient, upper])

    @staticmethod
    def numbers(size: int) -> int:
        """Return how long the vector is."""
        return 4 + size + size * (size + 1) // 2

    @classmethod
    def unpacked(cls, vector: Summand, size: int) -> Sums:
        gradient, upper = np.split(vector[4:], [size])
        gram = np.zeros((size, size))
        gram[np.triu_indices(size)] = upper
        gram += np.triu(gram, 1).T
        rows, weight, loss, pearson = vector[:4].tolist()
        return cls(rows, weight, loss, pearson, gradient, gram)


class Adder:
    """Adds blocks up at the coefficients `w` = (features..., intercept), in `parts` that are kept apart.

    A block is worked on in its own precision, and what it adds up to is added in float64.

    Attributes
    ----------
    margins
        Of two classes, one per part: the least (2 y - 1) eta; above 0 the coefficients tell the classes apart without an error.
    """

    def __init__(self, family: Family, w: Summand, parts: int = 1) -> None:
        self.family, self.w = family, w
        self.margins = np.full(parts, np.inf)
        self._numbers = np.zeros((parts, 4))
        self._gradient, self._gram = np.zeros((parts, len(w))), np.zeros((parts, len(w), len(w)))
        self._scaled = np.empty((0, len(w) - 1))

    def take(self, block: Block, cuts: Sequence[Cut] = ()) -> None:
        """Add the block to the first part, or the rows of each cut to its own."""
        x, own, kind = block.x, block.weight, block.x.dtype
        eta = x @ self.w[:-1].astype(kind)
        eta += kind.type(self.w[-1])
        if block.offset is not None:
            eta += block.offset
        losses, slope, curvature, chi = row_terms(self.family, block, eta)
        margins = row_margins(block, eta) if self.family.separable else None
        if len(self._scaled) < len(x) or self._scaled.dtype != kind:
            self._scaled = np.empty(x.shape, kind)  # made anew for every block it would cost as much as the product
        scaled = np.multiply(x, np.sqrt(curvature)[:, None], out=self._scaled[: len(x)])
        for start, stop, part in cuts or ((0, len(x), 0),):
            rows = slice(start, stop)
            gradient, gram, own_x = self._gradient[part], self._gram[part], scaled[rows]
            gradient[:-1] += slope[rows] @ x[rows]
            gradient[-1] += slope[rows].sum(dtype=np.float64)
            gram[-1, :-1] += curvature[rows] @ x[rows]
            gram[-1, -1] += curvature[rows].sum(dtype=np.float64)
            gram[:-1, :-1] += own_x.T @ own_x
            weight = stop - start if own is None else float(own[rows].sum(dtype=np.float64))
            pearson = 0.0 if chi is None else float(chi[rows].sum(dtype=np.float64))
            self._numbers[part] += [stop - start, weight, losses[rows].sum(dtype=np.float64), pearson]
            if margins is not None:
                self.margins[part] = min(self.margins[part], float(margins[rows].min(initial=np.inf)))

    def sums(self, part: int = 0) -> Sums:
        gram = self._gram[part].copy()
        gram[:-1, -1] = gram[-1, :-1]
        rows, weight, loss, pearson = self._numbers[part].tolist()
        return Sums(rows, weight, loss, pearson, self._gradient[part], gram)


class OneByOne:
    """Adders of one point each that see the same blocks; of `without`, see `PairAdder`, which is used alike."""

    def __init__(self, adders: Sequence[Any], without: Sequence[int | None]) -> None:
        self._adders, self._without = adders, without

    @property
    def margins(self) -> Summand:
        return np.array([adder.margins for adder in self._adders])

    def take(self, block: Block, cuts: Sequence[Cut] = ()) -> None:
        for adder, out in zip(self._adders, self._without, strict=True):
            own = cuts if out is None else [(start, stop, 0) for start, stop, fold in cuts if fold != out]
            if own or out is None:
                adder.take(block, own)

    def sums(self, point: int, part: int = 0) -> Any:
        return self._adders[point].sums(part)


def row_terms(family: Family, block: Block, eta: Array) -> tuple[Array, Array, Array, Array | None]:
    """Return each row's loss, slope and curvature at its `eta`, and what it adds to Pearson's chi-square, times its weight.

    There is no chi-square (None) where the dispersion is known. `eta` may have one row for each of several points.
    """
    losses, slope, curvature = family.evaluate(eta, block.y)
    chi = None
    if family.dispersion is None:
        with np.errstate(divide="ignore", invalid="ignore"):
            chi = np.square(slope) / curvature
    if (own := block.weight) is None:
        return losses, slope, curvature, chi
    return losses * own, slope * own, curvature * own, None if chi is None else chi * own


def row_margins(block: Block, eta: Array) -> Array:
    """Return (2 y - 1) eta of each row, or infinity if it weighs nothing; a share between 0 and 1 is on no side."""
    margins: Array = np.where((block.y > 0) & (block.y < 1), 0, 2 * block.y - 1) * eta
    return margins if block.weight is None else np.where(block.weight > 0, margins, np.inf)
