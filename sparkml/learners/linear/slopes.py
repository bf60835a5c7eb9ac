"""`Slopes`: what one pass adds up for a method that needs no Hessian, of dense and of sparse rows alike.

Sparse rows are centred without a number more: (x - center) w = x w - center w is a matter of the intercept alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkml.learners.linear.families import Array, Family
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.sums import Block, Cut, is_sparse, row_margins
from sparkml.learners.linear.tree_sum import Array as Summand

_ETA_BYTES = 16 << 20  # of several classes' linear predictors at a time


@dataclass(frozen=True)
class Slopes:
    """Sums over rows, each times its weight; of ``size`` coefficients, the intercept of each predictor last.

    Attributes
    ----------
    rows, weight, loss
        Number of rows, their weights, their losses.
    gradient
        (size,)
    diagonal, coupling
        Of the Hessian its diagonal and, of each predictor by itself, the intercept's row: (size,) where details were asked for,
        else (0,).
    """

    rows: float
    weight: float
    loss: float
    gradient: Summand
    diagonal: Summand
    coupling: Summand

    @property
    def detailed(self) -> bool:
        return len(self.diagonal) > 0

    def __add__(self, other: Slopes) -> Slopes:
        return Slopes(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def packed(self) -> Summand:
        """Return all of it as one vector."""
        return np.concatenate([[self.rows, self.weight, self.loss], self.gradient, self.diagonal, self.coupling])

    def centred(self, center: Summand) -> Slopes:
        """Return the same of features less `center`, (features,)."""
        shape = (-1, len(center) + 1)
        gradient, diagonal, coupling = (part.reshape(shape).copy() for part in (self.gradient, self.diagonal, self.coupling))
        diagonal[:, :-1] += center * (center * coupling[:, -1:] - 2 * coupling[:, :-1])
        for part in (gradient, coupling):
            part[:, :-1] -= center * part[:, -1:]
        parts = gradient.ravel(), np.maximum(diagonal, 0.0).ravel(), coupling.ravel()
        return Slopes(self.rows, self.weight, self.loss, *parts)

    @staticmethod
    def numbers(size: int, *, detailed: bool) -> int:
        """Return how long the vector is."""
        return 3 + (3 if detailed else 1) * size

    @classmethod
    def unpacked(cls, vector: Summand, size: int) -> Slopes:
        rows, weight, loss = vector[:3].tolist()
        return cls(rows, weight, loss, *np.split(vector[3:], [size, 2 * size]))


class SlopeAdder:
    """Adds blocks up at the coefficients `w`, (outputs * (features + 1),), in `parts` that are kept apart.

    Parameters
    ----------
    center
        What features are taken less of for eta: (features,); None: nothing.
    detailed
        Whether to add up details, too, for as much again as all the rest costs.

    Attributes
    ----------
    margins
        One per part: of two classes the least (2 y - 1) eta; of more that of a row's own class above all others.
    """

    def __init__(
        self,
        family: Family | Multinomial,
        w: Summand,
        parts: int = 1,
        *,
        center: Summand | None = None,
        detailed: bool = False,
    ) -> None:
        self.family, self.detailed = family, detailed
        each = w.reshape(family.classes if isinstance(family, Multinomial) else 1, -1)
        self.slopes = np.ascontiguousarray(each[:, :-1].T)  # (features, outputs)
        self.intercepts = each[:, -1] if center is None else each[:, -1] - center @ self.slopes
        self.margins = np.full(parts, np.inf)
        self._numbers = np.zeros((parts, 3))
        self._sums = np.zeros((parts, 3 if detailed else 1, *each.shape))  # of slopes, and of curvatures times x**2 and x

    def take(self, block: Block, cuts: Sequence[Cut] = ()) -> None:
        """Add the block to the first part, or the rows of each cut to its own."""
        rows = max(64, _ETA_BYTES // (8 * len(self.intercepts)))
        for first, last, part in cuts or ((0, len(block.y), 0),):
            for start in range(first, last, rows):
                self._take(block.part(start, min(start + rows, last)), part)

    def _take(self, block: Block, part: int) -> None:
        x, own, kind = block.x, block.weight, block.y.dtype
        eta: Array = x @ self.slopes.astype(kind, copy=False)
        eta += self.intercepts.astype(kind)
        if block.offset is not None:
            eta += block.offset[:, None]
        losses, slope, curvature, margins = self._evaluated(eta, block)
        if margins is not None:
            self.margins[part] = min(self.margins[part], float(margins.min(initial=np.inf)))
        weight = float(len(losses)) if own is None else float(own.sum(dtype=np.float64))
        if own is not None:
            losses, slope, curvature = losses * own, slope * own[:, None], curvature * own[:, None]
        sums = self._sums[part]
        _add(sums[0], slope, x)
        if self.detailed:
            _add(sums[1], curvature, x.power(2, np.float64) if is_sparse(x) else np.square(x))
            _add(sums[2], curvature, x)
        self._numbers[part] += [len(losses), weight, losses.sum(dtype=np.float64)]

    def _evaluated(self, eta: Array, block: Block) -> tuple[Array, Array, Array, Array | None]:
        """Return loss, slopes and curvatures (rows, outputs), and margins, of each row."""
        if isinstance(self.family, Multinomial):
            return _softmax(eta, block)
        losses, slope, curvature = self.family.evaluate(eta[:, 0], block.y)
        margins = row_margins(block, eta[:, 0]) if self.family.separable else None
        return losses, slope[:, None], curvature[:, None], margins

    def sums(self, part: int = 0) -> Slopes:
        """Return the sums of features as they come: to be `centred` once they are all added up."""
        rows, weight, loss = self._numbers[part].tolist()
        gradient, diagonal, coupling = (*(each.ravel() for each in self._sums[part]), np.empty(0), np.empty(0))[:3]
        return Slopes(rows, weight, loss, gradient, diagonal, coupling)


def _add(total: Summand, factors: Array, x: Any) -> None:
    """Add to `total`, (outputs, features + 1), the rows of `x` with a 1 at their end, times their factors (rows, outputs)."""
    for number in range(len(total)):  # at several products at once SciPy is no faster, and needs them transposed
        total[number, :-1] += factors[:, number] @ x
    total[:, -1] += factors.sum(axis=0, dtype=np.float64)


def _softmax(eta: Array, block: Block) -> tuple[Array, Array, Array, Array]:
    each, label = np.arange(len(eta)), block.y.astype(np.int64)
    eta -= eta.max(axis=1, keepdims=True)
    own = eta[each, label]
    p: Array = np.exp(eta)
    total = p.sum(axis=1)
    eta[each, label] = -np.inf
    margins = own - eta.max(axis=1)
    if block.weight is not None:
        margins = np.where(block.weight > 0, margins, np.inf)
    losses = np.log(total) - own
    p /= total[:, None]
    curvature = p * (1 - p)
    p[each, label] -= 1
    return losses, p, curvature, margins
