"""What is said of the coefficients of several classes, against statsmodels' MNLogit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from sparkml.errors import ConfigError
from sparkml.learners.linear import statistics
from sparkml.learners.linear.families import Binomial
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.quadratic import Penalty
from tests.unit.learners.linear.test_job import rows
from tests.unit.learners.linear.test_statistics import fit, with_intercept


@pytest.fixture(scope="module")
def votes() -> tuple[Any, Any]:
    """944 rows, 7 classes, 5 features of scales that differ."""
    data = sm.datasets.anes96.load_pandas()
    return data.exog.to_numpy(np.float64), data.endog.to_numpy(np.float64)


@pytest.mark.parametrize("kind", ["nonrobust", "HC0"])
@pytest.mark.parametrize("reference", [0, 3])
def test_contrasts_are_mnlogit_s(tmp_path: Path, votes: tuple[Any, Any], reference: int, kind: str) -> None:
    x, y = votes
    _, summary, _ = fit(tmp_path, x, y, Multinomial(7), covariance=kind)
    moved = np.where(y == reference, -1, y)  # the least label is statsmodels' reference
    other = sm.MNLogit(moved, with_intercept(x)).fit(method="newton", disp=0, tol=1e-12, maxiter=100, cov_type=kind)
    table = summary.against(reference)
    np.testing.assert_allclose(table.coefficients, other.params.T, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(table.coefficientStandardErrors, other.bse.T, rtol=1e-7)
    np.testing.assert_allclose(table.pValues, other.pvalues.T, rtol=1e-6, atol=1e-12)
    low_high = np.moveaxis(table.confidenceIntervals().reshape(6, 6, 2), -1, 0)
    np.testing.assert_allclose(low_high, np.moveaxis(np.asarray(other.conf_int()).reshape(6, 6, 2), -1, 0), rtol=1e-6, atol=1e-8)
    assert table.toPandas().index.names == [f"class against {reference}", "feature"]
    assert table.toPandas().index.levels[0].tolist() == [number for number in range(7) if number != reference]


def test_centred_coefficients_have_the_pseudo_inverse_of_the_hessian(tmp_path: Path, votes: tuple[Any, Any]) -> None:
    x, y = votes
    w, summary, _ = fit(tmp_path, x, y, Multinomial(7))
    design = with_intercept(x)
    p = Multinomial(7).predict(design @ summary.coefficients.T)
    hessian = np.zeros((42, 42))
    for row, chances in zip(design, p, strict=True):
        hessian += np.kron(np.diag(chances) - np.outer(chances, chances), np.outer(row, row))
    errors = np.sqrt(np.linalg.pinv(hessian, rcond=1e-12, hermitian=True).diagonal()).reshape(7, 6)
    np.testing.assert_allclose(summary.coefficientStandardErrors, errors, rtol=1e-6)
    assert summary.toPandas().loc[(3, "features[1]"), "standard error"] == pytest.approx(errors[3, 1], rel=1e-6)
    np.testing.assert_allclose(w, summary.coefficients[0])


def test_what_fits_how_well(tmp_path: Path, votes: tuple[Any, Any]) -> None:
    x, y = votes
    _, summary, _ = fit(tmp_path / "free", x, y, Multinomial(7))
    other = sm.MNLogit(y, with_intercept(x)).fit(method="newton", disp=0)
    assert summary.deviance == pytest.approx(-2 * other.llf, rel=1e-9)
    assert summary.nullDeviance == pytest.approx(-2 * other.llnull, rel=1e-9)
    assert summary.aic == pytest.approx(other.aic, rel=1e-9) and summary.degreesOfFreedom == other.df_resid
    assert summary.dispersion == 1
    _, through, _ = fit(tmp_path / "zero", x, y, Multinomial(7), penalty=Penalty(intercept=False))
    bare = sm.MNLogit(y, x).fit(method="newton", disp=0)
    assert through.nullDeviance == pytest.approx(2 * len(y) * np.log(7), rel=1e-12)
    assert through.aic == pytest.approx(bare.aic, rel=1e-9)


def test_weights_and_features_that_depend_on_one_another(tmp_path: Path) -> None:
    x, _, weight = rows(3000)
    y = np.argmax(x[:, :3] + np.random.default_rng(2).gumbel(size=(3000, 3)), axis=1).astype(float)
    often = np.repeat(np.arange(3000), weight.astype(int))
    _, weighted, _ = fit(tmp_path / "weighted", x.astype(float), y, Multinomial(3), weight)
    _, repeated, _ = fit(tmp_path / "repeated", x[often].astype(float), y[often], Multinomial(3))
    np.testing.assert_allclose(weighted.coefficientStandardErrors, repeated.coefficientStandardErrors, rtol=1e-9)
    assert weighted.nullDeviance == pytest.approx(repeated.nullDeviance, rel=1e-12)
    twice = np.column_stack([x, x[:, 0] - 2 * x[:, 1], np.full(3000, 4.0)]).astype(float)
    _, summary, answer = fit(tmp_path / "twice", twice, y, Multinomial(3), weight)
    assert answer["dependent"] == [0, 1, 6] and answer["constant"] == [7]
    np.testing.assert_allclose(summary.coefficientStandardErrors[:, 2:6], weighted.coefficientStandardErrors[:, 2:6], rtol=1e-8)
    assert np.isnan(summary.coefficientStandardErrors[:, [0, 1, 6, 7]]).all()
    assert np.isnan(summary.against(1).pValues[:, [0, 1, 6, 7]]).all() and not np.isnan(summary.against(1).pValues[:, -1]).any()
    assert summary.degreesOfFreedom == weighted.degreesOfFreedom == 3000 - 2 * 7


def test_two_classes_by_softmax_say_what_those_by_logit_say(tmp_path: Path) -> None:
    x, y, _ = rows(3000)
    _, logit, _ = fit(tmp_path / "logit", x, y, Binomial(), covariance="HC1")
    _, softmax, _ = fit(tmp_path / "softmax", x, y, Multinomial(2), covariance="HC1")
    np.testing.assert_allclose(softmax.against(0).coefficientStandardErrors[0], logit.coefficientStandardErrors, rtol=1e-9)
    np.testing.assert_allclose(softmax.against(0).tValues[0], logit.tValues, rtol=1e-7)
    np.testing.assert_allclose(softmax.coefficientStandardErrors[1], logit.coefficientStandardErrors / 2, rtol=1e-9)
    assert softmax.aic == pytest.approx(logit.aic) and softmax.nullDeviance == pytest.approx(logit.nullDeviance)


def test_what_cannot_be_compared_is_refused(tmp_path: Path, votes: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = votes
    _, summary, _ = fit(tmp_path / "classes", x, y, Multinomial(7))
    with pytest.raises(ConfigError, match=r"against\(7\): the classes are 0 to 6"):
        summary.against(7)
    with pytest.raises(ConfigError, match="those of a difference already"):
        summary.against(1).against(2)
    _, summary, _ = fit(tmp_path / "two", x, (y > 2).astype(float), Binomial())
    with pytest.raises(ConfigError, match="those of a difference already"):
        summary.against(0)
    _, summary, _ = fit(tmp_path / "penalised", x, y, Multinomial(7), penalty=Penalty(0.1))
    with pytest.raises(ConfigError, match="penalised fit has no standard errors"):
        summary.against(0)
    monkeypatch.setattr(statistics, "_MOST_CLASSES", 6)
    _, summary, _ = fit(tmp_path / "many", x, y, Multinomial(7))
    assert summary.coefficientStandardErrors.shape == (7, 6)
    with pytest.raises(ConfigError, match="7 classes are too many"):
        summary.against(0)
