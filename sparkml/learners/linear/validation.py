"""K-fold cross-validation of many models in shared passes: fits without each fold, judged on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkml.errors import DataError
from sparkml.learners.linear.methods import Start
from sparkml.learners.linear.metrics import Loss, Metric, Totals
from sparkml.learners.linear.newton import missed_after
from sparkml.learners.linear.passes import Fit, SharedPasses
from sparkml.learners.linear.rows import Rows
from sparkml.learners.linear.tree_sum import Array


@dataclass(frozen=True)
class Validated:
    """What folds said: `metrics` and `errors` (how far fits may be from their optima) are (tasks, folds)."""

    metrics: Totals
    errors: Totals
    larger_is_better: bool

    @property
    def best(self) -> int:
        """The task with the best mean, the first of equals; one whose metric is not defined on some fold is never the best."""
        mean = self.metrics.mean(axis=1) * (1 if self.larger_is_better else -1)
        return int(np.argmax(np.where(np.isnan(mean), -np.inf, mean)))


def cross_validated(
    passes: SharedPasses, starts: Sequence[Start], plain: Sequence[Array], metric: Metric, limit: int
) -> tuple[list[Fit], Validated]:
    """Fit every task to all rows and without each fold, from `starts` on, and judge the latter; all of one label.

    Where the loss is not finite at a start, fits begin at its `plain` one. All end within a hundredth of what chance does to
    their coefficients: nearer optima would be judged the same.

    Raises
    ------
    DataError
        A fold has no rows, or the metric is not defined on it.
    """
    folds = passes.rows.source.folds
    (label,) = {task.label for task in passes.tasks}
    tolerance = passes.first_tolerance(None, label) / 10
    whole = [
        Fit(task, passes.descent(at, tolerance, limit, patient=False, instead=other))
        for task, at, other in zip(passes.tasks, starts, plain, strict=True)
    ]
    apart = [
        [Fit(fit.task, passes.descent(Start(fit.descent.point), tolerance, limit, patient=False), out) for out in range(folds)]
        for fit in whole
    ]
    passes.shared(whole, apart, plain)
    if not (weighs := passes.fold_weights(label) > 0).all():
        raise DataError(f"fold {int(np.flatnonzero(~weighs)[0])} has no rows to judge on", hint="take fewer folds")
    metrics = _expanded(whole, apart, passes.first_tolerance(None, label) ** 2) if isinstance(metric, Loss) else None
    found = [[fold.descent.result for fold in several] for several in apart]
    errors = np.array([[np.nan if result is None else result.last.error for result in several] for several in found])
    if metrics is None:
        w = np.array([[result.w for result in several if result is not None] for several in found])  # (tasks, folds, size)
        totals = _judged(passes, w, label, metric)
        metrics = np.array([[metric.value(own) for own in several] for several in totals])
    if (undefined := np.isnan(metrics)).any(axis=1).all():
        fold = int(np.flatnonzero(undefined.any(axis=0))[0])
        raise DataError(
            f"the metric is not defined on fold {fold}: its labels are all the same",
            hint="take fewer folds, or another metric",
        )
    return whole, Validated(metrics, errors, metric.larger_is_better)


def _expanded(whole: Sequence[Fit], apart: Sequence[Sequence[Fit]], tolerance: float) -> Totals | None:
    """Return the mean losses of held-out folds, (tasks, folds), from their sums where the last steps began.

    None if some fold has no such sums, its fit having had points of its own, or if its mean loss might be off by more than
    `tolerance`.
    """
    means = np.empty((len(apart), len(apart[0])))
    for task, (fit, several) in enumerate(zip(whole, apart, strict=True)):
        for number, fold in enumerate(several):
            held, result = fold.held, fold.descent.result
            if held is None or result is None or fit.problem is None:
                return None
            step = result.w - result.last.w
            if not missed_after(held, step, fit.problem) <= tolerance * held.weight:  # a fold's own problem knows no held-out row
                return None
            means[task, number] = held.loss_after(step) / held.weight
    return means


def _judged(passes: SharedPasses, w: Array, label: int, metric: Metric) -> Totals:
    """Return what the metric adds up, (tasks, folds, numbers), for coefficients of shape (tasks, folds, size)."""
    family, outputs, kind = passes.families[label], passes.outputs(label), passes.rows.kind
    tasks, folds, numbers = len(w), w.shape[1], metric.numbers(family)
    each = w.reshape(tasks, folds, outputs, -1).astype(kind)

    def add(several: Iterator[Rows]) -> tuple[Totals, Totals]:
        total = np.zeros((tasks, folds, numbers))
        for rows in several:
            block = rows.of(label)
            for start, stop, fold in rows.cuts:
                part = block.part(start, stop)
                eta = _etas(each[:, fold], part.x, passes.center)
                if part.offset is not None:
                    eta += part.offset
                weight = np.ones(stop - start, kind) if part.weight is None else part.weight
                eta = eta[:, 0] if outputs == 1 else eta.transpose(0, 2, 1)
                total[:, fold] += metric.sums(family, eta, part.y, weight)
        return total.ravel(), np.zeros(1)

    total, _ = passes.rows.added_up(None, add)
    return total.reshape(tasks, folds, numbers)


def _etas(w: Array, x: Any, center: Array | None) -> Any:
    """Return the linear predictors of coefficients of shape (tasks, outputs, features + 1): (tasks, outputs, rows)."""
    slopes = w[:, :, :-1].reshape(-1, w.shape[2] - 1)
    intercepts = w[:, :, -1].reshape(-1, 1) if center is None else w[:, :, -1].reshape(-1, 1) - (slopes @ center)[:, None]
    return ((x @ slopes.T).T + intercepts).reshape(*w.shape[:2], -1)
