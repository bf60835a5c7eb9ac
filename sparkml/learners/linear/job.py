"""`train_linear`: what a rank does for linear models. It starts on a sample, and ends with a pass or two over all rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sparkml.launch.worker import Worker
from sparkml.learners.linear.facts import Facts
from sparkml.learners.linear.families import Family
from sparkml.learners.linear.final_pass import at_the_end
from sparkml.learners.linear.lbfgs import Found
from sparkml.learners.linear.methods import Start
from sparkml.learners.linear.metrics import Metric
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.newton import Result, Step
from sparkml.learners.linear.passes import Fit, SharedPasses, Task
from sparkml.learners.linear.rows import RowSource
from sparkml.learners.linear.scores import Spread
from sparkml.learners.linear.statistics import describe_fit, describe_loss
from sparkml.learners.linear.tree_sum import Array
from sparkml.learners.linear.validation import Validated, cross_validated

_FAR_ETA = 25.0  # probabilities of exp(-25): a coefficient on its way to infinity


@dataclass(frozen=True)
class LinearJob:
    """What to fit; travels to the ranks.

    Attributes
    ----------
    families
        Of each label.
    tasks
        The models, fitted in shared passes.
    tolerance
        Distance from the optimum in the norm of the Hessian that is good enough: about the root mean square of what is wrong
        with eta, each row weighted by its curvature.
    passes
        Over all rows, at most.
    metric
        What the source's folds are judged by, if it has more than one.
    covariance
        Of the coefficients: one of `scores.COVARIANCES`. Robust ones take one more pass.
    solver
        Of `METHODS`; for sparse rows ``l-bfgs``.
    """

    source: RowSource
    families: tuple[Family | Multinomial, ...]
    tasks: tuple[Task, ...]
    tolerance: float = 1e-6
    passes: int = 100
    metric: Metric | None = None
    covariance: str = "nonrobust"
    solver: str = "newton"


def train_linear(worker: Worker, job: LinearJob) -> bytes:
    """Fit, and return the answer as JSON; the same on every rank.

    ``fits`` has one entry for each task. With folds ``validation`` has what they said, and the best task alone is fitted to the
    job's tolerance.

    A rank computes in one thread: how BLAS divides a product among threads changes its last bits.

    Raises
    ------
    DataError
        Labels that the family does not allow, features that are not finite, nothing to learn from.
    TrainingError
        The loss is not finite.
    """
    with threadpool_limits(1, user_api="blas"):
        return json.dumps(_trained(SharedPasses(worker, job.source, job.families, job.tasks, job.solver), job)).encode()


def _trained(passes: SharedPasses, job: LinearJob) -> dict[str, Any]:
    plain = passes.start()
    starts, history = passes.sampled(plain)
    if job.metric is None:
        fits = [
            Fit(task, passes.descent(start, job.tolerance, job.passes, instead=other))
            for task, start, other in zip(job.tasks, starts, plain, strict=True)
        ]
        passes.drive(None, fits)
        return {"fits": _answers(passes, fits, history, at_the_end(passes, dict(enumerate(fits)), job.covariance))}
    fits, validated = cross_validated(passes, starts, plain, job.metric, job.passes)
    best = fits[validated.best]
    assert best.descent.result is not None
    if passes.rows.all_fit or not best.descent.result.last.error <= job.tolerance:
        best.descent = passes.descent(Start(best.descent.result.w, best.descent.memory), job.tolerance, job.passes)
        passes.drive(None, [best])
    ended = at_the_end(passes, {validated.best: best}, job.covariance)
    return {"fits": _answers(passes, fits, history, ended), "validation": _said(validated)}


def _said(validated: Validated) -> dict[str, Any]:
    errors = [[error if np.isfinite(error) else None for error in several] for several in validated.errors.tolist()]
    return {"metrics": validated.metrics.tolist(), "errors": errors, "best": validated.best}


def _answers(
    passes: SharedPasses,
    fits: Sequence[Fit],
    history: Sequence[dict[str, list[float]]],
    ended: Mapping[int, tuple[Step, Spread]],
) -> list[dict[str, Any]]:
    return [_answer(passes, fit, own, ended.get(number)) for number, (fit, own) in enumerate(zip(fits, history, strict=True))]


def _answer(passes: SharedPasses, fit: Fit, history: dict[str, list[float]], ended: tuple[Step, Spread] | None) -> dict[str, Any]:
    done, task, rows = fit.descent.result, fit.task, passes.rows
    assert done is not None
    family, facts = passes.families[task.label], passes.facts(None, task.label)
    constant = (facts.most == facts.least) & task.penalty.intercept
    unseen = constant & (facts.most == 0) & rows.source.sparse
    return {
        "solver": "newton" if isinstance(done, Result) else "l-bfgs" if task.penalty.smooth else "owl-qn",
        "w": _raw(passes, task, done.w).tolist(),
        "converged": done.converged,
        "passes": len(done.steps),
        "decrements": {**history, "all rows": [decrement for _, decrement in done.steps]},
        "objectives": [objective for objective, _ in done.steps],
        "error": None if np.isinf(done.last.error) else done.last.error,
        "rows": facts.rows,
        "weight": facts.weight,
        "separated": fit.separated,
        "fading": task.free and family.bend == 1 and _reached(passes, task, done.w) > _FAR_ETA,
        "constant": np.flatnonzero(constant & ~unseen).tolist(),
        "unseen": int(np.count_nonzero(unseen)),
        **_described(passes, fit, facts, ended),
    }


def _described(passes: SharedPasses, fit: Fit, facts: Facts, ended: tuple[Step, Spread] | None) -> dict[str, Any]:
    """Return which features depend on one another, and the statistics; without a Hessian those of the loss alone."""
    done, task, offset = fit.descent.result, fit.task, passes.rows.source.offset is not None
    assert done is not None
    family, intercept = passes.families[task.label], task.penalty.intercept
    if isinstance(done, Found):
        return {"dependent": [], **describe_loss(family, done.last.sums.loss, facts, intercept=intercept, offset=offset)}
    dependent = done.last.solution.dependent.reshape(passes.outputs(task.label), -1)[:, :-1].any(axis=0)
    last, spread = ended or (done.last, None)
    return {
        "dependent": np.flatnonzero(dependent).tolist(),
        **describe_fit(
            family,
            last,
            facts,
            passes.rows.scaling,
            intercept=intercept,
            offset=offset,
            penalised=not task.free,
            separated=fit.separated,
            spread=spread,
        ),
    }


def _raw(passes: SharedPasses, task: Task, w: Array) -> Array:
    """Return coefficients of the features as they come: (outputs, features + 1)."""
    each = w.reshape(passes.outputs(task.label), -1)
    each = each.copy() if passes.rows.scaling is None else passes.rows.scaling.raw_of(each)
    if passes.center is not None:
        each[:, -1] -= each[:, :-1] @ passes.center
    each[:, -1] += passes.rows.centers[task.label]
    if len(each) > 1 and not task.penalty.bounded:  # what all classes have in common says nothing: MLlib's choice is 0
        each[:, -1] -= each[:, -1].mean()
        if not task.penalty.strength:
            each[:, :-1] -= each[:, :-1].mean(axis=0)
    return each


def _reached(passes: SharedPasses, task: Task, w: Array) -> float:
    """Return the largest part of an eta, either way, that comes from one feature."""
    facts = passes.facts(None, task.label)
    slopes = np.abs(w.reshape(passes.outputs(task.label), -1)[:, :-1])
    return float((slopes * np.maximum(np.abs(facts.least), np.abs(facts.most))).max(initial=0.0))
