"""What a fit says about its coefficients and about how well it fits: standard errors, tests, deviance, information criteria."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparkml.learners.linear.facts import Facts, Scaling
from sparkml.learners.linear.families import Family, SquaredHinge
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.newton import Step
from sparkml.learners.linear.tree_sum import Array

_OF_ONE_LIKELIHOOD = (  # a squared hinge has none, several classes have coefficients up to a common vector
    *("dispersion", "dispersion_known", "null_deviance", "degrees_of_freedom", "aic"),
    "standard_errors",
)


def describe_fit(
    family: Family | Multinomial,
    step: Step,
    facts: Facts,
    scaling: Scaling | None,
    *,
    intercept: bool,
    offset: bool,
    penalised: bool,
) -> dict[str, Any]:
    """Return the statistics of a fit as JSON.

    They are those of `step`, the last pass, whose loss is carried on to where it led; the Hessian is that of its beginning. Where
    features depend on one another, and under a penalty, there are no standard errors. `dispersion` is Pearson's estimate where
    the family does not know it (McCullagh and Nelder, section 9.2.4); `aic` is None where there is no likelihood in closed form.
    """
    if isinstance(family, Multinomial | SquaredHinge):
        deviance = 2 * step.loss if isinstance(family, Multinomial) else None
        return {"deviance": deviance, **dict.fromkeys(_OF_ONE_LIKELIHOOD)}
    sums, free = step.sums, step.solution.inverse.diagonal() > 0
    rank = int(np.count_nonzero(free & ~step.solution.dependent)) + _rank_of_dependent(step)
    freedom = facts.rows - rank
    dispersion = family.dispersion
    if dispersion is None:
        pearson = max(0.0, 2 * step.loss) if family.bend == 0 else sums.pearson  # of squared errors they are the same
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
    }
    if not penalised:
        matrix = np.eye(len(free)) if scaling is None else scaling.raw()
        covariance = matrix @ (step.solution.inverse / sums.weight * dispersion) @ matrix.T
        errors: Array = np.sqrt(covariance.diagonal())
        errors[:-1][~free[:-1]] = np.nan
        errors[step.solution.dependent] = np.nan
        found["standard_errors"] = [None if math.isnan(error) else error for error in errors.tolist()]
    return found


def _rank_of_dependent(step: Step) -> int:
    dependent = step.solution.dependent
    if not dependent.any():
        return 0
    return int(np.linalg.matrix_rank(step.solution.inverse[np.ix_(dependent, dependent)], hermitian=True))


def null_deviance(family: Family, facts: Facts, intercept: bool) -> float:
    """Return the deviance of a model of nothing but the intercept (or, without one, of eta = 0).

    Losses are linear in the label at a given eta, but for the gaussian one.
    """
    mean = facts.label / facts.weight
    eta = family.start(mean) if intercept else 0.0
    if family.name == "gaussian":
        predicted = float(family.predict(np.array([eta]))[0])
        return facts.label_square - 2 * predicted * facts.label + predicted**2 * facts.weight
    loss = float(family.evaluate(np.array([eta]), np.array([mean]))[0][0])
    return 2 * (facts.weight * loss - facts.perfect)


def aic(family: Family, loss: float, deviance: float, facts: Facts, rank: int) -> float | None:
    """Return Akaike's criterion as R's and MLlib's ``glm`` have it: what is estimated besides coefficients counts as one more.

    None where there is no likelihood in closed form, of shares (their numbers of trials are not known) and of a perfect fit.
    """
    if (deviance == 0 and family.dispersion is None) or (family.name == "binomial" and facts.perfect):
        return None
    if family.name == "gaussian":
        spread = math.log(deviance / facts.rows * 2 * math.pi) + 1
        return facts.rows * spread + 2 - facts.weight_log + 2 * rank
    if family.name in ("binomial", "poisson"):
        return 2 * (loss - facts.constant) + 2 * rank
    if family.name == "gamma":
        scale = deviance / facts.weight
        shape = 1 / scale
        each = shape * math.log(shape) - math.lgamma(shape)
        return -2 * (facts.weight * each + (shape - 1) * facts.constant - shape * loss) + 2 + 2 * rank
    return None
