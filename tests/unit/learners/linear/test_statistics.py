"""Coefficients, standard errors and p-values against statsmodels and NIST's certified values, on data known to be hard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.special import xlogy

from sparkml.estimators.linear_summary import LinearSummary
from sparkml.learners.linear.families import Binomial, Gaussian, Poisson
from sparkml.learners.linear.glm import family_of
from sparkml.learners.linear.job import train_linear
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.quadratic import Penalty
from tests.unit.learners.linear.test_job import Alone, answer_of, job_of, publish, rows

LONGLEY = {  # NIST, Statistical Reference Datasets: the intercept last; certified values and standard deviations
    "values": [
        15.0618722713733,
        -0.358191792925910e-01,
        -2.02022980381683,
        -1.03322686717359,
        -0.511041056535807e-01,
        1829.15146461355,
        -3482258.63459582,
    ],
    "errors": [
        84.9149257747669,
        0.334910077722432e-01,
        0.488399681651699,
        0.214274163161675,
        0.226073200069370,
        455.478499142212,
        890420.383607373,
    ],
}


def fit(folder: Path, x: Any, y: Any, family: Any, weight: Any = None, **more: Any) -> tuple[Any, LinearSummary, dict[str, Any]]:
    ones = np.ones(len(y), np.float32)
    url = publish(folder, np.ascontiguousarray(x), np.asarray(y, np.float64), ones if weight is None else weight)
    job = job_of(url, family, weight=None if weight is None else "w", **{"tolerance": 1e-9, **more})
    answer = answer_of(train_linear(Alone(), job))
    w = np.array(answer["w"])
    return w[0], LinearSummary(w[:, :-1], w[:, -1], [], answer), answer


def with_intercept(x: Any) -> Any:
    return np.column_stack([x, np.ones(len(x))])


def test_longley_is_nist_s(tmp_path: Path) -> None:
    """Six columns that nearly depend on one another, far from 0, one of them the year."""
    data = sm.datasets.longley.load_pandas()
    w, summary, answer = fit(tmp_path, data.exog.to_numpy(np.float64), data.endog.to_numpy() * 1.0, Gaussian())
    np.testing.assert_allclose(w, LONGLEY["values"], rtol=1e-9)
    np.testing.assert_allclose(summary.coefficientStandardErrors, LONGLEY["errors"], rtol=1e-9)
    assert summary.dispersion == pytest.approx(304.854073561965**2, rel=1e-9) and summary.degreesOfFreedom == 9
    assert answer["passes"] == 1 and not answer["dependent"]


@pytest.mark.parametrize(
    ("dataset", "family", "theirs"),
    [
        ("spector", family_of("binomial"), sm.families.Binomial()),
        ("spector", family_of("binomial", "probit"), sm.families.Binomial(sm.families.links.Probit())),
        ("scotland", family_of("gamma"), sm.families.Gamma()),
        ("cpunish", family_of("poisson"), sm.families.Poisson()),
        ("fair", family_of("tweedie", variance_power=1.5, link_power=0.0), sm.families.Tweedie(var_power=1.5)),
    ],
    ids=["logit", "probit", "gamma", "poisson", "tweedie"],
)
def test_the_books_examples_are_those_of_statsmodels(tmp_path: Path, dataset: str, family: Any, theirs: Any) -> None:
    data = getattr(sm.datasets, dataset).load_pandas()
    x, y = data.exog.to_numpy(np.float64), data.endog.to_numpy(np.float64)
    w, summary, _ = fit(tmp_path, x, y, family)
    other = sm.GLM(y, with_intercept(x), theirs).fit(tol=1e-13, maxiter=300)
    np.testing.assert_allclose(w, other.params, rtol=1e-7)
    np.testing.assert_allclose(summary.coefficientStandardErrors, other.bse, rtol=1e-5)
    z = other.params / other.bse
    np.testing.assert_allclose(summary.tValues, z, rtol=1e-5)
    if summary._found["dispersion_known"]:  # statsmodels takes the normal distribution for the others, too
        np.testing.assert_allclose(summary.pValues, other.pvalues, rtol=1e-4)
        np.testing.assert_allclose(summary.confidenceIntervals(), other.conf_int(), rtol=1e-5, atol=1e-8)
    assert summary.deviance == pytest.approx(other.deviance, rel=1e-9)
    assert summary.nullDeviance == pytest.approx(other.null_deviance, rel=1e-8)


def test_p_values_of_least_squares_are_those_of_statsmodels(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 3)) + 1e6  # six digits are gone before anything is learnt
    y = x @ [0.5, 0.1, 0.0] + random.normal(size=200)
    weight = random.uniform(0.5, 2, 200).astype(np.float32)
    w, summary, _ = fit(tmp_path, x, y, Gaussian(), weight)
    other = sm.WLS(y, with_intercept(x - 1e6), weight.astype(np.float64)).fit()
    np.testing.assert_allclose(w[:-1], other.params[:-1], rtol=1e-7)
    np.testing.assert_allclose(summary.coefficientStandardErrors[:-1], other.bse[:-1], rtol=1e-8)
    np.testing.assert_allclose(summary.pValues[:-1], other.pvalues[:-1], rtol=1e-7)


@pytest.mark.parametrize("name", ["gaussian", "binomial", "poisson", "gamma"])
def test_aic_is_r_s_of_weighted_rows(tmp_path: Path, name: str) -> None:
    """By SciPy's densities. R takes the dispersion of a gaussian and of a gamma from the deviance, and counts it."""
    x, y, _ = rows(500)
    random = np.random.default_rng(2)
    weight, eta = random.choice([0.5, 1.0, 3.0], 500), x[:, 0] / 2
    y = {
        "gaussian": eta + random.normal(size=500),
        "binomial": y,
        "poisson": random.poisson(np.exp(eta)).astype(float),
        "gamma": random.gamma(2, np.exp(eta)),
    }[name]
    family = family_of(name, "log" if name == "gamma" else None)
    w, summary, _ = fit(tmp_path, x, y, family, weight.astype(np.float32))
    mean = family.predict(with_intercept(x) @ w)
    scale = summary.deviance / (500 if name == "gaussian" else weight.sum())
    likelihood = {
        "gaussian": lambda: stats.norm.logpdf(y, mean, np.sqrt(scale / weight)).sum(),
        "binomial": lambda: weight @ stats.bernoulli.logpmf(y, mean),
        "poisson": lambda: weight @ stats.poisson.logpmf(y, mean),
        "gamma": lambda: weight @ stats.gamma.logpdf(y, 1 / scale, scale=mean * scale),
    }[name]()
    assert summary.aic == pytest.approx(2 * (7 + (name in ("gaussian", "gamma"))) - 2 * likelihood, rel=1e-9)


@pytest.mark.parametrize("solver", ["newton", "l-bfgs"])
def test_the_null_model_without_an_intercept_is_an_eta_of_zero(tmp_path: Path, solver: str) -> None:
    x, _, offset = rows(500)
    y = np.random.default_rng(2).poisson(np.exp(x[:, 0] / 2)).astype(float)
    url = publish(tmp_path, x.astype(float), y, offset)
    for family, expected in ((Gaussian(), y @ y), (Poisson(), 2 * float(np.sum(xlogy(y, y) - y + 1)))):
        answer = answer_of(train_linear(Alone(), job_of(url, family, Penalty(0.1, intercept=False), solver=solver)))
        assert answer["null_deviance"] == pytest.approx(expected, rel=1e-9)
        assert answer["aic"] is None, "coefficients that are held count for less than one each"
        shifted = answer_of(train_linear(Alone(), job_of(url, family, Penalty(0.1), solver=solver, offset="w")))
        assert shifted["null_deviance"] is None


def test_as_many_rows_as_coefficients_say_nothing_of_errors(tmp_path: Path) -> None:
    x, y = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]]), np.array([1.0, 2.0, 4.0])
    for kind in ("nonrobust", "HC1"):
        _, summary, answer = fit(tmp_path / kind, x, y, Gaussian(), covariance=kind)
        assert answer["degrees_of_freedom"] == 0 and np.isnan(summary.coefficientStandardErrors).all()


def test_rows_in_float32_agree_to_four_digits_however_far_from_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkml.learners.linear.rows._EXACT_NUMBERS", 0)
    x, y, _ = rows(20_000)
    far = (x + 300).astype(np.float32)
    w, summary, answer = fit(tmp_path, far, y, Binomial(), tolerance=1e-6)
    other = sm.Logit(y, with_intercept(far.astype(np.float64) - 300)).fit(disp=0, tol=1e-12)
    assert answer["converged"]
    np.testing.assert_allclose(w[:-1], other.params[:-1], atol=1e-5)
    np.testing.assert_allclose(summary.coefficientStandardErrors[:-1], other.bse[:-1], rtol=1e-4)


def test_the_bound_on_what_is_left_is_a_bound(tmp_path: Path) -> None:
    """Each pass's bound, against where the fit ends."""
    x, y, _ = rows(5000)
    exact, _, _ = fit(tmp_path / "exact", x.astype(np.float64), y, Binomial(), tolerance=1e-12)
    p = 1 / (1 + np.exp(-(with_intercept(x) @ exact)))
    hessian = (with_intercept(x).T * (p * (1 - p))) @ with_intercept(x) / len(x)
    bounds = []
    for passes in range(1, 7):
        w, summary, _ = fit(tmp_path / str(passes), x.astype(np.float64), y, Binomial(), passes=passes)
        left = float(np.sqrt((w - exact) @ hessian @ (w - exact)))
        assert left <= 1.5 * summary.error  # the norm is that of the Hessian elsewhere
        bounds.append(summary.error)
    assert bounds == sorted(bounds, reverse=True) and bounds[0] == np.inf and bounds[-1] < 1e-9


@pytest.mark.parametrize("constant", [0.0, 1.5])
@pytest.mark.parametrize("family", [Gaussian(), Multinomial(3)], ids=lambda family: family.name)
def test_a_sum_of_others_and_a_constant_takes_the_intercept_along(tmp_path: Path, family: Any, constant: float) -> None:
    """Where features are centred both look alike; but with the constant many intercepts fit."""
    x, y, _ = rows(2000)
    x = np.column_stack([x + 3, x[:, 0] - 2 * x[:, 1] - 3 + constant]).astype(float)
    _, summary, answer = fit(tmp_path, x, y + (x[:, 2] > 3), family)
    errors = np.atleast_2d(summary.coefficientStandardErrors)
    assert answer["dependent"] == [0, 1, 6] and np.isnan(errors[:, -1]).all() == bool(constant)
    assert not np.isnan(errors[:, 2:6]).any()


@pytest.mark.parametrize("family", [Binomial(), Multinomial(2)], ids=lambda family: family.name)
def test_classes_told_apart_have_no_standard_errors(tmp_path: Path, family: Any) -> None:
    x, _, _ = rows(500)
    x = x[np.abs(x[:, 0]) > 0.1].astype(float)
    _, summary, answer = fit(tmp_path, x, (x[:, 0] > 0) * 1.0, family)
    assert answer["separated"] and np.isnan(summary.toPandas().iloc[:, 1:]).all(axis=None)


def test_a_dummy_with_one_kind_of_label_leaves_the_others_their_errors(tmp_path: Path) -> None:
    x, y, _ = rows(2000)
    dummy = np.arange(2000) % 10 == 0
    x = np.column_stack([x, dummy]).astype(float)
    _, summary, answer = fit(tmp_path, x, np.where(dummy, 1.0, y), Binomial())
    other = sm.Logit(y[~dummy], with_intercept(x[~dummy, :-1])).fit(disp=0, tol=1e-12)
    assert answer["fading"] and np.isnan(summary.coefficientStandardErrors[6])
    np.testing.assert_allclose(np.delete(summary.coefficientStandardErrors, 6), other.bse, rtol=1e-6)
