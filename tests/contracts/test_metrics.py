"""What every metric promises; a new one is tested by being there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparkml.evaluate.metric import Layout, Rows
from sparkml.plugins import load, names


@pytest.fixture(params=names("evaluate.metrics"))
def metric(request: pytest.FixtureRequest) -> Any:
    return load("evaluate.metrics", request.param)()


@pytest.fixture(params=[2, 5])
def classes(request: pytest.FixtureRequest, metric: Any) -> int:
    if metric.task == "regression" and request.param != 2:
        return 0
    return int(request.param) if metric.task == "classification" else 0


def make(classes: int, n: int, better: float = 1.0, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    if not classes:
        y = rng.normal(size=n)
        return Rows(y, y + rng.normal(size=n) / better, None)
    y = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), y] += better
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    return Rows(y.astype(float), p.argmax(axis=1).astype(float), p)


def part(rows: Rows, mask: Any) -> Rows:
    return rows.take(mask)


def test_describes_itself(metric: Any) -> None:
    assert metric.task in {"classification", "regression"}
    assert isinstance(metric.greater_is_better, bool)
    assert metric.label and metric.__doc__


def test_states_add_over_any_partitioning(metric: Any, classes: int) -> None:
    rows = make(classes, 300)
    layout = Layout(classes, 128)
    weights = np.random.default_rng(1).poisson(1, (7, 300)).astype(float)
    whole = metric.state(rows, weights, layout)
    assert whole.shape[0] == 7 and whole.dtype == np.float64
    mask = np.random.default_rng(2).random(300) < 0.3
    halves = metric.state(part(rows, mask), weights[:, mask], layout) + metric.state(part(rows, ~mask), weights[:, ~mask], layout)
    np.testing.assert_allclose(halves, whole, rtol=1e-12, atol=1e-12)


def test_weights_are_repetitions(metric: Any, classes: int) -> None:
    rows = make(classes, 60)
    layout = Layout(classes, 4096)
    times = np.random.default_rng(3).poisson(1, 60)
    repeated = np.repeat(np.arange(60), times)
    probability = None if rows.probability is None else rows.probability[repeated]
    again = Rows(rows.y[repeated], rows.prediction[repeated], probability)
    weighted = metric.value(metric.state(rows, times[None, :].astype(float), layout), layout)
    assert weighted.shape == (1,)
    assert weighted[0] == pytest.approx(
        metric.value(metric.state(again, np.ones((1, len(repeated))), layout), layout)[0], rel=1e-12
    )


def test_shuffled_truth_scores_worse(metric: Any, classes: int) -> None:
    layout = Layout(classes, 1024)
    rows = make(classes, 2000, better=4.0)
    shuffled = Rows(np.random.default_rng(5).permutation(rows.y), rows.prediction, rows.probability)
    good, poor = (float(metric.value(metric.state(some, np.ones((1, 2000)), layout), layout)[0]) for some in (rows, shuffled))
    assert (good > poor) == metric.greater_is_better and abs(good - poor) > 0.05


def test_no_rows_and_no_weight_give_nan(metric: Any, classes: int) -> None:
    layout = Layout(classes, 64)
    rows = make(classes, 10)
    nothing = part(rows, np.zeros(10, dtype=bool))
    empty = metric.state(nothing, np.zeros((3, 0)), layout)
    assert empty.shape == metric.state(rows, np.ones((3, 10)), layout).shape
    assert np.isnan(metric.value(empty, layout)).all()
    assert np.isnan(metric.value(metric.state(rows, np.zeros((2, 10)), layout), layout)).all()


def test_one_class_never_crashes(metric: Any, classes: int) -> None:
    rows = make(classes, 20)
    same = Rows(np.zeros(20), np.zeros(20), rows.probability)
    assert metric.value(metric.state(same, np.ones((1, 20)), Layout(classes, 64)), Layout(classes, 64)).shape == (1,)
