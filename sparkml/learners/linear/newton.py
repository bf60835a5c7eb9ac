"""`minimise`: penalised Newton steps (IRLS) from one pass over rows to the next, until the Newton decrement is small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkml.errors import TrainingError
from sparkml.learners.linear.sums import Sums
from sparkml.learners.linear.tree_sum import Array

_MAX_HALVINGS = 20


@dataclass(frozen=True)
class Penalty:
    """L2: ``strength * sum(scale**2 * w**2) / 2`` is added to the weighted mean of the losses, nothing for the intercept.

    Attributes
    ----------
    strength
        MLlib's ``regParam``.
    standardised
        Of coefficients of features with a standard deviation of 1 (``scale`` is the deviation), as MLlib does by default.
    intercept
        False holds the intercept at 0.
    by_label
        Of a label with a standard deviation of 1, as MLlib's (and glmnet's) linear regression has it.
    """

    strength: float = 0.0
    standardised: bool = True
    intercept: bool = True
    by_label: bool = False

    def diagonal(self, sums: Sums) -> Array:
        """Return the penalty's second derivative, (features + 1,)."""
        scale = _variance(sums, sums.x, sums.xx) if self.standardised else np.ones(len(sums.x))
        deviation = np.sqrt(_variance(sums, sums.label, sums.label_square)) if self.by_label else 1.0
        return np.append(self.strength / (deviation or 1.0) * scale, 0.0)


def _variance(sums: Sums, values: Any, squares: Any) -> Any:
    """Return variances, unbiased as MLlib's: by reliability weights."""
    mean = values / sums.weight
    freedom = sums.weight - sums.weight_square / sums.weight
    return np.maximum(0.0, squares / sums.weight - mean**2) * (sums.weight / freedom if freedom > 0 else 0.0)


@dataclass(frozen=True)
class Step:
    """What a pass found at `w`: the objective, the Newton decrement sqrt(g H^-1 g), and where Newton's step leads."""

    w: Array
    objective: float
    decrement: float
    target: Array
    sums: Sums


def newton_step(w: Array, sums: Sums, penalty: Penalty) -> Step:
    """Return the step from `w`. Of features that depend on one another the least-norm solution is taken."""
    diagonal = penalty.diagonal(sums)
    gradient = sums.gradient / sums.weight + diagonal * w
    hessian = sums.gram / sums.weight + np.diag(diagonal)
    if not penalty.intercept:
        gradient, hessian = gradient[:-1], hessian[:-1, :-1]
    if not (np.isfinite(sums.loss) and np.isfinite(hessian).all()):
        raise TrainingError("the loss is not finite", hint="a feature is NaN, infinite, or far too large")
    # to unit diagonal: what is large only by its unit shall not hide what is small
    unit = 1 / np.sqrt(np.where(np.diag(hessian) > 0, np.diag(hessian), 1.0))
    values, vectors = np.linalg.eigh(hessian * np.outer(unit, unit))
    keep = values > values[-1] * len(values) * np.finfo(np.float32).eps
    turned = vectors[:, keep].T @ (unit * gradient)
    direction = -unit * (vectors[:, keep] @ (turned / values[keep]))
    decrement = float(np.sqrt(max(0.0, -gradient @ direction)))
    objective = sums.loss / sums.weight + float(diagonal @ w**2) / 2
    return Step(w, objective, decrement, w + np.append(direction, np.zeros(len(w) - len(direction))), sums)


@dataclass(frozen=True)
class Result:
    """Where `minimise` ended. `decrements` has one entry per pass; `converged`: the last was at most the tolerance."""

    w: Array
    last: Step
    decrements: list[float]
    converged: bool


def minimise(
    evaluate: Callable[[Array], Sums], w: Array, penalty: Penalty, *, tolerance: float, passes: int, told: Callable[[Step], None]
) -> Result:
    """Take Newton steps until the decrement is at most `tolerance`; the step that it belongs to is still taken.

    A step that made the objective worse is halved until it does not (each try is a pass).
    """
    best: Step | None = None
    decrements: list[float] = []
    halvings = 0
    for _ in range(passes):
        step = newton_step(w, evaluate(w), penalty)
        told(step)
        decrements.append(step.decrement)
        slack = 1e-6 * abs(step.objective)  # of blocks in float32
        if best is not None and not step.objective <= best.objective + slack and halvings < _MAX_HALVINGS:
            halvings += 1
            w = best.w + (w - best.w) / 2
            continue
        best, halvings = step, 0
        if step.decrement <= tolerance:
            return Result(step.target, step, decrements, True)
        w = step.target
    assert best is not None
    return Result(best.target if halvings == 0 else best.w, best, decrements, False)
