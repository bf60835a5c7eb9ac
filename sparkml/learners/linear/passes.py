"""`SharedPasses`: many models fitted at once, each pass over the rows adding up what all of them ask for.

A pass costs reading and, for each point, the products at it. Models that differ in their penalty, their label or the fold they
leave out have points of their own; those that stand at the same point share it. Sums are kept apart by fold: what is left out of
a model is left out of its sums.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkml.errors import DataError
from sparkml.launch.worker import Worker
from sparkml.learners.linear.facts import Facts, Looker, Scaling
from sparkml.learners.linear.families import Family, Gaussian
from sparkml.learners.linear.lbfgs import QuasiNewton
from sparkml.learners.linear.methods import METHODS, MOST_NUMBERS, Start
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.newton import Descent, Problem
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.rows import RankRows, Rows, RowSource
from sparkml.learners.linear.sums import Block
from sparkml.learners.linear.tree_sum import Array

_SAMPLE_ROWS = 1 << 16  # of the first sample at least
_GROWTH = 8
_LARGEST_SAMPLE = 1 / 8  # of the rows: from there on all of them are read
_PRECISIONS = {"float64": 1e-15, "float32": 2e-9}  # of Gram matrices: their roundings average


@dataclass(frozen=True)
class Task:
    """One model: which label it is of, and how it is penalised."""

    penalty: Penalty
    label: int = 0

    @property
    def free(self) -> bool:
        """Whether nothing keeps its coefficients from infinity."""
        return not (self.penalty.strength or self.penalty.bounded)


@dataclass
class Fit:
    """A task under way, on all rows or (`out`) on those of all other folds; `held` are that fold's sums at the last point."""

    task: Task
    descent: Descent | QuasiNewton
    out: int | None = None
    separated: bool = False
    problem: Problem | None = None
    held: Any = None


@dataclass(frozen=True)
class _Point:
    """Where sums are taken: of each fold by itself, or (`out`) of all rows but one fold's, or (`whole`) of all rows."""

    label: int
    w: bytes
    folded: bool
    out: int | None
    detailed: bool

    @property
    def kind(self) -> tuple[int, bool, bool, bool]:
        """What points whose sums are added up together have in common."""
        return self.label, self.folded, self.out is not None, self.detailed


@dataclass(frozen=True)
class _Found:
    """Sums at a point and the least margin, one for each part."""

    sums: list[Any]
    margins: Array

    def without(self, out: int | None) -> tuple[Any, float]:
        parts = [part for part in range(len(self.sums)) if part != out or len(self.sums) == 1]
        return functools.reduce(operator.add, [self.sums[part] for part in parts]), float(self.margins[parts].min())


class NothingWeighsError(Exception):
    """All rows of a sample have a weight of 0."""


class SharedPasses:
    """The fits of one rank, and the same ones on every other.

    Parameters
    ----------
    families
        One for each label of the source.
    solver
        Of `METHODS`.

    Attributes
    ----------
    center
        What is taken off features as they are worked on: (features,); None: nothing, or it was done before.
    """

    def __init__(
        self,
        worker: Worker,
        source: RowSource,
        families: Sequence[Family | Multinomial],
        tasks: Sequence[Task],
        solver: str = "newton",
    ) -> None:
        self.worker, self.families, self.tasks, self.method = worker, families, tasks, METHODS[solver]
        self.rows = RankRows(worker, source)
        most = max(self.size(task.label) for task in tasks)
        self.method.check(most, source.folds, len(tasks))
        self.rows.deal(self.method.numbers(most, detailed=False))
        self.center: Array | None = None
        self.steps = 0
        self._facts: dict[tuple[int | None, int], list[Facts]] = {}

    def outputs(self, label: int) -> int:
        family = self.families[label]
        return family.classes if isinstance(family, Multinomial) else 1

    def size(self, label: int) -> int:
        """Return the number of coefficients."""
        return self.outputs(label) * (self.rows.features + 1)

    # --- samples ---

    def samples(self) -> Iterator[int]:
        """Yield how many of the row groups in random order each sample has, the smallest first."""
        families = [self.families[task.label] for task in self.tasks]
        if not self.method.starts_on_samples(families, [task.penalty for task in self.tasks], self.rows.source.sparse):
            return
        each = 0 if self.rows.source.sparse else self.method.rows_per_coefficient
        rows = max(_SAMPLE_ROWS, each * max(self.size(task.label) for task in self.tasks))
        most = min(_LARGEST_SAMPLE * self.rows.rows_of(None), self.rows.source.memory / self.rows.row_bytes)
        before = 0
        while rows <= most:
            count = self.rows.groups_with(rows)
            if count > before and self.rows.rows_of(count) <= 2 * most:
                yield (before := count)
            rows *= _GROWTH

    def precision(self, count: int | None, label: int) -> float:
        """Return the distance below which a sample's optimum is no nearer to that of all there could be: a tenth of its error."""
        return 0.1 * float(np.sqrt(self.size(label) / self.rows.rows_of(count)))

    def start(self) -> list[Array]:
        """Look at some rows, decide on the scaling of the features, and return coefficients to start from, of each task."""
        centred = {task.penalty.centred for task in self.tasks}
        if len(centred) > 1:
            raise ValueError("models with and without an intercept cannot share passes")
        facts = None
        for count in (self.rows.groups_with(_SAMPLE_ROWS), len(self.rows.groups)):
            facts = self._looked_at(count)
            if facts[0].weight > 0:
                break
        else:
            raise DataError(f"column {self.rows.source.weight!r}: every row has a weight of 0")
        exact = self.rows.kind == np.float64
        centers = np.zeros(len(facts))
        if centred == {True}:  # so that squares keep what labels differ by, and float32 labels do
            squares = [isinstance(family, Gaussian) for family in self.families]
            centers = np.array([own.label / own.weight if square else 0.0 for own, square in zip(facts, squares, strict=True)])
        scaling = Scaling.of(facts[0], center=centred == {True}, always=exact)
        self.rows.scale(None if self.rows.source.sparse else scaling, centers)  # nothing that is 0 may change
        if self.method.centres and self.rows.scaling is None and centred == {True}:
            self.center = facts[0].mean
        found = []
        for task in self.tasks:
            w, family = np.zeros(self.size(task.label)), self.families[task.label]
            if task.penalty.intercept and not isinstance(family, Multinomial):
                own = facts[task.label]
                w[-1] = family.start(own.label / own.weight - centers[task.label])
            found.append(w)
        return found

    def sampled(self, starts: Sequence[Array]) -> tuple[list[Start], list[dict[str, list[float]]]]:
        """Fit samples, each from where the last one ended. Return the optima, and the decrements by size of the sample."""
        found, history = [Start(w) for w in starts], [{} for _ in starts]  # type: tuple[list[Start], list[dict[str, list[float]]]]
        for count in self.samples():
            fits = [
                Fit(task, self.descent(at, self.first_tolerance(count, task.label), self.method.sample_passes, instead=plain))
                for task, at, plain in zip(self.tasks, found, starts, strict=True)
            ]
            with contextlib.suppress(NothingWeighsError):
                self.drive(count, fits)
            for at, fit in enumerate(fits):
                if (result := fit.descent.result) is not None:
                    found[at] = Start(result.w, fit.descent.memory)
                    history[at][f"{self.rows.rows_of(count)} rows"] = [decrement for _, decrement in result.steps]
        return found, history

    def first_tolerance(self, count: int | None, label: int) -> float:
        """Return how near to the optimum of a sample (None: of all rows) a fit ends that others are to go on from."""
        return self.method.tolerance(self.precision(count, label), sample=count is not None)

    def descent(
        self, start: Start, tolerance: float, passes: int, *, patient: bool | None = None, instead: Array | None = None
    ) -> Any:
        """Return what goes from `start` on, or from `instead` where the loss is not finite at `start`."""
        patient = self.rows.all_fit if patient is None else patient
        instead = None if instead is start.w else instead
        return self.method.descent(start, tolerance, passes, patient=patient, kind=self.rows.kind, instead=instead)

    # --- passes ---

    def drive(self, count: int | None, fits: Sequence[Fit]) -> None:
        """Make passes over a set of row groups until every fit has its result."""
        while active := [fit for fit in fits if fit.descent.result is None]:
            points = [self._point(fit) for fit in active]
            found = self.evaluated(count, list(dict.fromkeys(points)))
            for fit, point in zip(active, points, strict=True):
                self.hand(count, fit, found[point])
            self._report(count, active)

    def shared(self, fits: Sequence[Fit], folds: Sequence[Sequence[Fit]], plain: Sequence[Array]) -> None:
        """Drive fits on all rows, and let `folds` (of each fit those that leave one fold out) step from the same points.

        Where the loss is not finite at a fit's start, all of them begin at its `plain` one.

        A fold's optimum is so near to that of all rows that mostly no pass at a point of its own is needed. Methods that do not
        arrive in one step have the folds start from the optima of all rows, with what was learnt on the way.
        """
        if not self.method.one_step:
            self.drive(None, fits)
            for fit, several in zip(fits, folds, strict=True):
                for fold in several:
                    assert fit.descent.result is not None and fit.descent.memory is not None
                    start = Start(fit.descent.result.w, fit.descent.memory.copy())
                    fold.descent = self.descent(start, fold.descent.tolerance, fold.descent.passes)
        while active := [number for number, fit in enumerate(fits) if fit.descent.result is None]:
            points = {number: self._point(fits[number], folded=True) for number in active}
            found = self.evaluated(None, list(dict.fromkeys(points.values())))
            for number in active:
                fit = fits[number]
                for fold in folds[number]:
                    if fold.descent.result is None:
                        start = Start(fit.descent.point)
                        done = fold.descent
                        fold.descent = self.descent(start, done.tolerance, done.passes, patient=False, instead=plain[number])
                        self.hand(None, fold, found[points[number]])
                self.hand(None, fit, found[points[number]])
            self._report(None, [fits[number] for number in active])
        self.drive(None, [fold for several in folds for fold in several])

    def hand(self, count: int | None, fit: Fit, found: _Found) -> None:
        """Give a fit what was found at its point."""
        sums, margin = found.without(fit.out)
        fit.held = None if fit.out is None or len(found.sums) == 1 else found.sums[fit.out]
        if self.center is not None:
            sums = sums.centred(self.center)
        fit.problem = fit.problem or self.problem(fit.task, count, fit.out)
        fit.separated = fit.task.free and self.families[fit.task.label].separable and margin > 0
        fit.descent.take(sums, fit.problem, stop=fit.separated)

    def _report(self, count: int | None, active: Sequence[Fit]) -> None:
        self.steps += 1
        self.rows.steps = self.steps
        if self.worker.rank == 0:
            rows: dict[str, Any] = {"step": self.steps, "rows": self.rows.rows_of(count)}
            objective, decrement = active[0].descent.steps[-1] if active[0].descent.steps else (np.nan, np.nan)
            models = {"models": len(active)} if len(active) > 1 else {}
            self.worker.report({**rows, **models, "objective": objective, "decrement": decrement})

    def _point(self, fit: Fit, folded: bool = False) -> _Point:
        return _Point(fit.task.label, fit.descent.point.tobytes(), folded, fit.out, fit.descent.detailed)

    def facts(self, count: int | None, label: int, out: int | None = None) -> Facts:
        """Return the facts of the rows but one fold's.

        Raises
        ------
        DataError
            Nothing can be learnt from all rows.
        NothingWeighsError
            Nothing can be learnt from a sample.
        """
        parts = self._facts[count, label]
        facts = functools.reduce(operator.add, [part for fold, part in enumerate(parts) if fold != out])
        weight, name = self.rows.source.weight, self.rows.source.labels[label]
        where = "" if out is None else f" outside of fold {out}"
        if not facts.weight > 0:
            what = f"column {weight!r}: every row{where} has a weight of 0" if weight else f"there are no rows{where}"
            raise DataError(what) if count is None else NothingWeighsError(what)
        mean = facts.label / facts.weight + self.rows.centers[label]
        if count is None and (wrong := self.families[label].check_labels(mean, facts.label_variance)):
            raise DataError(f"column {name!r}{where}: {wrong}", hint="there is nothing to learn from such labels")
        return facts

    def fold_weights(self, label: int) -> Array:
        return np.array([part.weight for part in self._facts[None, label]])

    def problem(self, task: Task, count: int | None, out: int | None = None) -> Problem:
        facts, outputs = self.facts(count, task.label, out), self.outputs(task.label)
        least, most = (ends if self.center is None else ends - self.center for ends in (facts.least, facts.most))
        reach = np.append(np.maximum(np.abs(least), np.abs(most)), 1.0)
        terms = task.penalty.on(facts, self.rows.scaling, outputs)
        terms = self.method.terms(terms, facts, reach, sample=count is not None)
        bend, precision = self.families[task.label].bend, _PRECISIONS[self.rows.kind.name]
        return Problem(terms, reach, bend, precision, outputs)

    def evaluated(self, count: int | None, points: Sequence[_Point]) -> dict[_Point, _Found]:
        """Return the sums at points; the first pass over a set of rows finds its facts, too."""
        found: dict[_Point, _Found] = {}
        some: list[_Point] = []
        numbers = 0
        for point in points:
            more = self._parts(point) * self._numbers(point)
            if some and numbers + more > MOST_NUMBERS:
                found.update(self._evaluated(count, some))
                some, numbers = [], 0
            some.append(point)
            numbers += more
        return {**found, **self._evaluated(count, some)}

    def _numbers(self, point: _Point) -> int:
        return self.method.numbers(self.size(point.label), detailed=point.detailed)

    def _parts(self, point: _Point) -> int:
        return self.rows.source.folds if point.folded else 1

    def _evaluated(self, count: int | None, points: Sequence[_Point]) -> dict[_Point, _Found]:
        new = [label for label in dict.fromkeys(point.label for point in points) if (count, label) not in self._facts]
        kinds: dict[tuple[int, bool, bool, bool], list[_Point]] = {}
        for point in points:
            kinds.setdefault(point.kind, []).append(point)
        folds = self.rows.source.folds

        def add(several: Iterator[Rows]) -> tuple[Array, Array]:
            lookers = {label: [Looker(self.families[label], self.rows.features, label) for _ in range(folds)] for label in new}
            adders = {kind: self._adder(alike) for kind, alike in kinds.items()}
            for rows in several:
                for label, own in lookers.items():
                    block = rows.of(label)
                    for start, stop, fold in rows.cuts or ((0, len(rows.labels[0]), 0),):
                        own[fold].take(block.part(start, stop) if rows.cuts else block)
                for (label, folded, out, _), adder in adders.items():
                    adder.take(rows.of(label), rows.cuts if folded or out else ())
            looked = [looker.facts().packed() for own in lookers.values() for looker in own]
            sums = [adder.sums(*at).packed() for adder in adders.values() for at in np.ndindex(adder.margins.shape)]
            return (
                sums[0] if len(sums) == 1 and not looked else np.concatenate([*(sums for sums, _ in looked), *sums]),
                np.concatenate([*(extremes for _, extremes in looked), *(adder.margins.ravel() for adder in adders.values())]),
            )

        total, least = self.rows.added_up(count, add)
        for label in new:
            self._facts[count, label] = []
            for _ in range(folds):
                looked, total = np.split(total, [Facts.numbers(self.rows.features, self.families[label])])
                extremes, least = np.split(least, [2 * self.rows.features])
                self._facts[count, label].append(Facts.unpacked(looked, extremes))
        found = {}
        for point in itertools.chain.from_iterable(kinds.values()):
            size, parts = self.size(point.label), self._parts(point)
            own, total = np.split(total, [parts * self._numbers(point)])
            margins, least = np.split(least, [parts])
            found[point] = _Found([self.method.unpacked(part, size) for part in own.reshape(parts, -1)], margins)
        return found

    def _adder(self, points: Sequence[_Point]) -> Any:
        """Return what adds up the sums at points of one kind."""
        one, w = points[0], np.array([np.frombuffer(point.w) for point in points])
        return self.adder(one.label, w, self._parts(one), [point.out for point in points], detailed=one.detailed)

    def adder(
        self, label: int, w: Array, parts: int = 1, without: Sequence[int | None] = (None,), *, detailed: bool = False
    ) -> Any:
        """Return what adds up the sums of a label's family at the points `w`."""
        return self.method.adder(self.families[label], w, parts, without, self.center, detailed)

    def _looked_at(self, count: int) -> list[Facts]:
        """Return the facts of some rows for each label, their features in float64: nothing is known of their scale yet."""

        def look(several: Iterator[Rows]) -> tuple[Array, Array]:
            lookers = [Looker(family, self.rows.features, label) for label, family in enumerate(self.families)]
            for rows in several:
                for label, looker in enumerate(lookers):
                    b = rows.of(label)
                    parts = (None if part is None else part.astype(np.float64) for part in (b.x, b.y, b.weight, b.offset))
                    looker.take(Block(*parts))  # type: ignore[arg-type]
            packed = [looker.facts().packed() for looker in lookers]
            return np.concatenate([sums for sums, _ in packed]), np.concatenate([extremes for _, extremes in packed])

        sums, extremes = self.rows.added_up(count, look)
        ends = np.cumsum([Facts.numbers(self.rows.features, family) for family in self.families])[:-1]
        several = zip(np.split(sums, ends), np.split(extremes, len(self.families)), strict=True)
        return [Facts.unpacked(*both) for both in several]
