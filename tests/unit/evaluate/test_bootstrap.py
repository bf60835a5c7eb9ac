from __future__ import annotations

import numpy as np
import pytest

from sparkml.errors import DataError
from sparkml.evaluate.bootstrap import interval, poisson_weights, splitmix64
from sparkml.evaluate.evaluation import Evaluation, compare

KEYS = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 20_000, dtype=np.int64)


def test_splitmix64_gives_the_published_sequence() -> None:
    # first outputs of the reference implementation (Vigna, splitmix64.c) for the seed 1234567
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        states = np.uint64(1234567) + golden * np.arange(3, dtype=np.uint64)
        assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_weights_are_poisson_of_mean_one() -> None:
    weights = poisson_weights(KEYS, 50, 7)
    assert weights.shape == (50, 20_000)
    observed = np.bincount(weights.astype(int).ravel(), minlength=6)[:6] / weights.size
    expected = np.exp(-1) / np.array([1, 1, 2, 6, 24, 120])
    assert np.abs(observed - expected).max() < 0.002
    assert abs(weights.mean() - 1) < 0.004 and abs(weights.var() - 1) < 0.01


def test_replicates_and_rows_are_independent() -> None:
    weights = poisson_weights(np.arange(20_000), 40, 7)  # consecutive keys: the worst case for a hash
    off_diagonal = np.corrcoef(weights) - np.eye(40)
    assert np.abs(off_diagonal).max() < 0.035  # 780 pairs of 20,000 rows: 3.9 sigma is 0.028
    rows = np.corrcoef(poisson_weights(np.arange(40), 2000, 7).T) - np.eye(40)
    assert np.abs(rows).max() < 0.11


def test_a_rows_weights_depend_on_its_key_and_the_seed_only() -> None:
    whole = poisson_weights(KEYS, 10, 7)
    order = np.random.default_rng(1).permutation(len(KEYS))
    assert np.array_equal(poisson_weights(KEYS[order], 10, 7), whole[:, order])
    assert np.array_equal(poisson_weights(KEYS[:5], 200, 7)[:10], whole[:, :5])
    assert not np.array_equal(poisson_weights(KEYS, 10, 8), whole)


def test_interval_is_the_percentile_interval_and_undefined_when_half_is() -> None:
    values = np.arange(101.0)
    assert interval(values, 0.9) == pytest.approx((5.0, 95.0))
    values[:51] = np.nan
    assert np.isnan(interval(values, 0.9)).all()


def evaluation(values: list[float], **changes: object) -> Evaluation:
    metric = {
        "value": float(np.mean(values)),
        "low": 0,
        "high": 1,
        "label": "Accuracy",
        "greater_is_better": True,
        "replicates": values,
    }
    base = {"task": "classification", "rows": 9, "rows_id": "a", "confidence": 0.95, "seed": 7, "metrics": {"accuracy": metric}}
    return Evaluation.model_validate({**base, **changes})


def test_a_small_difference_that_every_replicate_shows_is_significant() -> None:
    noise = np.random.default_rng(2).normal(0.9, 0.05, 200)
    found = compare(evaluation(list(noise + 0.01)), evaluation(list(noise)), "accuracy")
    assert found.significant and found.difference == pytest.approx(0.01) and found.low == pytest.approx(0.01)
    other = compare(evaluation(list(noise)), evaluation(list(noise[::-1])), "accuracy")
    assert not other.significant and other.low < 0 < other.high


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rows_id": "b"}, "same rows"), ({"seed": 8}, "bootstrap settings"), ({"metrics": {}}, "no metric 'accuracy'")],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        compare(evaluation([0.5] * 20), evaluation([0.5] * 20, **changes), "accuracy")


def test_undefined_values_survive_json() -> None:
    text = evaluation([float("nan")] * 3).model_dump_json()
    assert "NaN" not in text
    assert np.isnan(Evaluation.model_validate_json(text).metrics["accuracy"].value)
