"""`Multinomial`: several classes by the softmax of as many linear predictors, and how blocks of rows are added up for it.

Adding one vector to the coefficients of every class changes no probability, so the Hessian has directions without curvature, and
steps along them nothing to follow: `gauge` gives them a curvature that holds steps at 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkml.learners.linear.families import Array
from sparkml.learners.linear.sums import Block, Sums
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
        return np.zeros(len(y)), np.zeros(len(y))

    def predict(self, eta: Array) -> Array:
        """Return probabilities: (rows, classes)."""
        p: Array = np.exp(eta - eta.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p


class MultinomialAdder:
    """Adds blocks up at the coefficients `w`: (classes * (features + 1),), class by class, each with its intercept last."""

    def __init__(self, family: Multinomial, w: Summand) -> None:
        self.family = family
        self.margin = np.inf  # the least eta of a row's own class above those of all others
        self.w = w.reshape(family.classes, -1)
        self._rows = self._weight = self._loss = 0.0
        self._gradient = np.zeros(self.w.shape)
        self._gram = np.zeros((w.size, w.size))

    def take(self, block: Block) -> None:
        rows = max(64, _BYTES // (block.x.dtype.itemsize * self.w.size))
        for start in range(0, len(block.x), rows):
            at = slice(start, start + rows)
            self._take(Block(block.x[at], block.y[at], None if block.weight is None else block.weight[at]))

    def _take(self, block: Block) -> None:
        x, kind, classes = np.column_stack([block.x, np.ones(len(block.x), block.x.dtype)]), block.x.dtype, self.family.classes
        eta = x @ self.w.T.astype(kind)
        eta = eta - eta.max(axis=1, keepdims=True)
        own = eta[np.arange(len(x)), block.y.astype(np.int64)]
        others = np.where(np.arange(classes) == block.y[:, None], -np.inf, eta).max(axis=1)
        margins = own - others if block.weight is None else (own - others)[block.weight > 0]
        self.margin = min(self.margin, float(margins.min(initial=np.inf)))
        p: Array = np.exp(eta)
        total = p.sum(axis=1, keepdims=True)
        rows, label = np.arange(len(x)), block.y.astype(np.int64)
        losses = np.log(total[:, 0]) - own
        p /= total
        slope = p.copy()
        slope[rows, label] -= 1
        weight = np.ones(len(x), kind) if block.weight is None else block.weight
        self._gradient += (slope * weight[:, None]).T @ x
        # the Hessian of a row is (diag(p) - p p') times x x'
        spread = (p[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        weighted = spread * weight[:, None]
        whole = weighted.T @ x
        width = x.shape[1]
        for number in range(classes):
            at = slice(number * width, (number + 1) * width)
            self._gram[at, at] += whole[at]
        self._gram -= weighted.T @ spread
        self._rows += len(x)
        self._weight += float(weight.sum(dtype=np.float64))
        self._loss += float((losses * weight).sum(dtype=np.float64))

    def sums(self) -> Sums:
        gram = (self._gram + self._gram.T) / 2
        return Sums(self._rows, self._weight, self._loss, 0.0, self._gradient.ravel(), gram)


def gauge(hessian: Summand, classes: int, open_to_all: Any) -> Summand:
    """Return what is added to the Hessian: curvature for what all classes have in common, where nothing else has a slope.

    Parameters
    ----------
    open_to_all
        Which coefficients have no penalty: (classes * (features + 1),).
    """
    width = len(open_to_all) // classes
    added = np.zeros_like(hessian)
    for at in np.flatnonzero(open_to_all[:width]):
        same = np.arange(classes) * width + at
        added[np.ix_(same, same)] = max(float(np.mean(hessian.diagonal()[same])), 1e-12) / classes
    return added
