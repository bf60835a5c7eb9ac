"""Bounds of several classes: against SciPy's bounded minimiser, and by the conditions of an optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml.linalg import Matrices, Vectors
from scipy.optimize import minimize

from sparkml.errors import ConfigError
from sparkml.estimators import LogisticRegression
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.quadratic import Penalty
from tests.unit.learners.linear.test_statistics import fit

ROWS = 1500


def objective(w: Any, x: Any, y: Any, strength: float) -> tuple[float, Any]:
    """Return the penalised mean loss of (classes, features + 1) coefficients, and its gradient."""
    eta = x @ w[:, :-1].T + w[:, -1]
    p = Multinomial(len(w)).predict(eta)
    own = np.arange(len(y)), y.astype(int)
    loss = float(-np.log(p[own]).mean()) + strength / 2 * float((w[:, :-1] ** 2).sum())
    p[own] -= 1
    gradient = np.column_stack([p.T @ x, p.sum(axis=0)]) / len(y)
    gradient[:, :-1] += strength * w[:, :-1]
    return loss, gradient


@pytest.mark.parametrize("seed", range(10))
def test_the_rest_is_the_best_that_bounds_leave(tmp_path: Path, seed: int) -> None:
    """Even seeds have features of other units, and no penalty."""
    random, strength = np.random.default_rng(seed), 0.02 * (seed % 2)
    classes, features = int(random.integers(2, 6)), int(random.integers(1, 6))
    unit = 10.0 ** random.uniform(-2, 2, features)  # of each feature
    x = random.normal(size=(ROWS, features)) + random.normal(size=features)
    y = np.argmax(x @ random.normal(size=(features, classes)) + random.gumbel(size=(ROWS, classes)), axis=1).astype(float)
    shape = (classes, features)
    lower = np.column_stack([random.choice([-np.inf, -0.5, 0.0, 0.3], shape), random.choice([-np.inf, 0.1, -1.0], classes)])
    upper = np.column_stack([random.choice([np.inf, 0.5, 0.3], shape), random.choice([np.inf, 0.2, 0.5], classes)])
    if seed % 2:
        lower[:, -1], upper[:, -1], unit = -np.inf, np.inf, np.ones(features)
    raw = np.append(1 / unit, 1.0)
    bounds = {"lower": tuple(map(tuple, lower * raw)), "upper": tuple(map(tuple, upper * raw))}
    penalty = Penalty(strength, standardised=False, **bounds)
    _, _, answer = fit(tmp_path, x * unit, y, Multinomial(classes), penalty=penalty, tolerance=1e-8)
    found = np.array(answer["w"]) / raw
    assert answer["converged"] and answer["error"] is None, "no bound is known where bounds hold steps"
    slack = 1e-12
    assert (found >= lower - slack).all() and (found <= upper + slack).all()
    assert (np.isclose(found, lower, atol=slack) | np.isclose(found, upper, atol=slack)).any()
    gradient = objective(found, x, y, strength)[1]
    np.testing.assert_allclose(found - np.clip(found - gradient, lower, upper), 0, atol=1e-7)

    def flat(w: Any) -> tuple[float, Any]:
        loss, slope = objective(w.reshape(found.shape), x, y, strength)
        return loss, slope.ravel()

    theirs = minimize(
        flat,
        np.clip(np.zeros(found.size), lower.ravel(), upper.ravel()),
        jac=True,
        bounds=list(zip(lower.ravel(), upper.ravel(), strict=True)),
        method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-16, "gtol": 1e-10},
    )
    assert flat(found.ravel())[0] <= theirs.fun + 1e-10


def test_what_the_classes_have_in_common_is_not_taken_off(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(ROWS, 2))
    y = np.argmax(x @ [[1.0, 0.0, -1.0], [0.5, 0.2, 0.0]] + random.gumbel(size=(ROWS, 3)), axis=1).astype(float)
    bounds = ((0.0, 0.0, -np.inf),) * 3
    _, _, free = fit(tmp_path / "free", x, y, Multinomial(3))
    _, _, answer = fit(tmp_path / "bounded", x, y, Multinomial(3), penalty=Penalty(lower=bounds), tolerance=1e-8)
    w, other = np.array(answer["w"]), np.array(free["w"])
    assert (w[:, :-1] >= 0).all()
    np.testing.assert_allclose(w - w.mean(axis=0), other, atol=1e-6)  # non-negative ones fit as well as any


def test_bounds_are_given_as_mllib_has_them_or_in_lists() -> None:
    def bounds(features: int, outputs: int, **params: Any) -> Any:
        return LogisticRegression(**params)._bounds(features, outputs)

    inf = float("inf")
    assert bounds(2, 1) == {}
    assert bounds(2, 1, lowerBoundsOnCoefficients=[0, 1]) == {"lower": (0.0, 1.0, -inf)}
    assert bounds(2, 1, lowerBoundsOnCoefficients=Matrices.dense(1, 2, [0, 1])) == {"lower": (0.0, 1.0, -inf)}
    assert bounds(2, 1, lowerBoundsOnCoefficients=Vectors.dense([0, 1]), lowerBoundOnIntercept=3) == {"lower": (0.0, 1.0, 3.0)}
    assert bounds(2, 1, upperBoundsOnIntercepts=Vectors.dense([3.0])) == {"upper": (inf, inf, 3.0)}
    several = bounds(1, 2, upperBoundsOnCoefficients=Matrices.dense(2, 1, [1, 2]), upperBoundsOnIntercepts=[3, 4])
    assert several == {"upper": ((1.0, 3.0), (2.0, 4.0))}
    assert bounds(1, 2, lowerBoundsOnCoefficients=np.array([[1], [2]])) == {"lower": ((1.0, -inf), (2.0, -inf))}
    with pytest.raises(ConfigError, match="a lower bound is above its upper bound"):
        bounds(1, 2, lowerBoundsOnIntercepts=[0, 2], upperBoundsOnIntercepts=[1, 1])
    with pytest.raises(ConfigError, match=r"has 2 x 1 bounds, the coefficients are 2 x 3"):
        bounds(3, 2, lowerBoundsOnCoefficients=[[1], [2]])
    with pytest.raises(ConfigError, match="lowerBoundOnIntercept is of one linear predictor without lowerBoundsOnIntercepts"):
        bounds(3, 1, lowerBoundOnIntercept=0, lowerBoundsOnIntercepts=[0])
    with pytest.raises(TypeError, match="lowerBoundsOnCoefficients"):
        LogisticRegression(lowerBoundsOnCoefficients=3.0)
