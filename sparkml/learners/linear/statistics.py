"""What a fit says about its coefficients and about how well it fits: standard errors, tests, deviance, information criteria."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparkml.learners.linear.facts import Facts, Scaling
from sparkml.learners.linear.families import Family, SquaredHinge, times_log
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.newton import Step
from sparkml.learners.linear.scores import Spread
from sparkml.learners.linear.tree_sum import Array

_OF_A_LIKELIHOOD = ("deviance", "dispersion", "dispersion_known", "null_deviance", "degrees_of_freedom", "aic", "standard_errors")
_ROUNDING = 1e-6  # of what adds up to 0
_MOST_CLASSES = 64  # whose covariances are kept: classes**2 * features numbers


def describe_fit(
    family: Family | Multinomial,
    step: Step,
    facts: Facts,
    scaling: Scaling | None,
    *,
    intercept: bool,
    offset: bool,
    penalised: bool,
    separated: bool,
    spread: Spread | None = None,
) -> dict[str, Any]:
    """Return the statistics of a fit as JSON.

    They are those of `step`, the last pass, whose loss is carried on to where it led; the Hessian is that of its beginning. Where
    features depend on one another, where classes are `separated`, and under a penalty, there are no standard errors.
    `dispersion` is Pearson's estimate where the family does not know it (McCullagh and Nelder, section 9.2.4); `aic` is None
    where there is no likelihood in closed form.
    With a `spread` of scores standard errors are robust ones. Those of several classes are the ones of coefficients whose
    sum over the classes is 0, and `class_covariances` tells those of differences: (features + 1, classes, classes).
    """
    if isinstance(family, SquaredHinge):
        return dict.fromkeys(_OF_A_LIKELIHOOD)
    outputs = family.classes if isinstance(family, Multinomial) else 1
    rank = _rank(step, outputs)
    freedom = facts.rows - rank
    dispersion = family.dispersion
    if dispersion is None:
        pearson = max(0.0, 2 * step.loss) if family.bend == 0 else step.sums.pearson  # of squared errors they are the same
        dispersion = pearson / freedom if freedom > 0 else math.nan
    deviance = max(0.0, 2 * (step.loss - facts.perfect))  # of a perfect fit rounding is left
    found: dict[str, Any] = {
        "dispersion": dispersion,
        "dispersion_known": family.dispersion is not None,
        "deviance": deviance,
        "null_deviance": None if offset else null_deviance(family, facts, intercept),
        "degrees_of_freedom": freedom,
        "aic": None if penalised else aic(family, step.loss, deviance, facts, rank),
        "standard_errors": None,
        "covariance_type": spread.kind if spread else "nonrobust",
    }
    if not penalised:
        inverse = step.solution.inverse / step.sums.weight
        covariance = spread.covariance(inverse, facts.rows, rank) if spread else inverse * dispersion
        covariances = _between_outputs(covariance, step, scaling, outputs)
        if separated:
            covariances[:] = np.nan
        errors = np.sqrt(np.maximum(0.0, np.einsum("jaa->aj", covariances)))
        found["standard_errors"] = _json(errors if outputs > 1 else errors[0])
        if 1 < outputs <= _MOST_CLASSES:
            found["class_covariances"] = _json(covariances)
    return found


def describe_loss(family: Family | Multinomial, loss: float, facts: Facts, *, intercept: bool, offset: bool) -> dict[str, Any]:
    """Return the statistics of a fit without a Hessian: what its loss says."""
    found: dict[str, Any] = dict.fromkeys(_OF_A_LIKELIHOOD)
    if not isinstance(family, SquaredHinge):
        found["deviance"] = max(0.0, 2 * (loss - facts.perfect))
        found["null_deviance"] = None if offset else null_deviance(family, facts, intercept)
        found.update(dispersion=family.dispersion, dispersion_known=family.dispersion is not None)
    return found


def _between_outputs(covariance: Array, step: Step, scaling: Scaling | None, outputs: int) -> Array:
    """Return covariances of each feature's coefficients, as the feature comes: (features + 1, outputs, outputs).

    NaN for features without coefficients of their own. Several outputs' are those of coefficients with a sum of 0: for those the
    pseudo-inverse of the Hessian, whatever `gauge` added to it.
    """
    width = len(covariance) // outputs
    blocks = covariance.reshape(outputs, width, outputs, width).transpose(0, 2, 1, 3)
    matrix = np.eye(width) if scaling is None else scaling.raw()
    found: Array = np.moveaxis(((matrix @ blocks) * matrix).sum(axis=-1), -1, 0)
    if outputs > 1:
        found = found - found.mean(axis=1, keepdims=True)  # one side is enough: what is common has no covariance with the rest
    solution = step.solution
    unknown = ((solution.inverse.diagonal() <= 0) | solution.dependent).reshape(outputs, width).any(axis=0)
    # a feature that is a sum of others and of a constant: where features are centred the intercept does not show it
    parts = matrix[-1, :, None] * solution.null.reshape(outputs, width, -1)
    unknown[-1] = (np.abs(parts.sum(axis=1)) > _ROUNDING * np.abs(parts).sum(axis=1)).any()
    found[unknown] = np.nan
    return found


def _rank(step: Step, outputs: int) -> int:
    """Return how many coefficients the rows tell apart; of several outputs only differences count."""
    common = np.count_nonzero(step.solution.free[: len(step.w) // outputs]) if outputs > 1 else 0
    return step.solution.rank - int(common)


def _json(values: Array) -> Any:
    """Return nested lists, None for NaN."""
    found = values.astype(object)
    found[np.isnan(values)] = None
    return found.tolist()


def null_deviance(family: Family | Multinomial, facts: Facts, intercept: bool) -> float:
    """Return the deviance of a model of nothing but the intercept (or, without one, of eta = 0).

    Losses are linear in the label at a given eta, but for the gaussian one.
    """
    if isinstance(family, Multinomial):
        shares = facts.classes / facts.weight if intercept else np.full(family.classes, 1 / family.classes)
        return float(-2 * times_log(facts.classes, shares).sum())
    mean = facts.label / facts.weight
    eta = family.start(mean) if intercept else 0.0
    if family.name == "gaussian":
        predicted = float(family.predict(np.array([eta]))[0])
        return facts.label_square - 2 * predicted * facts.label + predicted**2 * facts.weight
    loss = float(family.evaluate(np.array([eta]), np.array([mean]))[0][0])
    return 2 * (facts.weight * loss - facts.perfect)


def aic(family: Family | Multinomial, loss: float, deviance: float, facts: Facts, rank: int) -> float | None:
    """Return Akaike's criterion as R's and MLlib's ``glm`` have it: what is estimated besides coefficients counts as one more.

    None where there is no likelihood in closed form, of shares (their numbers of trials are not known) and of a perfect fit.
    """
    if (deviance == 0 and family.dispersion is None) or (family.name == "binomial" and facts.perfect):
        return None
    if family.name == "gaussian":
        spread = math.log(deviance / facts.rows * 2 * math.pi) + 1
        return facts.rows * spread + 2 - facts.weight_log + 2 * rank
    if family.name in ("binomial", "multinomial", "poisson"):
        return 2 * (loss - facts.constant) + 2 * rank
    if family.name == "gamma":
        scale = deviance / facts.weight
        shape = 1 / scale
        each = shape * math.log(shape) - math.lgamma(shape)
        return -2 * (facts.weight * each + (shape - 1) * facts.constant - shape * loss) + 2 + 2 * rank
    return None
