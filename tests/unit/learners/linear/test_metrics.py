"""What a fold says from eta, label and weight: against scikit-learn, blocks of rows added up, and by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics

from sparkml.learners.linear.families import Binomial, Family, Gaussian, Poisson, SquaredHinge
from sparkml.learners.linear.metrics import METRICS, Confusion, Metric
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.validation import Validated

RANDOM = np.random.default_rng(31)
ROWS = 900
WEIGHT = RANDOM.choice([0.0, 0.5, 1.0, 3.0], ROWS)


def judged(metric: Metric, family: Any, eta: Any, y: Any, weight: Any) -> list[float]:
    """Return the metric of each model, the rows in three blocks."""
    total: Any = sum(
        metric.sums(family, eta[:, at], y[at].astype(float), weight[at]) for at in np.array_split(np.arange(len(y)), 3)
    )
    assert total.shape == (len(eta), metric.numbers(family))
    return [metric.value(own) for own in total]


def two_classes() -> tuple[Any, Any]:
    """Scores of two models that many rows share, one of them certain of some, and labels of which few are 1."""
    eta = np.round(RANDOM.normal(size=(2, ROWS)), 1)
    y = RANDOM.random(ROWS) < expit(1.5 * eta[0] - 1)
    eta[1] += np.where(np.arange(ROWS) % 10 == 0, 800 * np.sign(eta[1]), 0)
    return eta, y


def area_under_pr(y: Any, p: Any, weight: Any) -> float:
    precision, recall, _ = metrics.precision_recall_curve(y, p, sample_weight=weight)
    precision[-1] = precision[-2]  # MLlib's curve starts at the highest scores' precision, scikit-learn's at 1
    return float(metrics.auc(recall, precision))


CHOICES = {
    "accuracy": metrics.accuracy_score,
    "f1": lambda y, found, **w: metrics.f1_score(y, found, average="weighted", **w),
    "weightedPrecision": lambda y, found, **w: metrics.precision_score(y, found, average="weighted", zero_division=0, **w),
    "weightedRecall": lambda y, found, **w: metrics.recall_score(y, found, average="weighted", **w),
}
ERRORS = {
    "mse": metrics.mean_squared_error,
    "rmse": metrics.root_mean_squared_error,
    "mae": metrics.mean_absolute_error,
    "r2": metrics.r2_score,
}


@pytest.mark.parametrize("name", ["areaUnderROC", "areaUnderPR"])
def test_rankings_with_ties_and_weights_are_those_of_scikit_learn(name: str) -> None:
    eta, y = two_classes()
    theirs = {"areaUnderROC": lambda *given: metrics.roc_auc_score(given[0], given[1], sample_weight=given[2])}
    expected = [theirs.get(name, area_under_pr)(y, expit(own), WEIGHT) for own in eta]
    np.testing.assert_allclose(judged(METRICS[name], Binomial(), eta, y, WEIGHT), expected, rtol=1e-12)
    each = np.stack([np.ones_like(eta), 1 + eta], axis=2)
    np.testing.assert_allclose(judged(METRICS[name], Multinomial(2), each, y, WEIGHT), expected, rtol=1e-12)
    assert np.isnan(judged(METRICS[name], Binomial(), eta, y, WEIGHT * y)).all(), "one class says nothing"


def test_scores_that_are_all_the_same_rank_nothing() -> None:
    eta, y, weight = np.zeros((1, 5)), np.array([0, 0, 0, 1, 1]), np.ones(5)
    assert judged(METRICS["areaUnderROC"], Binomial(), eta, y, weight) == [0.5]
    assert judged(METRICS["areaUnderPR"], Binomial(), eta, y, weight) == [0.4], "every cut has the share of class 1"


@pytest.mark.parametrize("name", CHOICES)
def test_chosen_classes_are_judged_as_by_scikit_learn(name: str) -> None:
    eta, y = two_classes()
    assert (eta == 0).any(), "a probability that is the threshold is of class 0, as MLlib has it"
    expected = [CHOICES[name](y, own > 0, sample_weight=WEIGHT) for own in eta]
    np.testing.assert_allclose(judged(METRICS[name], Binomial(), eta, y, WEIGHT), expected, rtol=1e-12)
    several = RANDOM.normal(size=(2, ROWS, 4)) - [0, 0, 0.5, 20]  # the last class is never chosen
    label = np.argmax(several[0] + RANDOM.gumbel(size=(ROWS, 4)) + [0, 0, 0, 19], axis=1)
    expected = [CHOICES[name](label, own.argmax(axis=1), sample_weight=WEIGHT) for own in several]
    np.testing.assert_allclose(judged(METRICS[name], Multinomial(4), several, label, WEIGHT), expected, rtol=1e-12)


def test_a_threshold_is_of_probabilities_or_of_a_support_vector_machine_s_etas() -> None:
    eta, y = two_classes()
    for family, threshold, cut in ((Binomial(), 0.8, np.log(4)), (SquaredHinge(0.3), -0.7, -0.7)):
        expected = [metrics.accuracy_score(y, own > cut, sample_weight=WEIGHT) for own in eta]
        found = judged(Confusion("accuracy", threshold), family, eta, y, WEIGHT)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("family", [Gaussian(), Poisson()], ids=lambda family: family.name)
def test_errors_are_those_of_scikit_learn(family: Family, name: str) -> None:
    eta = RANDOM.normal(size=(2, ROWS))
    mean = eta if family.name == "gaussian" else np.exp(eta)
    y = np.round(mean[0] + RANDOM.exponential(size=ROWS))
    expected = [ERRORS[name](y, own, sample_weight=WEIGHT) for own in mean]
    np.testing.assert_allclose(judged(METRICS[name], family, eta, y, WEIGHT), expected, rtol=1e-12)
    if name == "r2":
        assert np.isnan(judged(METRICS[name], family, eta, np.full(ROWS, 2.0), WEIGHT)).all(), "labels that do not vary"


def test_losses_are_means_by_weight_however_large_an_eta() -> None:
    eta, y = two_classes()
    eta[1] /= 2
    each = np.stack([np.zeros_like(eta), eta], axis=2)
    p = softmax(each, axis=2)[:, np.arange(ROWS), y.astype(int)]
    expected = np.where(p > 1e-300, -np.log(np.maximum(p, 1e-300)), np.abs(eta)) @ WEIGHT / WEIGHT.sum()
    for family, given in ((Binomial(), eta), (Multinomial(2), each), (Multinomial(2), each + 800)):
        np.testing.assert_allclose(judged(METRICS["loss"], family, given, y, WEIGHT), expected, rtol=1e-12)


def test_the_best_is_the_best_mean_of_those_that_have_one() -> None:
    values = np.array([[0.2, 0.9], [0.5, 0.7], [0.5, 0.7], [0.4, 0.5], [np.nan, 1.0]])
    validated = Validated(values, np.zeros_like(values), larger_is_better=True)
    assert validated.best == 1, "not the best of all nor the best of the worst; of equals the first"
    assert replace(validated, larger_is_better=False).best == 3


@pytest.mark.parametrize(("where", "spread"), [(0, 1), (0, 0.02), (-4.6, 0.5), (-11, 0.5), (12, 1), (0, 20)])
def test_scores_of_rare_classes_are_ranked_too(where: float, spread: float) -> None:
    """A class of one row in 60,000 has probabilities that differ by less than 1e-4."""
    random = np.random.default_rng(4)
    eta = where + spread * random.normal(size=50_000)
    y = (eta + spread * random.normal(size=50_000) > where + 1.5 * spread).astype(float)
    weight = random.integers(1, 3, len(y)).astype(float)
    for name, theirs in (("areaUnderROC", metrics.roc_auc_score), ("areaUnderPR", metrics.average_precision_score)):
        metric = METRICS[name]
        for family, scores in ((Binomial(), eta), (SquaredHinge(), eta.astype(np.float32))):
            (sums,) = metric.sums(family, scores[None], y, weight)
            assert metric.value(sums) == pytest.approx(theirs(y, eta, sample_weight=weight), abs=5e-4)
