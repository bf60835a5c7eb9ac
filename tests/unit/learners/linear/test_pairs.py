"""`PairAdder`: at several points at once the sums of an `Adder` at each, folds kept apart or left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkml.learners.linear import methods
from sparkml.learners.linear import pairs as paired
from sparkml.learners.linear.families import Binomial, Gamma, Gaussian, Poisson
from sparkml.learners.linear.glm import family_of
from sparkml.learners.linear.job import train_linear
from sparkml.learners.linear.methods import ByHessian
from sparkml.learners.linear.pairs import PairAdder
from sparkml.learners.linear.sums import Adder, Block, OneByOne
from tests.unit.learners.linear.test_job import Alone
from tests.unit.learners.linear.test_validation import FOLDS, STRENGTHS, job_of, with_folds

ROWS, FEATURES, POINTS = 700, 5, 4
CUTS = ((0, 200, 0), (200, 650, 2), (650, 700, 3))
FAMILIES = [Gaussian(), Binomial(), Poisson(), Gamma(), family_of("binomial", "probit")]


def block_of(kind: Any, *, weighted: bool) -> Block:
    random = np.random.default_rng(2)
    x = random.normal(size=(ROWS, FEATURES)).astype(kind)
    y = random.integers(0, 2, ROWS).astype(kind)
    if not weighted:
        return Block(x, y)
    return Block(x, y, random.integers(0, 3, ROWS).astype(kind), random.normal(size=ROWS).astype(kind))


def same(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(found.margins, expected.margins, rtol=tolerance, atol=tolerance)
    for at in np.ndindex(found.margins.shape):
        one, other = found.sums(*at).packed(), expected.sums(*at).packed()
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.name}-{type(family).__name__}")
def test_sums_are_those_of_single_points(family: Any, weighted: bool, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are worked on at a time."""
    block = block_of(kind, weighted=weighted)
    w = np.random.default_rng(7).normal(size=(POINTS, FEATURES + 1)) / 5
    tolerance = 1e-12 if kind is np.float64 else 1e-5
    cases: list[tuple[int, Any, Any]] = [(1, [None] * POINTS, ()), (4, [None] * POINTS, CUTS), (1, [0, 2, 1, 2], CUTS)]
    for numbers in (1, 1 << 16):
        monkeypatch.setattr(paired, "_NUMBERS", numbers)
        monkeypatch.setattr(paired, "_PAIRS", 21 * numbers)
        for parts, without, cuts in cases:
            joint, single = PairAdder(family, w, parts, without), OneByOne([Adder(family, at, parts) for at in w], without)
            for adder in (joint, single):
                for _ in range(2):
                    adder.take(block, cuts)
            same(joint, single, tolerance)


def test_a_fold_that_all_leave_out_adds_nothing() -> None:
    adder = PairAdder(Binomial(), np.zeros((2, FEATURES + 1)), 1, [2, 2])
    adder.take(block_of(np.float64, weighted=False), ((0, ROWS, 2),))
    assert adder.sums(0).rows == 0 and np.isinf(adder.margins).all()


def test_few_points_or_many_features_are_worked_on_one_by_one() -> None:
    def made(points: int, features: int) -> type:
        w = np.zeros((points, features + 1))
        return type(ByHessian().adder(Binomial(), w, 1, [None] * points, None, False))

    assert made(10, 10) is made(16, 64) is PairAdder
    assert made(1, 10) is made(2, 10) is made(100, 65) is OneByOne


def test_a_search_finds_the_same_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(with_folds(tmp_path)[0], Binomial())
    together = json.loads(train_linear(Alone(), job))
    monkeypatch.setattr(methods, "_MOST_PAIRED", 0)
    apart = json.loads(train_linear(Alone(), job))
    assert np.shape(together["validation"]["metrics"]) == (len(STRENGTHS), FOLDS)
    np.testing.assert_allclose(together["validation"]["metrics"], apart["validation"]["metrics"], rtol=1e-12)
    for one, other in zip(together["fits"], apart["fits"], strict=True):
        np.testing.assert_allclose(one["w"], other["w"], atol=1e-11)
        assert one["passes"] == other["passes"]
