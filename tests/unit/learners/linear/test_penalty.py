"""Elastic nets and bounds: against scikit-learn, against SciPy's bounded minimiser, and by the conditions of an optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn import linear_model

from sparkml.learners.linear.families import Binomial, Gaussian, Poisson
from sparkml.learners.linear.quadratic import Penalty, Terms, solve
from tests.unit.learners.linear.test_newton import ROWS, data, fitted


@pytest.mark.parametrize("mixing", [0.3, 1.0])
@pytest.mark.parametrize("strength", [0.01, 0.2])
def test_an_elastic_net_is_that_of_scikit_learn(strength: float, mixing: float) -> None:
    x, y = data(Gaussian())
    theirs = linear_model.ElasticNet(alpha=strength, l1_ratio=mixing, tol=1e-14, max_iter=100_000).fit(x, y)
    ours = fitted(x, y, Gaussian(), Penalty(strength, mixing, standardised=False))
    np.testing.assert_allclose(ours, [*theirs.coef_, theirs.intercept_], atol=1e-8)
    assert ((ours[:-1] == 0) == (theirs.coef_ == 0)).all()


@pytest.mark.parametrize("mixing", [0.0, 0.4, 1.0])
def test_a_penalty_by_label_is_that_of_a_label_and_features_with_deviations_of_one(mixing: float) -> None:
    """As glmnet and MLlib's linear regression have it; of the rows themselves, which a few tell from unbiased ones."""
    x, y = (part[:30] for part in data(Gaussian()))
    deviation, unit = x.std(axis=0), y.std()
    theirs = linear_model.ElasticNet(alpha=0.2 / unit, l1_ratio=mixing, tol=1e-14, max_iter=100_000).fit(x / deviation, y / unit)
    ours = fitted(x, y, Gaussian(), Penalty(0.2, mixing, by_label=True))
    np.testing.assert_allclose(ours[:-1], theirs.coef_ * unit / deviation, atol=1e-8)
    np.testing.assert_allclose(ours[-1], theirs.intercept_ * unit, atol=1e-8)
    same = fitted(x, np.full(30, 2.0), Gaussian(), Penalty(0.2, mixing, by_label=True))
    np.testing.assert_allclose(same, [0, 0, 0, 0, 0, 2], atol=1e-8)


@pytest.mark.parametrize("mixing", [0.5, 1.0])
def test_a_logistic_elastic_net_is_that_of_scikit_learn(mixing: float) -> None:
    x, y = data(Binomial())
    theirs = linear_model.LogisticRegression(
        C=1 / (0.05 * ROWS), l1_ratio=mixing, penalty="elasticnet", solver="saga", tol=1e-12, max_iter=100_000
    ).fit(x, y)
    ours = fitted(x, y, Binomial(), Penalty(0.05, mixing, standardised=False), tolerance=1e-10)
    np.testing.assert_allclose(ours, [*theirs.coef_[0], theirs.intercept_[0]], atol=1e-6)
    assert (ours[:-1] == 0).any()


@pytest.mark.parametrize("family", [Gaussian(), Binomial(), Poisson()], ids=lambda family: family.name)
def test_bounds_are_kept_and_the_rest_is_the_best(family: Any) -> None:
    x, y = data(family)
    lower, upper = (-0.1, -np.inf, 0.05, 0.0, 0.0, -np.inf), (0.2, -0.1, 0.5, np.inf, np.inf, 0.25)
    ours = fitted(x, y, family, Penalty(0.01, standardised=False, lower=lower, upper=upper), tolerance=1e-10)

    def objective(w: Any) -> Any:
        loss, slope, _ = family.evaluate(x @ w[:-1] + w[-1], y)
        gradient = np.append(slope @ x, slope.sum()) / ROWS + np.append(0.01 * w[:-1], 0)
        return loss.mean() + 0.005 * w[:-1] @ w[:-1], gradient

    bounds = list(zip(lower, upper, strict=True))
    theirs = minimize(objective, np.clip(np.zeros(6), lower, upper), jac=True, bounds=bounds, method="L-BFGS-B", tol=1e-14)
    np.testing.assert_allclose(ours, theirs.x, atol=2e-5)
    assert objective(ours)[0] <= theirs.fun + 1e-12
    assert (ours >= lower).all() and (ours <= upper).all() and ((ours == lower) | (ours == upper)).any()


def test_a_step_that_sweeps_did_not_reach_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    hessian = np.array([[1.0, 0.9], [0.9, 1.0]])
    terms = Terms(np.zeros(2), np.full(2, 0.1), np.full(2, -np.inf), np.full(2, np.inf), np.ones(2, bool))
    given = np.zeros(2), np.array([-2.0, -1.9]), hessian, terms, 1e-14
    done = solve(*given)
    monkeypatch.setattr("sparkml.learners.linear.quadratic._SWEEPS", 2)
    ended = solve(*given)
    assert done.exact and not ended.exact
    np.testing.assert_allclose(done.target, np.linalg.solve(hessian, [1.9, 1.8]), rtol=1e-9)


@pytest.mark.parametrize("near", [0.0, 0.95])
@pytest.mark.parametrize("seed", range(20))
def test_a_step_meets_the_conditions_of_an_optimum(seed: int, near: float) -> None:
    """Where neighbours are `near` one another sweeps find late which coefficients are 0."""
    random = np.random.default_rng(seed)
    size = int(random.integers(2, 30))
    root = random.normal(size=(2 * size, size)) @ np.diag(10.0 ** random.uniform(-2, 2, size) if not near else np.ones(size))
    for at in range(1, size if near else 0):
        root[:, at] = near * root[:, at - 1] + np.sqrt(1 - near**2) * root[:, at]
    hessian, gradient = root.T @ root / size, random.normal(size=size) * 10
    absolute = random.choice([0.0, 1.0, 20.0], size)
    lower = random.choice([-np.inf, -0.5, 0.0], size)
    upper = random.choice([np.inf, 0.5, 0.1], size)
    terms = Terms(np.full(size, 0.1), absolute, lower, upper, np.ones(size, bool))
    w = np.clip(random.normal(size=size), lower, upper)
    new = solve(w, gradient, hessian, terms, 1e-14).target
    slope = gradient + hessian @ (new - w) + 0.1 * new
    up, down = np.where(new < 0, -absolute, absolute), np.where(new > 0, absolute, -absolute)
    slack = 1e-6 * np.sqrt(np.diag(hessian))
    assert ((new >= lower) & (new <= upper)).all()
    assert (slope + up >= -slack)[new < upper].all(), "no way up is better"
    assert (slope + down <= slack)[new > lower].all(), "no way down is better"
