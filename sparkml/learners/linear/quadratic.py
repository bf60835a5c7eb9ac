"""A `Penalty`, and the step that minimises a quadratic model of the loss with it: exactly, or by coordinate descent.

Friedman, Hastie and Tibshirani, "Regularization paths for generalized linear models via coordinate descent", 2010; the steps of
coordinate descent on the Gram matrix cost (features) each, whatever the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkml.learners.linear.facts import Facts, Scaling
from sparkml.learners.linear.tree_sum import Array

_SWEEPS = 1000
_POLISH = 5  # sweeps between two tries to solve exactly on the support
_PROXIMAL = 1e-3  # of the curvature of one class, where bounds hold some
_PRECISION = 1e-12  # of a coordinate's step, against the largest

Bounds = tuple[float, ...] | tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Penalty:
    """``strength * sum(mixing * |u| + (1 - mixing) * u**2 / 2)`` is added to the weighted mean of the losses.

    Nothing is added for the intercept.

    Attributes
    ----------
    strength, mixing
        MLlib's ``regParam`` and ``elasticNetParam``.
    standardised
        `u` are coefficients of features with an (unbiased) standard deviation of 1, as MLlib's by default; else the coefficients.
    intercept
        False holds the intercept at 0.
    by_label
        The squares are of a label with a standard deviation of 1, and deviations are those of the rows themselves, as MLlib's
        (and glmnet's) linear regression has it.
    lower, upper
        Bounds of the coefficients and, last, the intercept: (features + 1,), or of several outputs (outputs, features + 1).
    """

    strength: float = 0.0
    mixing: float = 0.0
    standardised: bool = True
    intercept: bool = True
    by_label: bool = False
    lower: Bounds | None = None
    upper: Bounds | None = None

    @property
    def smooth(self) -> bool:
        """Whether a step is the solution of linear equations."""
        return not (self.strength * self.mixing) and not self.bounded

    @property
    def bounded(self) -> bool:
        return self.lower is not None or self.upper is not None

    @property
    def centred(self) -> bool:
        """Whether the intercept is free to take up where features are centred."""
        ends = [np.array(given)[..., -1] for given in (self.lower, self.upper) if given is not None]
        return self.intercept and bool(np.isinf(ends).all())

    def on(self, facts: Facts, scaling: Scaling | None, outputs: int = 1) -> Terms:
        """Return what is added to a model of scaled features; `facts` are those of scaled features, too.

        Several outputs are as many predictors, one after the other, each with the same penalty.
        """
        size = len(facts.x)
        scale = np.ones(size) if scaling is None else scaling.scale
        variance = facts.variance * (1.0 if self.by_label else facts.unbiased)
        unit = np.sqrt(variance) if self.standardised else 1 / scale  # |u| = unit * |w|
        deviation = np.sqrt(facts.label_variance) if self.by_label else 1.0
        square = self.strength * (1 - self.mixing) / (deviation or 1.0) * unit**2
        # a constant feature is the intercept once more
        free = np.append((facts.most > facts.least) | (not self.intercept), self.intercept)
        lower, upper = (
            np.where(free, none if given is None else np.array(given) * np.append(scale, 1.0), 0.0)
            for given, none in ((self.lower, -np.inf), (self.upper, np.inf))
        )
        absolute = np.append(self.strength * self.mixing * unit, 0.0)
        each = (np.append(square, 0.0), absolute, lower, upper, free)
        return Terms(*(np.broadcast_to(part, (outputs, size + 1)).ravel() for part in each))


@dataclass(frozen=True)
class Terms:
    """A penalty on given coefficients: ``sum(absolute * |w| + square * w**2 / 2)``, and bounds. All (features + 1,).

    Coefficients that are not `free` are 0.
    """

    square: Array
    absolute: Array
    lower: Array
    upper: Array
    free: np.ndarray[Any, np.dtype[np.bool_]]

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(np.concatenate([self.lower[self.free], self.upper[self.free]])).any())

    @property
    def smooth(self) -> bool:
        return not self.absolute.any() and not self.bounded

    def value(self, w: Array) -> float:
        return float(self.absolute @ np.abs(w) + self.square @ w**2 / 2)

    def within(self, w: Array) -> Array:
        """Return the nearest coefficients that are allowed."""
        return np.clip(np.where(self.free, w, 0.0), self.lower, self.upper)


@dataclass(frozen=True)
class Solution:
    """A step, and how the Hessian (penalty included) sees it.

    Attributes
    ----------
    direction, target
        The step and where it leads, exactly on those bounds that it meets: (features + 1,)
    free
        Which coefficients there are; others are 0.
    inverse
        Pseudo-inverse of the Hessian: (features + 1, features + 1), 0 for coefficients that are not free.
    dependent
        Which coefficients belong to features that depend on one another.
    exact
        The step is the minimum; coordinate descent may end before.
    null
        Directions without curvature, (features + 1, any number).
    """

    direction: Array
    target: Array
    free: np.ndarray[Any, np.dtype[np.bool_]]
    inverse: Array
    dependent: np.ndarray[Any, np.dtype[np.bool_]]
    null: Array
    exact: bool = True

    @property
    def rank(self) -> int:
        return int(np.count_nonzero(self.free)) - self.null.shape[1]


def gauge(hessian: Array, classes: int, terms: Terms) -> Array:
    """Return what is added to the Hessian: curvature for what all classes have in common, where nothing else has a slope.

    A bound on one class's coefficient may push all of them along there. Steps are then those of a proximal point method
    (Rockafellar, "Monotone operators and the proximal point algorithm", 1976): fixed points are the problem's own, and the less
    is added the fewer of them it takes.
    """
    width = len(terms.free) // classes
    weight = _PROXIMAL if terms.bounded else 1.0
    added = np.zeros_like(hessian)
    for at in np.flatnonzero(((terms.square == 0) & (terms.absolute == 0))[:width]):
        same = np.arange(classes) * width + at
        added[np.ix_(same, same)] = weight * max(float(np.mean(hessian.diagonal()[same])), 1e-12) / classes
    return added


def solve(w: Array, gradient: Array, hessian: Array, terms: Terms, precision: float) -> Solution:
    """Minimise ``gradient @ s + s @ hessian @ s / 2 + terms.value(w + s)`` over steps `s` within the bounds.

    `gradient` and `hessian` are the loss's, the latter to a relative `precision`. Of features that depend on one another the
    least-norm step is taken.
    """
    free = np.flatnonzero(terms.free)
    full = hessian[np.ix_(free, free)] + np.diag(terms.square[free])
    slope = (gradient + terms.square * w)[free]
    # to unit diagonal: what is large only by its unit shall not hide what is small
    unit = 1 / np.sqrt(np.where(np.diag(full) > 0, np.diag(full), 1.0))
    values, vectors = np.linalg.eigh(full * np.outer(unit, unit))
    keep = values > values[-1] * len(values) * precision
    inverse = np.zeros_like(hessian)
    kept = vectors[:, keep] * unit[:, None]
    inverse[np.ix_(free, free)] = (kept / values[keep]) @ kept.T
    dependent, null = np.zeros(len(w), bool), np.zeros((len(w), np.count_nonzero(~keep)))
    dependent[free] = (np.square(vectors[:, ~keep]).sum(axis=1) > 1e-6) & (np.diag(full) > 0)
    null[free] = vectors[:, ~keep] * unit[:, None]
    target, exact = np.zeros(len(w)), True
    if terms.smooth:
        target[free] = w[free] - inverse[np.ix_(free, free)] @ slope
    else:
        target[free], exact = _descend(full, full @ w[free] - slope, terms, free, w[free])
    return Solution(target - w, target, terms.free, inverse, dependent, null, exact)


def _descend(hessian: Array, linear: Array, terms: Terms, free: Any, w: Array) -> tuple[Array, bool]:
    """Minimise ``w @ hessian @ w / 2 - linear @ w + sum(absolute * |w|)`` within bounds, from `w` on; say if that was done."""
    absolute, lower, upper = terms.absolute[free], terms.lower[free], terms.upper[free]
    w = np.clip(w, lower, upper)
    diagonal = np.diag(hessian)
    moving = np.flatnonzero(diagonal > 0)
    w[diagonal <= 0] = np.clip(0.0, lower[diagonal <= 0], upper[diagonal <= 0])
    residual = linear - hessian @ w  # minus the slope
    for sweep in range(_SWEEPS):
        largest = 0.0
        for at in moving:
            pull = residual[at] + diagonal[at] * w[at]
            new = np.sign(pull) * max(abs(pull) - absolute[at], 0.0) / diagonal[at]
            new = min(max(new, lower[at]), upper[at])
            step = new - w[at]
            if step:
                residual -= step * hessian[at]
                w[at] = new
                largest = max(largest, step * step * diagonal[at])
        if largest <= _PRECISION**2 * max(float(w @ hessian @ w), 1e-300):
            return w, True
        if sweep % _POLISH == _POLISH - 1 and (exact := _on_support(hessian, linear, absolute, lower, upper, w)) is not None:
            return exact, True
    return w, False


def _on_support(hessian: Array, linear: Array, absolute: Array, lower: Array, upper: Array, w: Array) -> Array | None:
    """Solve for the coefficients that are neither 0 nor at a bound; None unless the others stay where they are for good."""
    inside = (w > lower) & (w < upper) & ((w != 0) | (absolute == 0)) & (np.diag(hessian) > 0)
    if not inside.any():
        return None
    sign = np.sign(w)
    fixed = np.where(inside, 0.0, w)
    right = (linear - hessian @ fixed - absolute * sign)[inside]
    try:
        found = np.linalg.solve(hessian[np.ix_(inside, inside)], right)
    except np.linalg.LinAlgError:
        return None
    new = fixed.copy()
    new[inside] = found
    pull = linear - hessian @ new
    size = np.sqrt(np.where(np.diag(hessian) > 0, np.diag(hessian), 1.0))
    slack = 1e-10 * size * np.abs(linear / size).max()
    same = (np.sign(new) == sign) | (absolute == 0)
    within = (new >= lower) & (new <= upper)
    at_zero = ~inside & (w == 0) & (lower < 0) & (upper > 0)
    at_lower, at_upper = ~inside & ~at_zero & (w == lower), ~inside & ~at_zero & (w == upper)
    at_lower, at_upper = at_lower & ~at_upper, at_upper & ~at_lower  # where both bounds are one nothing is asked
    up, down = np.where(w < 0, -absolute, absolute), np.where(w > 0, absolute, -absolute)  # slopes of |w| either way
    holds = (
        same[inside].all()
        and within.all()
        and (np.abs(pull[at_zero]) <= absolute[at_zero] + slack[at_zero]).all()
        and (pull[at_lower] <= up[at_lower] + slack[at_lower]).all()
        and (pull[at_upper] >= down[at_upper] - slack[at_upper]).all()
    )
    return new if holds else None
