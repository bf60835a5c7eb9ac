"""Point values against scikit-learn, on the smallest cases by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparkml.errors import ConfigError
from sparkml.evaluate import histogram
from sparkml.evaluate.metric import Layout, Rows
from sparkml.evaluate.settings import EvaluateSettings
from sparkml.evaluate.states import POINT, Plan
from sparkml.plugins import load

FINE = 65536


def value(name: str, rows: Rows, classes: int = 0, weights: Any = None, bins: int = FINE, **options: Any) -> float:
    plugin = load("evaluate.metrics", name)
    metric: Any = plugin(plugin.Options(**options))
    layout = Layout(classes, bins)
    return float(metric.value(metric.state(rows, np.ones((1, len(rows.y))) if weights is None else weights, layout), layout)[0])


def classification(classes: int, n: int = 3000, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), y] += 1.5
    p = np.exp(2 * logits)
    p /= p.sum(axis=1, keepdims=True)
    return Rows(y.astype(float), p.argmax(axis=1).astype(float), p)


@pytest.mark.parametrize("classes", [2, 4])
def test_classification_metrics_equal_scikit_learn(classes: int) -> None:
    from sklearn import metrics as sk

    rows = classification(classes)
    y, p = rows.y.astype(int), rows.probability
    assert p is not None
    one_hot = np.eye(classes)[y]
    brier = ((p - one_hot) ** 2).sum(axis=1).mean() / (2 if classes == 2 else 1)
    assert value("accuracy", rows, classes) == pytest.approx(sk.accuracy_score(y, rows.prediction), abs=1e-12)
    assert value("macro_f1", rows, classes) == pytest.approx(sk.f1_score(y, rows.prediction, average="macro"), abs=1e-12)
    assert value("log_loss", rows, classes) == pytest.approx(sk.log_loss(y, p), rel=1e-12)
    assert value("brier", rows, classes) == pytest.approx(brier, rel=1e-12)
    if classes == 2:
        assert value("brier", rows, 2) == pytest.approx(sk.brier_score_loss(y, p[:, 1]), rel=1e-12)
        auc, ap = sk.roc_auc_score(y, p[:, 1]), sk.average_precision_score(y, p[:, 1])
    else:
        auc, ap = sk.roc_auc_score(y, p, multi_class="ovr"), sk.average_precision_score(one_hot, p, average="macro")
    assert value("auc", rows, classes) == pytest.approx(auc, abs=1e-5)
    assert value("pr_auc", rows, classes) == pytest.approx(ap, abs=1e-3)


def test_regression_metrics_equal_scikit_learn() -> None:
    from sklearn import metrics as sk

    rng = np.random.default_rng(1)
    y = rng.normal(2010, 5, 2000)
    rows = Rows(y, y + rng.normal(0, 2, 2000), None)
    assert value("rmse", rows) == pytest.approx(sk.root_mean_squared_error(y, rows.prediction), rel=1e-12)
    assert value("mae", rows) == pytest.approx(sk.mean_absolute_error(y, rows.prediction), rel=1e-12)
    assert value("r2", rows) == pytest.approx(sk.r2_score(y, rows.prediction), rel=1e-9)


@pytest.mark.parametrize("bins", [64, 512, FINE])
def test_auc_is_within_its_documented_bound(bins: int) -> None:
    from sklearn.metrics import roc_auc_score

    rows = classification(2, seed=5)
    assert rows.probability is not None
    layout = Layout(2, bins)
    state = histogram.score_histogram(rows, np.ones((1, len(rows.y))), layout)
    bound = float(histogram.auc_error_bound(state, layout)[0, 0])
    error = abs(float(histogram.auc_by_class(state, layout)[0, 0]) - float(roc_auc_score(rows.y, rows.probability[:, 1])))
    assert error <= bound + 1e-12
    assert bound < {64: 0.01, 512: 1e-3, FINE: 1e-4}[bins]


def test_equal_scores_count_half() -> None:
    # pairs (positive, negative): (0.8, 0.8) tie, (0.8, 0.1) right, (0.3, 0.8) wrong, (0.3, 0.1) right -> 2.5 of 4
    p = np.array([0.8, 0.3, 0.8, 0.1])
    rows = Rows(np.array([1.0, 1, 0, 0]), (p > 0.5).astype(float), np.stack([1 - p, p], axis=1))
    assert value("auc", rows, 2) == pytest.approx(2.5 / 4)


def test_score_bins_are_monotone_and_fine_at_both_ends() -> None:
    scores = np.concatenate([[0.0], np.geomspace(1e-16, 0.5, 500), 1 - np.geomspace(0.5, 1e-15, 500), [1.0]])
    bins = histogram.score_bins(scores, FINE)
    assert (np.diff(bins) >= 0).all() and bins[0] == 0 and bins[-1] == FINE - 1
    assert len(np.unique(bins)) > 900
    assert histogram.score_bins(np.array([0.9999, 0.99999]), 512).tolist() != [511, 511]


def test_calibration_error_by_hand() -> None:
    # bin (0.5, 1]: 4 rows, mean confidence 0.8, 2 of 4 right -> |0.5 - 0.8| = 0.3
    p = np.array([0.7, 0.7, 0.9, 0.9])
    rows = Rows(np.array([0.0, 1, 0, 1]), np.zeros(4), np.stack([p, 1 - p], axis=1))
    assert value("calibration_error", rows, 2, bins=2) == pytest.approx(_ece(rows, 15))
    plugin = load("evaluate.metrics", "calibration_error")
    metric: Any = plugin(plugin.Options(bins=2))
    assert metric.value(metric.state(rows, np.ones((1, 4)), Layout(2, 1)), Layout(2, 1))[0] == pytest.approx(0.3)


def _ece(rows: Rows, bins: int) -> float:
    assert rows.probability is not None
    confidence = rows.probability.max(axis=1)
    total = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            total += inside.mean() * abs(rows.correct[inside].mean() - confidence[inside].mean())
    return total


def test_one_class_only_has_no_ranking_metric_but_the_others() -> None:
    rows = Rows(np.ones(5), np.ones(5), np.tile([0.2, 0.8], (5, 1)))
    assert np.isnan(value("auc", rows, 2)) and np.isnan(value("pr_auc", rows, 2))
    assert value("accuracy", rows, 2) == 1 and value("macro_f1", rows, 2) == 1
    assert np.isnan(value("r2", Rows(np.full(9, 3.3), np.zeros(9), None)))


def test_log_loss_is_clipped() -> None:
    rows = Rows(np.array([1.0]), np.array([0.0]), np.array([[1.0, 0.0]]))
    assert value("log_loss", rows, 2) == pytest.approx(-np.log(np.finfo(float).eps))
    assert value("log_loss", rows, 2, clip=0.01) == pytest.approx(-np.log(0.01))


def test_histograms_stay_within_the_memory_budget() -> None:
    metrics = tuple(EvaluateSettings().for_task("classification"))
    few = Plan(metrics, 2, True, 200, 0)
    many = Plan(metrics, 50, True, 200, 0, slices=(("city", tuple("abcdefghij")),))
    assert few.layout(0, POINT).bins == FINE and few.layout(0, 0).bins == 512
    assert many.layout(0, 0).bins < few.layout(0, 0).bins
    held = sum(sum(many.width(group, 0).values()) for group in range(many.groups)) * 201 * 8
    assert held < 300e6


def test_settings_take_names_and_options() -> None:
    settings = EvaluateSettings.model_validate({"metrics": ["accuracy", {"type": "calibration_error", "bins": 10}]})
    assert [metric.plugin_name() for metric in settings.for_task("classification")] == ["accuracy", "calibration_error"]
    assert settings.metrics[1].options.bins == 10
    assert EvaluateSettings.model_validate(settings.model_dump(mode="json")).metrics[1].options.bins == 10
    with pytest.raises(ConfigError, match="measures classification"):
        settings.for_task("regression")
    for wrong in (
        {"metrics": ["acuracy"]},
        {"metrics": ["auc", "auc"]},
        {"metrics": [{"type": "auc", "x": 1}]},
        {"bootstrap": {"replicates": 1}},
    ):
        with pytest.raises(ValueError):
            EvaluateSettings.model_validate(wrong)


def test_curves_have_few_points_and_their_area_is_the_metric() -> None:
    rows = classification(2, 20_000)
    layout = Layout(2, FINE)
    (curve,) = histogram.curves(histogram.score_histogram(rows, np.ones((1, len(rows.y))), layout), layout)
    assert len(curve["fpr"]) <= 200 and len(curve["recall"]) <= 200
    assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
    area = float(np.trapezoid(curve["tpr"], curve["fpr"]))
    assert area == pytest.approx(value("auc", rows, 2), abs=2e-3)
