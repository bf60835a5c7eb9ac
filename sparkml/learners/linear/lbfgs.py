"""`QuasiNewton`: L-BFGS, and OWL-QN where there is L1, for more coefficients than a Hessian of all of them could be kept of.

Nocedal and Wright, *Numerical Optimization*, 2006, algorithms 7.4 (two loops), 3.5 and 3.6 (strong Wolfe conditions). With L1:
Andrew and Gao, "Scalable training of L1-regularized log-linear models", 2007; but that steps are those of the Hessian of the
coefficients that may move, as in Byrd, Chin, Nocedal and Oztoprak, "A family of second-order methods for convex
l1-regularized optimization", 2016.

A pass over rows is an evaluation, so an evaluation is what everything is made to save: the step of 1 is tried first, and the
memory of another set of rows is where the next one starts from.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sparkml.learners.linear.newton import Problem, not_finite
from sparkml.learners.linear.slopes import Slopes
from sparkml.learners.linear.tree_sum import Array

_PAIRS = (10, 100)  # at least and at most; in between as many as take:
_PAIRS_NUMBERS = 1 << 23
_TREND = 10  # steps: what two spans of so many have gained says what is left to gain
_DECREASE, _FLATTER = 1e-4, 0.9  # of strong Wolfe conditions
_MOST_TRIALS = 20
_EASY_TRIALS = 3  # after which a line search says that the memory misleads
_CURVED = 10  # evaluations between two looks at the Hessian's diagonal, which slow descents change a lot
_FALL = 0.1  # of a diagonal to this part of it: one that falls freely lets coefficients leap away, and the descent is slower
_NEAR = 30.0  # tolerances from the optimum: the next evaluation may be the last one
_KEPT, _CHANGE = 0.5, 1.59  # (1 - exp(-q)) / q is 1/2 for a q of 1.59
_DOUBLE: np.dtype[np.floating[Any]] = np.dtype(np.float64)


class Memory:
    """The last steps and by how much the slope changed along each: the inverse of a Hessian, as far as it is known.

    Attributes
    ----------
    first
        The Hessian's diagonal where it all began, 0 where it is not known: (size,).
    """

    def __init__(self, size: int) -> None:
        self.first = np.zeros(size)
        self._pairs: deque[tuple[Array, Array]] = deque(maxlen=_pairs_of(size))

    @staticmethod
    def bytes(size: int) -> int:
        """Return what a descent of so many coefficients takes: pairs, places, and what is known of the rows."""
        return (2 * _pairs_of(size) + 20) * size * 8

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, step: Array, change: Array) -> None:
        """Keep a pair unless there was no curvature along the step."""
        if step @ change > 1e-12 * np.linalg.norm(step) * np.linalg.norm(change):
            self._pairs.append((step, change))

    def clear(self) -> None:
        self._pairs.clear()

    def copy(self) -> Memory:
        """Return one that goes on by itself."""
        other = Memory(len(self.first))
        other.first, other._pairs = self.first, self._pairs.copy()
        return other

    def times(self, vector: Array, diagonal: Array, moving: Any = slice(None)) -> Array:
        """Return the inverse Hessian of the coefficients `moving` times `vector`, of which it takes those entries.

        Parameters
        ----------
        diagonal
            Of the Hessian, where nothing better is known: its scale does not matter once there is a pair.
        """
        q: Array = vector[moving].copy()
        diagonal, factors = diagonal[moving], []
        there = ((step[moving], change[moving]) for step, change in self._pairs)
        pairs = [(step, change, 1 / product) for step, change in there if (product := float(step @ change)) > 0]
        if not pairs:
            q /= diagonal
            return q
        for step, change, inverse in reversed(pairs):
            factors.append(inverse * float(step @ q))
            q -= factors[-1] * change
        step, change, inverse = pairs[-1]
        q /= diagonal * (inverse * float(change @ (change / diagonal)))
        for (step, change, inverse), factor in zip(pairs, reversed(factors), strict=True):
            q += (factor - inverse * float(change @ q)) * step
        return q


def _pairs_of(size: int) -> int:
    least, most = _PAIRS
    return min(max(_PAIRS_NUMBERS // size, least), most)


@dataclass(frozen=True)
class Place:
    """What a pass found at `w`: the objective, and the gradient of its smooth part."""

    w: Array
    gradient: Array
    objective: float
    sums: Slopes
    problem: Problem

    @classmethod
    def of(cls, w: Array, sums: Slopes, problem: Problem) -> Place:
        terms = problem.terms
        gradient = np.where(terms.free, sums.gradient / sums.weight + terms.square * w, 0.0)
        objective = sums.loss / sums.weight + terms.value(w)
        known = math.isfinite(objective) and bool(np.isfinite(gradient).all())
        return cls(w, gradient, objective if known else math.inf, sums, problem)

    @cached_property
    def steepest(self) -> Array:
        """The gradient; with L1 the subgradient nearest to 0."""
        absolute = self.problem.terms.absolute
        if not absolute.any():
            return self.gradient
        shrunk = np.sign(self.gradient) * np.maximum(np.abs(self.gradient) - absolute, 0.0)
        return np.where(self.w != 0, self.gradient + absolute * np.sign(self.w), shrunk)

    @property
    def slack(self) -> float:
        """By how much an objective may be larger for roundings alone."""
        return 64 * self.problem.precision * max(abs(self.objective), 1e-3)

    @cached_property
    def error(self) -> float:
        """A bound on the distance from the optimum in the norm of the Hessian, its mean on the way there; or infinity.

        On that way the Hessian is at least S + k L: S that of the penalty, L that of the loss here. With g the (sub)gradient
        nearest to 0, the distance is at most sqrt(g' (S + k L)^-1 g), since subgradients of L1 are monotone. Without an intercept
        that is at most sqrt(g' S^-1 g). With one, of which S has nothing, let `a` be its row of L, C its own curvature and A the
        rest. L is not negative, A - a a' / C neither: what is left of S + k L once the intercept is eliminated is at least S, and
        the square of the distance at most g_b**2 / (k C) + r' S^-1 r with r = g - g_b a / C. A self-concordant loss keeps
        k = (1 - exp(-q)) / q of L where no eta changes by more than q.
        """
        terms, bend, g = self.problem.terms, self.problem.bend, self.steepest
        if bend is None or not math.isfinite(self.objective):
            return math.inf
        held = terms.free & (terms.square > 0)
        square = terms.square[held]
        loose = np.flatnonzero(terms.free & ~held)
        if not len(loose):
            return float(np.sqrt(np.sum(g[held] ** 2 / square)))
        last = len(g) - 1
        if self.problem.outputs > 1 or loose.tolist() != [last] or not self.sums.detailed:
            return math.inf
        coupling = self.sums.coupling / self.sums.weight
        if not coupling[last] > 0:
            return math.inf
        coupled, kept = coupling[held] / coupling[last], coupling[last] * (1.0 if bend == 0 else _KEPT)
        error = math.sqrt(g[last] ** 2 / kept + float(np.sum((g[held] - g[last] * coupled) ** 2 / square)))
        # steps of length 1 in the norm of S + k L move the intercept, and with the features an eta, at most so far
        apart = math.sqrt((1 + coupling[last] * float(np.sum(coupled**2 / square))) / kept)
        reach = float(np.sqrt(np.sum(self.problem.reach[held] ** 2 / square))) + apart
        return error if bend * reach * error <= _CHANGE else math.inf


@dataclass(frozen=True)
class Found:
    """Where a `QuasiNewton` ended, as `newton.Result` has it; but that `last` is where `w` is, not where it was seen from."""

    w: Array
    last: Place
    steps: list[tuple[float, float]]  # objective, estimated distance
    converged: bool


class QuasiNewton:
    """L-BFGS, or OWL-QN, until about `tolerance` is left in the norm of the Hessian.

    Asks for the sums at `point`, with details if `detailed`, until there is a `result`.

    Parameters
    ----------
    kind
        In which coefficients meet the rows.
    instead
        Where to start if the loss is not finite at `w`.
    memory
        Of a fit to other rows: it is gone on with, and changed.
    """

    def __init__(
        self,
        w: Array,
        *,
        tolerance: float,
        passes: int,
        kind: np.dtype[np.floating[Any]] = _DOUBLE,
        instead: Array | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.tolerance, self.passes, self._kind, self._instead = tolerance, passes, kind, instead
        self.memory = Memory(len(w)) if memory is None else memory
        self.point = self._rounded(w)
        self.detailed = True
        self.steps: list[tuple[float, float]] = []
        self.result: Found | None = None
        self._best: Place | None = None
        self._diagonal = np.ones(len(w))
        self._curved_at = 0
        self._moves = self._run()
        next(self._moves)

    def take(self, sums: Slopes, problem: Problem, *, stop: bool = False) -> None:
        """Take in what was found at `point`; `stop` says that there is nowhere to go.

        Raises
        ------
        TrainingError
            The loss is not finite where it all began.
        """
        if self._best is None and (allowed := self._rounded(problem.terms.within(self.point))).tobytes() != self.point.tobytes():
            self.point = allowed  # which coefficients are free is known only now
            return
        place = Place.of(self.point, sums, problem)
        if self._best is None and not math.isfinite(place.objective):
            if self._instead is None:
                raise not_finite()
            self.point, self._instead = self._rounded(self._instead), None
            return
        self.steps.append((place.objective, self.steps[-1][1] if self.steps else math.inf))
        self._learn_diagonal(place)
        try:
            self.point = self._rounded(self._moves.send(place))
        except StopIteration as ended:
            self._end(converged=ended.value)
        if self.result is None and (stop or len(self.steps) >= self.passes):
            self._end(converged=False)

    def _end(self, *, converged: bool) -> None:
        assert self._best is not None
        self.result = Found(self._best.w, self._best, self.steps, converged)

    def _learn_diagonal(self, place: Place) -> None:
        """Keep the Hessian's diagonal, and ask for it anew when it is old: it is where the memory starts from.

        A fit that goes on from a sample's starts with the one from before the sample's: what the sample is sure of it may be
        wrong about.
        """
        count, memory = len(self.steps), self.memory
        if place.sums.detailed and (count == 1 or count - self._curved_at >= _CURVED):
            fresh = place.sums.diagonal / place.sums.weight
            known = (fresh > 0) & np.isfinite(fresh)
            if count == 1:
                memory.first = np.where(memory.first > 0, memory.first, np.where(known, fresh, 0.0))
                self._diagonal = np.where(memory.first > 0, memory.first, 1.0)
            else:
                self._diagonal = np.where(known, np.maximum(fresh, _FALL * self._diagonal), self._diagonal)
            self._curved_at = count
        self.detailed = count - self._curved_at >= _CURVED - 1

    def _rounded(self, w: Array) -> Array:
        """Return the coefficients that a pass in this precision really sees."""
        return w.astype(self._kind).astype(np.float64)

    # --- the method: yields points, is sent places, returns whether it has converged ---

    def _run(self) -> Generator[Array, Place, bool]:
        self._best = place = yield self.point
        gained = [place.objective]
        while True:
            direction = self._direction(place)
            left = math.sqrt(max(0.0, -float(direction @ place.steepest)))
            left = max(left, _left_by_trend(gained, place.slack))
            self.steps[-1] = (place.objective, left)
            if left == 0 or place.error <= self.tolerance or (left <= self.tolerance and len(self.memory)):
                return True
            if len(gained) > _TREND and gained[-_TREND - 1] - gained[-1] <= place.slack:  # roundings are left
                return left**2 / 2 <= place.slack
            self.detailed |= left <= _NEAR * self.tolerance and _may_be_bounded(place.problem, left)
            found = yield from (self._backtracked if place.problem.terms.absolute.any() else self._searched)(place, direction)
            if found is not None:
                self.memory.add(found.w - place.w, found.gradient - place.gradient)
                self._best = place = found
                gained.append(found.objective)
            elif len(self.memory):
                self.memory.clear()
            else:  # no step along the slope makes it better
                return left**2 / 2 <= place.slack

    def _direction(self, place: Place) -> Array:
        """Return minus the inverse Hessian times the slope; with L1 that of the coefficients that are to move."""
        steepest, diagonal = place.steepest, self._diagonal + place.problem.terms.square
        if not place.problem.terms.absolute.any():
            return -self.memory.times(steepest, diagonal)
        moving = np.flatnonzero((place.w != 0) | (steepest != 0))
        direction = np.zeros(len(steepest))
        direction[moving] = -self.memory.times(steepest, diagonal, moving)
        # of coefficients that are 0 none may go where the penalty lets none go
        direction[(place.w == 0) & (direction * steepest > 0)] = 0.0
        return direction

    def _backtracked(self, place: Place, direction: Array) -> Generator[Array, Place, Place | None]:
        """Search along the path that holds a coefficient at 0 instead of letting it change its sign."""
        steepest = place.steepest
        orthant = np.where(place.w != 0, np.sign(place.w), -np.sign(steepest))
        length = 1.0
        for _ in range(_MOST_TRIALS if not len(self.memory) else _EASY_TRIALS):
            w = place.w + length * direction
            w[np.sign(w) != orthant] = 0.0
            found = yield w
            gain = float(steepest @ (found.w - place.w))
            if gain < 0 and found.objective <= place.objective + _DECREASE * gain + place.slack:
                return found
            above = found.objective - place.objective - gain
            shorter = -gain / (2 * above) if above > 0 and math.isfinite(above) else 0.1
            length *= min(max(shorter, 0.1), 0.5)
        return None

    def _searched(self, place: Place, direction: Array) -> Generator[Array, Place, Place | None]:
        """Search for a step that meets the strong Wolfe conditions: 1, mostly."""
        slope = float(place.steepest @ direction)
        low, high = _Trial(0.0, place.objective, slope, place), None
        length = 1.0
        for _ in range(_MOST_TRIALS if not len(self.memory) else _EASY_TRIALS):
            found = yield place.w + length * direction
            here = _Trial(length, found.objective, float(found.gradient @ direction), found)
            equal = abs(here.value - place.objective) <= place.slack  # where roundings hide what is gained, slopes still tell
            lower = here.value <= place.objective + _DECREASE * length * slope and here.value < low.value
            if (lower or equal) and abs(here.slope) <= -_FLATTER * slope:
                return found
            if not (lower or equal):
                high = here
            else:
                if here.slope * ((high.length if high else math.inf) - low.length) >= 0:
                    high = low
                low = here
            length = _between(low, high) if high else 4 * length
        return low.place if low.length else None


def _may_be_bounded(problem: Problem, left: float) -> bool:
    """Whether details may make `Place.error` finite at a place where about `left` is left; next to nothing, for many features."""
    held = problem.terms.free & (problem.terms.square > 0)
    if problem.bend is None or problem.outputs > 1 or not held.any():
        return False
    return problem.bend * left * float(np.sqrt(np.sum(problem.reach[held] ** 2 / problem.terms.square[held]))) <= _CHANGE


def _left_by_trend(objectives: list[float], slack: float) -> float:
    """Return the distance that is left if gains go on as they did: a memory that lacks slow directions says too little."""
    if len(objectives) <= 2 * _TREND:
        return 0.0
    first, middle, last = objectives[-2 * _TREND - 1], objectives[-_TREND - 1], objectives[-1]
    before, recent = first - middle, middle - last
    if recent <= slack:
        return 0.0
    return math.sqrt(2 * recent * recent / (before - recent)) if recent < before else math.inf


@dataclass(frozen=True)
class _Trial:
    length: float
    value: float
    slope: float
    place: Place


def _between(low: _Trial, high: _Trial) -> float:
    """Return where the cubic through both ends has its minimum, well within them."""
    gap = high.length - low.length
    if not (math.isfinite(high.value) and math.isfinite(high.slope)):
        return low.length + 0.1 * gap
    first = low.slope + high.slope - 3 * (high.value - low.value) / gap
    inside = first * first - low.slope * high.slope
    part = 0.5
    if inside >= 0:
        second = math.copysign(math.sqrt(inside), gap)
        bottom = high.slope - low.slope + 2 * second
        if bottom:
            part = 1 - (high.slope + second - first) / bottom
    return low.length + min(max(part, 0.1), 0.9) * gap
