"""The optimum against scikit-learn's, and sums whose bits do not depend on how rows are dealt."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn import linear_model

from sparkml.learners.linear.facts import Looker
from sparkml.learners.linear.families import Binomial, Family, Gamma, Gaussian, Poisson
from sparkml.learners.linear.newton import Descent, Problem, Result
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.sums import Adder, Block, Sums
from sparkml.learners.linear.tree_sum import TreeSum, shares

ROWS, FEATURES = 4000, 5
TRUE = np.array([0.5, -0.3, 0.0, 0.2, 0.1])


def data(family: Family, kind: type = np.float64) -> tuple[Any, Any]:
    random = np.random.default_rng(3)
    x = random.normal(size=(ROWS, FEATURES)) @ np.diag([1, 2, 0.5, 1, 3]) + np.array([0, 1, 0, -2, 0])
    mean = family.predict(x @ TRUE + 0.3)
    y = {
        "binomial": lambda: random.random(ROWS) < mean,
        "gaussian": lambda: mean + random.normal(size=ROWS),
        "poisson": lambda: random.poisson(mean),
        "gamma": lambda: random.gamma(2, mean / 2),
    }[family.name]()
    return x.astype(kind), y.astype(kind)


def blocks_of(x: Any, y: Any, weight: Any = None) -> list[Block]:
    return [
        Block(x[at : at + 500], y[at : at + 500], None if weight is None else weight[at : at + 500])
        for at in range(0, len(x), 500)
    ]


def solved(x: Any, y: Any, family: Family, penalty: Penalty, weight: Any = None, tolerance: float = 1e-9) -> Result:
    blocks, looker = blocks_of(x, y, weight), Looker(family, x.shape[1])
    for block in blocks:
        looker.take(block)
    facts = looker.facts()
    reach = np.append(np.maximum(abs(facts.least), abs(facts.most)), 1.0)
    problem = Problem(penalty.on(facts, None), reach, family.bend, float(np.finfo(x.dtype).eps))

    def evaluate(w: Any) -> Any:
        adder = Adder(family, w)
        for block in blocks:
            adder.take(block)
        return adder.sums(), problem

    descent = Descent(np.zeros(x.shape[1] + 1), tolerance=tolerance, passes=50)
    while descent.result is None:
        descent.take(*evaluate(descent.point))
    return descent.result


def fitted(*given: Any, **more: Any) -> Any:
    done = solved(*given, **more)
    assert done.converged
    return done.w


@pytest.mark.parametrize("strength", [0.0, 0.1])
@pytest.mark.parametrize("family", [Gaussian(), Binomial(), Poisson(), Gamma()], ids=lambda family: family.name)
def test_the_optimum_is_that_of_scikit_learn(family: Family, strength: float) -> None:
    x, y = data(family)
    weight = np.random.default_rng(4).integers(1, 4, ROWS).astype(float)
    total = weight.sum()
    theirs = {
        "gaussian": lambda: linear_model.Ridge(alpha=strength * total, tol=1e-12, solver="cholesky"),
        "binomial": lambda: linear_model.LogisticRegression(
            C=1 / (strength * total) if strength else np.inf, tol=1e-12, solver="newton-cholesky", max_iter=1000
        ),
        "poisson": lambda: linear_model.PoissonRegressor(alpha=strength, tol=1e-12, solver="newton-cholesky", max_iter=1000),
        "gamma": lambda: linear_model.GammaRegressor(alpha=strength, tol=1e-12, solver="newton-cholesky", max_iter=1000),
    }[family.name]().fit(x, y, sample_weight=weight)
    w = fitted(x, y, family, Penalty(strength, standardised=False), weight)
    np.testing.assert_allclose(w, np.append(theirs.coef_.ravel(), theirs.intercept_), rtol=1e-7, atol=1e-8)


def test_float32_rows_cost_six_digits_at_most() -> None:
    x, y = data(Binomial(), np.float32)
    exact = fitted(x.astype(np.float64), y.astype(np.float64), Binomial(), Penalty(0.01))
    np.testing.assert_allclose(fitted(x, y, Binomial(), Penalty(0.01), tolerance=1e-6), exact, rtol=2e-5, atol=2e-6)


def test_a_standardised_penalty_is_that_of_standardised_features() -> None:
    x, y = data(Binomial())
    deviation = x.std(axis=0, ddof=1)
    scaled = fitted(x / deviation, y, Binomial(), Penalty(0.1, standardised=False))
    np.testing.assert_allclose(fitted(x, y, Binomial(), Penalty(0.1))[:-1] * deviation, scaled[:-1], rtol=1e-7)


def test_without_an_intercept_it_stays_at_zero() -> None:
    x, y = data(Gaussian())
    w = fitted(x, y, Gaussian(), Penalty(intercept=False))
    np.testing.assert_allclose(w, [*np.linalg.lstsq(x, y, rcond=None)[0], 0.0], rtol=1e-9)


def test_a_constant_feature_is_the_intercept_where_there_is_none() -> None:
    x, y = data(Gaussian())
    more = np.column_stack([x, np.full(ROWS, 2.0)])
    with_one, without = (fitted(more, y, Gaussian(), Penalty(intercept=intercept)) for intercept in (True, False))
    once = fitted(x, y, Gaussian(), Penalty())
    np.testing.assert_allclose(with_one, [*once[:-1], 0.0, once[-1]], rtol=1e-9)
    bounded = fitted(more, y, Gaussian(), Penalty(lower=(*(-np.inf,) * 5, 1.0, -np.inf)))
    np.testing.assert_allclose(bounded, with_one, rtol=1e-7, err_msg="what is no coefficient has no bounds")
    np.testing.assert_allclose(without, [*once[:-1], once[-1] / 2, 0.0], rtol=1e-9)


def test_a_feature_twice_shares_its_coefficient() -> None:
    x, y = data(Gaussian())
    once = fitted(x, y, Gaussian(), Penalty())
    twice = fitted(np.column_stack([x, x[:, 0]]), y, Gaussian(), Penalty())
    np.testing.assert_allclose(twice[[0, 5]], once[0] / 2, rtol=1e-5)
    np.testing.assert_allclose(twice[[1, 2, 3, 4, 6]], once[1:], rtol=1e-5)


def test_derivatives_are_those_of_the_loss() -> None:
    eta = np.linspace(-2, 2, 41)
    for family, y in itertools.product([Gaussian(), Binomial(), Poisson(), Gamma()], [np.ones(41)]):
        (above, ahead, _), (below, behind, _) = family.evaluate(eta + 1e-5, y), family.evaluate(eta - 1e-5, y)
        _, slope, curvature = family.evaluate(eta, y)
        np.testing.assert_allclose((above - below) / 2e-5, slope, atol=1e-8)
        if family.name != "gamma":  # there it is the expected one
            np.testing.assert_allclose((ahead - behind) / 2e-5, curvature, atol=1e-8)


def test_sums_travel_as_one_vector() -> None:
    x, y = data(Binomial())
    adder = Adder(Binomial(), np.full(FEATURES + 1, 0.1))
    adder.take(Block(x, y))
    again = Sums.unpacked((sums := adder.sums()).packed(), FEATURES + 1)
    for name, value in vars(sums).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    np.testing.assert_allclose(sums.gram, sums.gram.T)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 101])
def test_a_tree_sum_has_the_same_bits_however_it_is_dealt(count: int) -> None:
    random = np.random.default_rng(count)
    summands = random.normal(size=(count, 3)) * 10.0 ** random.integers(-8, 8, (count, 1))
    results = set()
    for size in (1, 2, 3, 5, 8):
        whole = TreeSum()
        for share in shares(np.ones(count), size):
            own = TreeSum()
            for number in reversed(share):
                own.add(number, summands[number])
            assert len(own.nodes) <= 2 * count.bit_length()
            whole.merge(own.nodes)
        results.add(whole.total(count).tobytes())
    assert len(results) == 1
    np.testing.assert_allclose(whole.total(count), summands.sum(axis=0), rtol=1e-9)
    with pytest.raises(ValueError, match="not every one"):
        whole.total(count + 1)


def test_shares_are_whole_and_even() -> None:
    weights = [5, 1, 1, 1, 1, 1, 5, 5]
    for size in (1, 2, 3, 8, 20):
        dealt = shares(weights, size)
        assert [number for share in dealt for number in share] == list(range(8)) and len(dealt) == size
    assert [sum(weights[number] for number in share) for share in shares(weights, 2)] == [10, 10]
