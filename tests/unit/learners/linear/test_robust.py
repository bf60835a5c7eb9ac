"""Sandwich standard errors against statsmodels, of every family, with and without weights, and on any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.sandwich_covariance import cov_white_simple

from sparkml.errors import ConfigError
from sparkml.learners.linear.families import Binomial, Gaussian, Poisson
from sparkml.learners.linear.glm import family_of
from sparkml.learners.linear.job import LinearJob, train_linear
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.passes import Task
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.rows import RowSource
from tests.unit.learners.linear.test_edges import together
from tests.unit.learners.linear.test_job import Alone, answer_of, job_of, publish, rows
from tests.unit.learners.linear.test_statistics import fit, with_intercept

ROWS = 400


def uneven(family: str) -> tuple[Any, Any, Any]:
    """Rows whose spread is not what the family says."""
    random = np.random.default_rng(23)
    x = np.column_stack([random.normal(size=ROWS), 40 + 3 * random.normal(size=ROWS)])
    eta = 0.5 * x[:, 0] + 0.1 * (x[:, 1] - 40) + 0.2
    noise = random.normal(size=ROWS) * np.exp(x[:, 0] / 2)
    y = {
        "gaussian": lambda: eta + noise,
        "binomial": lambda: (eta + noise > 0).astype(float),
        "poisson": lambda: random.poisson(np.exp(eta + noise / 3)).astype(float),
        "gamma": lambda: np.exp(eta + noise / 3),
    }[family]()
    return x, y, random.choice([0.5, 1.0, 3.0], ROWS).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["HC0", "HC1"])
def test_those_of_least_squares_are_white_s(tmp_path: Path, kind: str, weighted: bool) -> None:
    x, y, weight = uneven("gaussian")
    weight = weight if weighted else np.ones_like(weight)
    _, summary, _ = fit(tmp_path, x, y, Gaussian(), weight, covariance=kind)
    other = sm.WLS(y, with_intercept(x), weight.astype(float)).fit(cov_type=kind, use_t=True)
    np.testing.assert_allclose(summary.coefficientStandardErrors, other.bse, rtol=1e-9)
    np.testing.assert_allclose(summary.tValues, other.tvalues, rtol=1e-9)
    np.testing.assert_allclose(summary.pValues, other.pvalues, rtol=1e-8)
    np.testing.assert_allclose(summary.confidenceIntervals(0.9), other.conf_int(0.1), rtol=1e-8)
    assert summary.covarianceType == kind and f"standard error ({kind})" in summary.toPandas()


@pytest.mark.parametrize(
    ("name", "link", "theirs"),
    [
        ("binomial", None, sm.families.Binomial()),
        ("binomial", "probit", sm.families.Binomial(sm.families.links.Probit())),
        ("poisson", None, sm.families.Poisson()),
        ("gamma", "log", sm.families.Gamma(sm.families.links.Log())),
    ],
    ids=["logit", "probit", "poisson", "gamma"],
)
def test_those_of_weighted_rows_are_huber_s_for_weights_of_variances(tmp_path: Path, name: str, link: Any, theirs: Any) -> None:
    x, y, weight = uneven(name)
    _, summary, _ = fit(tmp_path, x, y, family_of(name, link), weight, covariance="HC0", tolerance=1e-10)
    model = sm.GLM(y, with_intercept(x), theirs, var_weights=weight.astype(float))
    other = model.fit(tol=1e-14, maxiter=300)
    scores, bread = model.score_obs(other.params), np.linalg.inv(model.information(other.params))
    expected = np.sqrt(cov_white_simple((scores, bread), use_correction=False).diagonal())
    np.testing.assert_allclose(summary.coefficientStandardErrors, expected, rtol=1e-7)
    if link is None:  # of others statsmodels takes the observed curvature
        robust = model.fit(tol=1e-14, maxiter=300, cov_type="HC0")
        np.testing.assert_allclose(summary.coefficientStandardErrors, robust.bse, rtol=1e-7)
        np.testing.assert_allclose(summary.pValues, robust.pvalues, rtol=1e-5)
    counted = sm.GLM(y, with_intercept(x), theirs, freq_weights=weight.astype(float)).fit(tol=1e-14, cov_type="HC0")
    assert not np.allclose(summary.coefficientStandardErrors, counted.bse, rtol=0.01)


def test_hc1_of_any_family_makes_up_for_few_rows(tmp_path: Path) -> None:
    """statsmodels' HC1 of a GLM is its HC0."""
    x, y, _ = uneven("binomial")
    _, few, _ = fit(tmp_path / "few", x, y, Binomial(), covariance="HC1")
    _, none, _ = fit(tmp_path / "none", x, y, Binomial(), covariance="HC0")
    expected = none.coefficientStandardErrors * np.sqrt(ROWS / (ROWS - 3))
    np.testing.assert_allclose(few.coefficientStandardErrors, expected, rtol=1e-12)


def test_of_features_that_depend_on_one_another_the_others_have_errors(tmp_path: Path) -> None:
    x, y, _ = uneven("gaussian")
    more = np.column_stack([x, x[:, 1] - 40, np.full(ROWS, 5.0)])
    _, summary, answer = fit(tmp_path, more, y, Gaussian(), covariance="HC1")
    other = sm.OLS(y, with_intercept(x)).fit(cov_type="HC1")
    assert np.isnan(summary.coefficientStandardErrors[1:4]).all() and answer["dependent"] == [1, 2]
    assert summary.coefficientStandardErrors[0] == pytest.approx(other.bse[0], rel=1e-9)
    assert summary.degreesOfFreedom == ROWS - 3


@pytest.mark.parametrize("most", [1, 1 << 22])
def test_labels_that_share_the_pass_and_an_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """What is a weight elsewhere is the offset here, or another label; with a pass of its own for each, and rows in parts."""
    monkeypatch.setattr("sparkml.learners.linear.final_pass._MOST_NUMBERS", most)
    monkeypatch.setattr("sparkml.learners.linear.scores._BYTES", most)
    x, y, other = rows(1500)
    url = publish(tmp_path, x.astype(float), y, other)
    job = job_of(url, Poisson(), offset="w", tolerance=1e-10, covariance="HC0")
    alone = answer_of(train_linear(Alone(), job))
    design = with_intercept(x.astype(float))
    expected = sm.GLM(y, design, sm.families.Poisson(), offset=other.astype(float)).fit(tol=1e-14, cov_type="HC0")
    np.testing.assert_allclose(alone["standard_errors"], expected.bse, rtol=1e-7)
    both = LinearJob(
        RowSource(url, "x", ("y", "w")), (Binomial(), Poisson()), (Task(Penalty()), Task(Penalty(), 1)), 1e-10, covariance="HC0"
    )
    logit, counts = json.loads(train_linear(Alone(), both))["fits"]
    for found, theirs in (
        (logit, sm.Logit(y, design).fit(disp=0, tol=1e-13, cov_type="HC0")),
        (counts, sm.GLM(other.astype(float), design, sm.families.Poisson()).fit(tol=1e-14, cov_type="HC0")),
    ):
        np.testing.assert_allclose(found["standard_errors"], theirs.bse, rtol=1e-7)


def test_a_penalised_fit_has_none(tmp_path: Path) -> None:
    x, y, _ = uneven("gaussian")
    _, summary, _ = fit(tmp_path, x, y, Gaussian(), penalty=Penalty(0.1), covariance="HC0")
    with pytest.raises(ConfigError, match="penalised fit has no standard errors"):
        _ = summary.coefficientStandardErrors


def test_the_hessian_is_that_of_the_coefficients(tmp_path: Path) -> None:
    """Without the pass more, errors are those of where the last step began."""
    x, y, _ = rows(6000)
    w, summary, answer = fit(tmp_path, x, y, Binomial(), covariance="HC0", memory=1, tolerance=0.1)
    design = with_intercept(x.astype(float))
    p = 1 / (1 + np.exp(-design @ w))
    bread = np.linalg.inv((design.T * (p * (1 - p))) @ design)
    scores = design * (p - y)[:, None]
    expected = np.sqrt((bread @ (scores.T @ scores) @ bread).diagonal())
    np.testing.assert_allclose(summary.coefficientStandardErrors, expected, rtol=1e-9)
    assert answer["decrements"]["all rows"][-1] > 0.01


@pytest.mark.parametrize("family", [Poisson(), Multinomial(3)], ids=lambda family: family.name)
def test_they_have_the_same_bits_on_any_number_of_ranks(tmp_path: Path, family: Any) -> None:
    x, _, weight = rows(12_000)
    y = np.random.default_rng(4).integers(0, 3, len(x)).astype(float)
    job = job_of(publish(tmp_path, x, y, weight), family, weight="w", memory=1, covariance="HC1")
    assert len({together(job, size)[0] for size in (1, 2, 3)}) == 1
