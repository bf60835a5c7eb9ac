"""`Descent`: penalised Newton steps (IRLS) from one pass over rows to the next, until what is left to go is certainly small.

A loss whose third derivative is bounded by its second (logistic, poisson: `Family.bend`) is generalised self-concordant, so that
the sums of one pass bound what the step that follows from them leaves (Bach, "Self-concordant analysis for logistic regression",
2010, propositions 1 and 2): along a step `s` that changes no row's eta by more than `rho` the Hessian keeps within factors
of exp(-rho) and exp(rho) of what it was. What remains of the gradient is then at most ((exp(rho) - 1 - rho) / rho) |s| in the
norm of the Hessian's inverse, and the distance to the optimum follows from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from sparkml.errors import TrainingError
from sparkml.learners.linear.quadratic import Solution, Terms, gauge, solve
from sparkml.learners.linear.sums import Sums
from sparkml.learners.linear.tree_sum import Array

_DOUBLE: np.dtype[np.floating[Any]] = np.dtype(np.float64)
_MAX_HALVINGS = 20
_STILL = 0.9  # of the decrement before: what is left is rounding


def not_finite() -> TrainingError:
    """Return the error of a descent that began where the loss is not finite."""
    what = "features or labels are far too large, or their link takes no such eta: try another link, or an intercept"
    return TrainingError("the loss is not finite", hint=what)


@dataclass(frozen=True)
class Problem:
    """What is minimised: the weighted mean of the losses, and a penalty.

    Attributes
    ----------
    terms
        The penalty.
    reach
        Largest |feature| of any row, and 1 for the intercept: (features + 1,).
    bend
        Of the family.
    precision
        Of Gram matrices.
    outputs
        Number of linear predictors; several are those of classes, and only their differences count.
    """

    terms: Terms
    reach: Array
    bend: float | None
    precision: float
    outputs: int = 1

    def rho(self, direction: Array) -> float:
        """Return by how much a step changes any row's eta at most; of several etas, how much their differences."""
        if self.outputs == 1:
            return float(self.reach @ np.abs(direction))
        each = direction.reshape(self.outputs, -1)
        return float(max(self.reach @ np.abs(one - other) for one in each for other in each))

    def longest(self, inverse: Array) -> float:
        """Return a bound on `rho` over all steps of length 1 in the norm of the Hessian."""
        if self.outputs == 1:
            return float(np.sqrt(np.linalg.norm(inverse * np.outer(self.reach, self.reach), 2) * len(self.reach)))
        width = len(self.reach)
        blocks = (inverse[at : at + width, at : at + width] for at in range(0, len(inverse), width))
        return 2 * float(max(np.sqrt(np.linalg.norm(part * np.outer(self.reach, self.reach), 2) * width) for part in blocks))


@dataclass(frozen=True)
class Step:
    """What a pass found at `w`, and where Newton's step leads.

    Attributes
    ----------
    objective
        At `w`, penalty included.
    decrement
        Length of the step to `target` in the norm of the Hessian: the Newton decrement.
    error
        Certain bound on the distance of `target` from the optimum in the same norm, rounding aside; infinite where there is none.
    """

    w: Array
    objective: float
    decrement: float
    error: float
    target: Array
    sums: Sums
    solution: Solution

    @property
    def loss(self) -> float:
        """The sum of losses at `target`: `Sums.loss_after`."""
        return self.sums.loss_after(self.solution.direction)


def newton_step(w: Array, sums: Sums, problem: Problem) -> Step:
    """Return the step from `w`. Of features that depend on one another the least-norm solution is taken."""
    hessian = sums.gram / sums.weight
    objective = sums.loss / sums.weight + problem.terms.value(w)
    if not (np.isfinite(objective) and np.isfinite(hessian).all()):
        none = np.zeros(len(w), bool)
        empty = Solution(np.zeros(len(w)), w, none, np.zeros_like(hessian), none, np.zeros((len(w), 0)))
        return Step(w, np.inf, np.inf, np.inf, w, sums, empty)
    if problem.outputs > 1:
        hessian = hessian + gauge(hessian, problem.outputs, problem.terms)
    solution = solve(w, sums.gradient / sums.weight, hessian, problem.terms, problem.precision)
    direction = solution.direction
    length = math.sqrt(max(0.0, float(direction @ (hessian @ direction) + problem.terms.square @ direction**2)))
    return Step(w, objective, length, error_after(solution, length, problem), solution.target, sums, solution)


def error_after(solution: Solution, length: float, problem: Problem) -> float:
    """Return the bound on the distance of a full step's end from the optimum, in the norm of the Hessian at its start."""
    if (
        problem.bend is None or not solution.exact or (problem.outputs > 1 and problem.terms.bounded)
    ):  # of steps that `gauge` holds
        return np.inf
    if problem.bend == 0:
        return 0.0
    rho = problem.bend * problem.rho(solution.direction)
    if rho > 1:
        return np.inf
    left = (rho / 2 * (1 + rho / 2)) * length * np.exp(rho / 2)  # of the gradient; exp(rho) - 1 - rho <= rho**2/2 * (1 + rho/2)
    longest = problem.longest(solution.inverse) * problem.bend * np.exp(rho / 2)  # at the step's end
    if longest * left >= 1:
        return np.inf
    return float(-np.log1p(-longest * left) / longest * np.exp(rho / 2)) if longest else left


def missed_after(sums: Sums, step: Array, problem: Problem) -> float:
    """Return a bound on the error of `Sums.loss_after`, rounding aside; infinite where there is none.

    The curvature along the step is at most exp(rho t) times as large at its part `t` as at its start: what it grows by,
    integrated twice. The problem's reach must be that of the rows summed.
    """
    if problem.bend is None:
        return np.inf
    rho = problem.bend * problem.rho(step)
    if rho > 1:
        return np.inf
    return float(step @ (sums.gram @ step)) * rho / 6 * math.exp(rho / 2)  # >= (exp(rho) - 1 - rho) / rho**2 - 1/2


@dataclass(frozen=True)
class Result:
    """Where a `Descent` ended. `steps` has one entry per pass; `converged`: the error of the last was at most the tolerance."""

    w: Array
    last: Step
    steps: list[tuple[float, float]]  # objective, decrement
    converged: bool


class Descent:
    """Newton steps until one certainly ends within `tolerance` of the optimum (in the norm of the Hessian).

    Asks for the sums at `point` until there is a `result`. Where nothing is certain the decrement must be at most `tolerance`,
    which bounds what is left in the limit: the next step is of the order of its square. A step that made the objective worse is
    halved until it does not (each try is a pass).

    Parameters
    ----------
    patient
        Passes are cheap: go on until the decrement is at most `tolerance`, so that the Hessian is that of the optimum, too.
    kind
        In which coefficients meet the rows.
    instead
        Where to start if the loss is not finite at `w`.
    """

    detailed, memory = False, None  # what `QuasiNewton` has

    def __init__(
        self,
        w: Array,
        *,
        tolerance: float,
        passes: int,
        patient: bool = False,
        kind: np.dtype[np.floating[Any]] = _DOUBLE,
        instead: Array | None = None,
    ) -> None:
        self.tolerance, self.passes, self._patient, self._kind, self._instead = tolerance, passes, patient, kind, instead
        self.point = _rounded(w, kind)
        self.steps: list[tuple[float, float]] = []
        self.result: Result | None = None
        self._best: Step | None = None
        self._halvings = 0

    def take(self, sums: Sums, problem: Problem, *, stop: bool = False) -> None:
        """Take in what was found at `point`; `stop` says that there is nowhere to go.

        Raises
        ------
        TrainingError
            The loss is not finite where it all began.
        """
        w, best = self.point, self._best
        if best is None and (allowed := _rounded(problem.terms.within(w), self._kind)).tolist() != w.tolist():
            self.point = allowed  # bounds are known only now
            return
        step = newton_step(w, sums, problem)
        if best is None and not np.isfinite(step.objective):
            if self._instead is None:
                raise not_finite()
            self.point, self._instead = _rounded(self._instead, self._kind), None
            return
        self.steps.append((step.objective, step.decrement))
        slack = 64 * problem.precision * max(abs(step.objective), 1e-3) if np.isfinite(step.objective) else 0.0
        if best is not None and not step.objective <= best.objective + slack and self._halvings < _MAX_HALVINGS:
            self._halvings += 1
            self.point, stop = _rounded(best.w + (w - best.w) / 2, self._kind), False
        else:
            self._best, self._halvings = step, 0
            self.point = _rounded(step.target, self._kind)
            if self._arrived(step, problem):
                self.result = Result(step.target, step, self.steps, True)
        if self.result is None and (stop or len(self.steps) >= self.passes):
            self._give_up()

    def _arrived(self, step: Step, problem: Problem) -> bool:
        still = len(self.steps) > 2 and all(
            later > _STILL * earlier for earlier, later in pairwise(at for _, at in self.steps[-3:])
        )
        certain = step.error == 0 or (step.error <= self.tolerance and (still or not self._patient))
        return certain or step.decrement <= self.tolerance or (still and problem.bend is None)

    def _give_up(self) -> None:
        best = self._best
        assert best is not None
        if self._halvings:  # no step is known to lead on from there
            nowhere = replace(best.solution, direction=np.zeros(len(best.w)), target=best.w)
            best = replace(best, target=best.w, error=np.inf, solution=nowhere)
        self.result = Result(best.target, best, self.steps, False)


def _rounded(w: Array, kind: np.dtype[np.floating[Any]]) -> Array:
    """Return the coefficients that a pass in this precision really sees."""
    return w.astype(kind).astype(np.float64)
