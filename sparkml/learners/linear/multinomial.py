"""`Multinomial`: several classes by the softmax of as many linear predictors, and how blocks of rows are added up for it.

Adding one vector to the coefficients of every class changes no probability, so the Hessian has directions without curvature, and
steps along them nothing to follow: `quadratic.gauge` gives them one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparkml.learners.linear.families import Array, nothing
from sparkml.learners.linear.sums import Block, Cut, Sums
from sparkml.learners.linear.tree_sum import Array as Summand

_BYTES = 2 << 20  # of what a block is spread to


@dataclass(frozen=True)
class Multinomial:
    """Labels 0 to ``classes - 1``. Like a `Family`, but that eta is (rows, classes).

    The third derivative along a step is at most the second times the spread of the step's etas over the classes: they are the
    third and second moments of the classes' etas around their mean (Tran-Dinh et al., "Composite convex minimization involving
    self-concordant-like cost functions", 2015).
    """

    classes: int
    name: str = "multinomial"
    bend: float | None = 1.0
    dispersion: float | None = 1.0
    separable: bool = True

    def check(self, y: Array) -> str | None:
        wrong = y[~((y >= 0) & (y < self.classes) & (y == np.floor(y)))]
        return f"a label of {self.classes} classes is 0 to {self.classes - 1}, not {wrong[0]:g}" if len(wrong) else None

    def check_labels(self, mean: float, variance: float) -> str | None:
        return f"one class only, {mean:g}" if variance == 0 else None

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        return nothing(y), nothing(y)

    def predict(self, eta: Array) -> Array:
        """Return probabilities: (rows, classes)."""
        p: Array = np.exp(eta - eta.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p


class MultinomialAdder:
    """Adds blocks up at the coefficients `w`: (classes * (features + 1),), class by class, each with its intercept last.

    Like an `Adder`; `margins` are those of a row's own class above all others.
    """

    def __init__(self, family: Multinomial, w: Summand, parts: int = 1) -> None:
        self.family = family
        self.margins = np.full(parts, np.inf)
        self.w = w.reshape(family.classes, -1)
        self._numbers = np.zeros((parts, 3))
        self._gradient = np.zeros((parts, *self.w.shape))
        self._gram = np.zeros((parts, w.size, w.size))

    def take(self, block: Block, cuts: Sequence[Cut] = ()) -> None:
        rows = max(64, _BYTES // (block.x.dtype.itemsize * self.w.size))
        for first, last, part in cuts or ((0, len(block.x), 0),):
            for start in range(first, last, rows):
                self._take(block.part(start, min(start + rows, last)), part)

    def _take(self, block: Block, part: int) -> None:
        x, kind, classes = np.column_stack([block.x, np.ones(len(block.x), block.x.dtype)]), block.x.dtype, self.family.classes
        eta = x @ self.w.T.astype(kind)
        eta = eta - eta.max(axis=1, keepdims=True)
        own = eta[np.arange(len(x)), block.y.astype(np.int64)]
        others = np.where(np.arange(classes) == block.y[:, None], -np.inf, eta).max(axis=1)
        margins = own - others if block.weight is None else (own - others)[block.weight > 0]
        self.margins[part] = min(self.margins[part], float(margins.min(initial=np.inf)))
        p: Array = np.exp(eta)
        total = p.sum(axis=1, keepdims=True)
        rows, label = np.arange(len(x)), block.y.astype(np.int64)
        losses = np.log(total[:, 0]) - own
        p /= total
        slope = p.copy()
        slope[rows, label] -= 1
        weight = np.ones(len(x), kind) if block.weight is None else block.weight
        self._gradient[part] += (slope * weight[:, None]).T @ x
        # the Hessian of a row is (diag(p) - p p') times x x'
        spread = (p[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        weighted = spread * weight[:, None]
        whole = weighted.T @ x
        width = x.shape[1]
        for number in range(classes):
            at = slice(number * width, (number + 1) * width)
            self._gram[part, at, at] += whole[at]
        self._gram[part] -= weighted.T @ spread
        self._numbers[part] += [len(x), weight.sum(dtype=np.float64), (losses * weight).sum(dtype=np.float64)]

    def sums(self, part: int = 0) -> Sums:
        gram = (self._gram[part] + self._gram[part].T) / 2
        rows, weight, loss = self._numbers[part].tolist()
        return Sums(rows, weight, loss, 0.0, self._gradient[part].ravel(), gram)
