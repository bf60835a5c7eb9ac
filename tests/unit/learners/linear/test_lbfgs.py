"""L-BFGS and OWL-QN: against scikit-learn, against Newton's method, and by what they promise about the distance that is left."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn import linear_model

from sparkml.errors import TrainingError
from sparkml.learners.linear.facts import Facts, Looker
from sparkml.learners.linear.families import Binomial, Family, Gamma, Gaussian, Poisson, SquaredHinge
from sparkml.learners.linear.glm import family_of
from sparkml.learners.linear.lbfgs import Memory, Place, QuasiNewton
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.newton import Problem
from sparkml.learners.linear.quadratic import Penalty, Terms
from sparkml.learners.linear.slopes import SlopeAdder, Slopes
from sparkml.learners.linear.sums import Block
from tests.unit.learners.linear.test_newton import ROWS, data, fitted

FAMILIES: list[Family] = [Gaussian(), Binomial(), Poisson(), Gamma()]


class Fit:
    """A fit to rows in memory; keeps every place that it was at."""

    def __init__(self, block: Block, family: Any, penalty: Penalty, tolerance: float = 1e-9, **more: Any) -> None:
        self.block, self.family, self.places = block, family, []
        looker = Looker(family, block.x.shape[1])
        looker.take(block)
        facts = looker.facts()
        self.center = facts.mean if penalty.centred else None
        self.problem = problem_of(facts, self.center, penalty, family)
        size = self.problem.outputs * (block.x.shape[1] + 1)
        self.descent = QuasiNewton(more.pop("w", np.zeros(size)), tolerance=tolerance, **{"passes": 2000, **more})
        while self.descent.result is None:
            sums = self.at(self.descent.point, detailed=self.descent.detailed)
            self.places.append(Place.of(self.descent.point, sums, self.problem))
            self.descent.take(sums, self.problem)
        self.result = self.descent.result
        self.passes = len(self.descent.steps)

    def at(self, w: Any, *, detailed: bool) -> Slopes:
        adder = SlopeAdder(self.family, w, center=self.center, detailed=detailed)
        adder.take(self.block)
        packed = adder.sums().packed()
        assert len(packed) == Slopes.numbers(len(w), detailed=detailed)
        sums = Slopes.unpacked(packed, len(w))
        return sums if self.center is None else sums.centred(self.center)

    @property
    def w(self) -> Any:
        """Of features as they come: (outputs, features + 1)."""
        each = self.result.w.reshape(self.problem.outputs, -1).copy()
        if self.center is not None:
            each[:, -1] -= each[:, :-1] @ self.center
        return each


def problem_of(facts: Facts, center: Any, penalty: Penalty, family: Any) -> Problem:
    outputs = family.classes if isinstance(family, Multinomial) else 1
    middle = np.zeros(len(facts.x)) if center is None else center
    reach = np.append(np.maximum(np.abs(facts.least - middle), np.abs(facts.most - middle)), 1.0)
    return Problem(penalty.on(facts, None, outputs), reach, family.bend, 1e-15, outputs)


def block_of(x: Any, y: Any, weight: Any = None) -> Block:
    return Block(x, y, None if weight is None else weight.astype(float))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("penalty", [Penalty(), Penalty(0.1), Penalty(0.1, intercept=False)], ids=str)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_optimum_is_newton_s(family: Family, penalty: Penalty, sparse: bool) -> None:
    x, y = data(family)
    weight = np.random.default_rng(4).integers(0, 4, ROWS).astype(float)
    fit = Fit(block_of(csr_array(x) if sparse else x, y, weight), family, penalty)
    assert fit.result.converged
    np.testing.assert_allclose(fit.w[0], fitted(x, y, family, penalty, weight), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "family", [SquaredHinge(), family_of("binomial", "probit"), family_of("gamma")], ids=["svm", "probit", "1/x"]
)
def test_losses_that_are_no_canonical_likelihood(family: Family) -> None:
    x, y = data(Binomial())
    y = y if family.name != "gamma" else 0.1 + np.exp(0.05 * x[:, 0])
    fit = Fit(block_of(x, y), family, Penalty(0.01), w=np.append(np.zeros(x.shape[1]), family.start(float(y.mean()))))
    assert fit.result.converged and fit.result.last.error == np.inf
    np.testing.assert_allclose(fit.w[0], fitted_from(x, y, family), rtol=1e-6, atol=1e-8)


def fitted_from(x: Any, y: Any, family: Family) -> Any:
    from scipy.optimize import minimize

    deviation = x.std(axis=0, ddof=1)

    def objective(w: Any) -> Any:
        loss, slope, _ = family.evaluate(x @ w[:-1] + w[-1], y)
        penalty = 0.005 * np.sum((deviation * w[:-1]) ** 2)
        return loss.mean() + penalty, np.append(slope @ x, slope.sum()) / len(y) + np.append(0.01 * deviation**2 * w[:-1], 0)

    start = np.append(np.zeros(x.shape[1]), family.start(float(y.mean())))
    return minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-11}).x


@pytest.mark.parametrize(("strength", "mixing"), [(0.01, 0.3), (0.01, 1.0), (0.2, 0.3), (0.2, 1.0)])
def test_an_elastic_net_is_that_of_scikit_learn(strength: float, mixing: float) -> None:
    random = np.random.default_rng(6)
    x = random.normal(size=(300, 500)) * random.uniform(0.5, 2, 500) + 1
    y = x[:, :20] @ random.normal(size=20) + random.normal(size=300)
    theirs = linear_model.ElasticNet(alpha=strength, l1_ratio=mixing, tol=1e-14, max_iter=100_000).fit(x, y)
    fit = Fit(block_of(x, y), Gaussian(), Penalty(strength, mixing, standardised=False))
    np.testing.assert_allclose(fit.w[0], [*theirs.coef_, theirs.intercept_], atol=1e-6)
    assert fit.result.converged and ((fit.w[0, :-1] == 0) == (theirs.coef_ == 0)).all() and (theirs.coef_ == 0).any()


@pytest.mark.parametrize("mixing", [0.5, 1.0])
def test_a_logistic_elastic_net_of_sparse_rows_is_that_of_scikit_learn(mixing: float) -> None:
    x, y = hashed(800, 400)
    theirs = linear_model.LogisticRegression(
        C=1 / (0.003 * len(y)), l1_ratio=mixing, penalty="elasticnet", solver="saga", tol=1e-10, max_iter=100_000
    ).fit(x.toarray(), y)
    fit = Fit(block_of(x, y), Binomial(), Penalty(0.003, mixing, standardised=False))
    np.testing.assert_allclose(fit.w[0], [*theirs.coef_[0], theirs.intercept_[0]], atol=1e-5)
    zeros = fit.w[0, :-1] == 0
    assert fit.result.converged and (zeros == (theirs.coef_[0] == 0)).all() and 0 < zeros.sum() < 400


def hashed(rows: int, features: int, entries: int = 12) -> tuple[Any, Any]:
    """Words by Zipf's law, hashed; some features occur in no row."""
    random = np.random.default_rng(9)
    places = np.minimum(random.zipf(1.5, rows * entries) * 7919 % (features + 1), features - 1)
    ends = np.arange(0, rows * entries + 1, entries)
    x = csr_array((np.ones(rows * entries), places, ends), shape=(rows, features))
    x.sum_duplicates()
    eta = x @ (random.normal(size=features) * 0.7)
    return x, (random.random(rows) < 1 / (1 + np.exp(-eta))).astype(float)


def test_three_thousand_coefficients_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(2500, 3000))
    y = (x[:, :40] @ random.normal(size=40) + random.normal(size=2500) > 1).astype(float)
    theirs = linear_model.LogisticRegression(C=1 / (0.05 * len(y)), tol=1e-9, max_iter=5000).fit(x, y)
    fit = Fit(block_of(x, y), Binomial(), Penalty(0.05, standardised=False), tolerance=1e-8)
    np.testing.assert_allclose(fit.w[0], [*theirs.coef_[0], theirs.intercept_[0]], atol=1e-7)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("mixing", [0.0, 0.7])
def test_several_classes_are_those_of_scikit_learn(mixing: float, sparse: bool) -> None:
    random = np.random.default_rng(8)
    x = random.normal(size=(2000, 20)) + 1
    y = np.argmax(x[:, :4] + random.gumbel(size=(2000, 4)), axis=1).astype(float)
    theirs = linear_model.LogisticRegression(C=1 / (0.02 * 2000), l1_ratio=mixing, solver="saga", tol=1e-10, max_iter=50_000)
    theirs.fit(x, y)
    fit = Fit(block_of(csr_array(x) if sparse else x, y), Multinomial(4), Penalty(0.02, mixing, standardised=False))
    assert fit.result.converged
    np.testing.assert_allclose(fit.w[:, :-1], theirs.coef_, atol=1e-6)
    ours = fit.w[:, -1] - fit.w[:, -1].mean()
    np.testing.assert_allclose(ours, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-6)


# --- what is said of the distance ---


def distance(fit: Fit, w: Any, optimum: Any) -> float:
    """Return it in the norm of the mean Hessian on the way."""
    step, total = optimum - w, 0.0
    moved = fit.block.x @ step[:-1] + step[-1] - (0.0 if fit.center is None else fit.center @ step[:-1])
    for part in (np.arange(20) + 0.5) / 20:
        at = w + part * step
        eta = fit.block.x @ at[:-1] + at[-1] - (0.0 if fit.center is None else fit.center @ at[:-1])
        total += float(fit.family.evaluate(eta, fit.block.y)[2] @ moved**2) / len(moved) / 20
    return float(np.sqrt(total + fit.problem.terms.square @ step**2))


@pytest.mark.parametrize("mixing", [0.0, 0.5])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("family", [Gaussian(), Binomial(), Poisson()], ids=lambda family: family.name)
def test_the_bound_bounds_and_the_estimate_is_about_right(family: Family, intercept: bool, mixing: float) -> None:
    x, y = data(family)
    x = np.column_stack([x, np.random.default_rng(1).normal(size=(ROWS, 40))])
    penalty = Penalty(0.02, mixing, intercept=intercept)
    fit = Fit(block_of(x, y), family, penalty, tolerance=1e-6)
    optimum = Fit(block_of(x, y), family, penalty, tolerance=1e-11).result
    known = 0
    for place in fit.places:
        place = Place.of(place.w, fit.at(place.w, detailed=True), fit.problem)
        bound, true = place.error, distance(fit, place.w, optimum.w)
        assert true <= bound * (1 + 1e-9) + 1e-10
        known += bound < 30 * true
    assert known >= 3, "the bound says something"
    assert 0.2 < fit.descent.steps[-1][1] / distance(fit, fit.result.w, optimum.w) < 5
    assert fit.result.last.error < 1e-4


@pytest.mark.parametrize("off", [0.0, 0.3, -0.2])
def test_the_bound_of_squares_is_exact_for_what_the_intercept_shares(off: float) -> None:
    """One feature, not centred, whose curvature is all the intercept's: the Hessian is ((s + 9, 3), (3, 1))."""
    x, y, w = np.full((50, 1), 3.0), np.linspace(0, 1, 50), np.array([0.4, off])
    terms = Terms(np.array([0.2, 0.0]), np.zeros(2), np.full(2, -np.inf), np.full(2, np.inf), np.ones(2, bool))
    adder = SlopeAdder(Gaussian(), w, detailed=True)
    adder.take(Block(x, y))
    place = Place.of(w, adder.sums(), Problem(terms, np.array([3.0, 1.0]), 0.0, 1e-15))
    hessian = np.array([[9.2, 3.0], [3.0, 1.0]])
    np.testing.assert_allclose(place.error, np.sqrt(place.gradient @ np.linalg.solve(hessian, place.gradient)), rtol=1e-9)


@pytest.mark.parametrize("share", [0.45, 0.3, 0.182, 0.01])
def test_a_bound_knows_that_curvature_may_fall_on_the_way(share: float) -> None:
    """From even chances to `share` the intercept goes alone: the mean Hessian's norm is log-odds times what slopes change by."""
    x, y = np.tile([[-1.0], [1.0]], (500, 1)), (np.arange(1000) < 1000 * share).astype(float)
    terms = Terms(np.array([1e4, 0.0]), np.zeros(2), np.full(2, -np.inf), np.full(2, np.inf), np.ones(2, bool))
    adder = SlopeAdder(Binomial(), np.zeros(2), detailed=True)
    adder.take(Block(x, y))
    bound = Place.of(np.zeros(2), adder.sums(), Problem(terms, np.ones(2), 1.0, 1e-15)).error
    true = np.sqrt(np.log(share / (1 - share)) * (share - 0.5))
    assert true <= bound and (share < 0.4 or bound < 1.5 * true)


def test_where_nothing_is_certain_no_bound_is_given() -> None:
    x, y = data(Binomial())
    for family, penalty in ((Binomial(), Penalty()), (Binomial(), Penalty(0.1, 1.0)), (SquaredHinge(), Penalty(0.1))):
        assert Fit(block_of(x, y), family, penalty, tolerance=1e-6).result.last.error == np.inf


def test_a_slow_descent_is_not_taken_for_a_short_way() -> None:
    """Neighbours correlate by 0.99: there are directions that a few pairs never see."""
    random = np.random.default_rng(2)
    x = random.normal(size=(2000, 200))
    for at in range(1, 200):
        x[:, at] = 0.99 * x[:, at - 1] + np.sqrt(1 - 0.99**2) * x[:, at]
    y = (random.random(2000) < 1 / (1 + np.exp(-x @ random.normal(size=200) * 0.1))).astype(float)
    memory = Memory(201)
    memory._pairs = type(memory._pairs)(maxlen=5)
    fit = Fit(block_of(x, y), Binomial(), Penalty(1e-3), tolerance=1e-4, memory=memory)
    optimum = Fit(block_of(x, y), Binomial(), Penalty(1e-3), tolerance=1e-10).result
    assert fit.result.converged and fit.passes > 50
    assert distance(fit, fit.result.w, optimum.w) < 2e-4


# --- how it gets there ---


def test_the_memory_is_the_inverse_of_bfgs() -> None:
    random = np.random.default_rng(3)
    root = random.normal(size=(6, 6))
    hessian, memory, diagonal = root @ root.T + np.eye(6), Memory(6), random.uniform(1, 2, 6)
    inverse: Any = None
    for _ in range(3):
        step = random.normal(size=6)
        change = hessian @ step
        memory.add(step, change)
        memory.add(step, -change)  # no curvature: not kept
    for step, change in memory._pairs:  # Nocedal and Wright, equation 6.17
        last, slope = memory._pairs[-1]
        inverse = np.diag(1 / diagonal) * (last @ slope) / (slope @ (slope / diagonal)) if inverse is None else inverse
        left = np.eye(6) - np.outer(step, change) / (step @ change)
        inverse = left @ inverse @ left.T + np.outer(step, step) / (step @ change)
    vector = random.normal(size=6)
    np.testing.assert_allclose(memory.times(vector, diagonal), inverse @ vector, rtol=1e-10)
    assert len(memory) == 3


def test_a_fresh_diagonal_saves_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rare features that nearly tell the classes apart lose their curvature on the way."""
    x, y = hashed(8000, 1500)
    fresh = Fit(block_of(x, y), Binomial(), Penalty(1e-4), tolerance=1e-5)
    monkeypatch.setattr("sparkml.learners.linear.lbfgs._CURVED", 10_000)
    stale = Fit(block_of(x, y), Binomial(), Penalty(1e-4), tolerance=1e-5)
    assert fresh.result.converged and fresh.passes < 0.75 * stale.passes


def test_the_memory_of_many_coefficients_is_short() -> None:
    for size, most in ((10, 100), (200_000, 41), (1 << 20, 10)):
        memory = Memory(size)
        for _ in range(101):
            memory.add(np.ones(2), np.ones(2))
        assert len(memory) == most


class Function:
    """A function with the shape of a loss, without a penalty."""

    def __init__(self, of: Any, size: int) -> None:
        nothing = np.zeros(size)
        terms = Terms(nothing, nothing, nothing - np.inf, nothing + np.inf, np.ones(size, bool))
        self.of, self.problem = of, Problem(terms, np.ones(size), None, 1e-15)

    def minimised(self, w: Any, **more: Any) -> QuasiNewton:
        descent = QuasiNewton(np.array(w, float), **{"tolerance": 1e-9, "passes": 500, **more})
        self.taken: list[Place] = []
        while descent.result is None:
            value, gradient = self.of(descent.point)
            descent.take(Slopes(1, 1, value, gradient, np.empty(0), np.empty(0)), self.problem)
            if descent._best is not None and (not self.taken or self.taken[-1] is not descent._best):
                self.taken.append(descent._best)
        return descent


def rosenbrock(w: Any) -> Any:
    a, b = w
    return (1 - a) ** 2 + 100 * (b - a * a) ** 2, np.array([2 * (a - 1) - 400 * a * (b - a * a), 200 * (b - a * a)])


def test_a_curved_valley_is_followed() -> None:
    function = Function(rosenbrock, 2)
    descent = function.minimised([-1.2, 1.0])
    assert descent.result is not None and descent.result.converged and len(descent.steps) < 80
    np.testing.assert_allclose(descent.result.w, [1, 1], atol=1e-7)
    for one, other in itertools.pairwise(function.taken):  # strong Wolfe conditions
        step = other.w - one.w
        assert other.objective <= one.objective + 1e-4 * step @ one.gradient + 1e-12
        assert abs(step @ other.gradient) <= 0.9 * abs(step @ one.gradient) + 1e-12


def test_steps_are_made_longer_and_shorter() -> None:
    """The first step is far too short or far too long; beyond 3 there is no value at all."""
    for scale in (1e-6, 1e6):
        descent = Function(lambda w, scale=scale: (scale * float(w @ w), 2 * scale * w), 2).minimised([1.0, -2.0], tolerance=1e-8)
        assert descent.result is not None and descent.result.converged and len(descent.steps) < 30
        np.testing.assert_allclose(descent.result.w, 0, atol=1e-4)

    def barrier(w: Any) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(-50 * w[0] - np.log(3 - w[0])), np.array([-50 + 1 / (3 - w[0])])

    descent = Function(barrier, 1).minimised([0.0])
    assert descent.result is not None and descent.result.converged and descent.result.w[0] == pytest.approx(3 - 1 / 50)


def test_what_was_learnt_from_a_sample_saves_passes() -> None:
    x, y = hashed(16_000, 300)
    penalty, family = Penalty(1e-3, standardised=False), Binomial()
    cold = Fit(block_of(x, y), family, penalty, tolerance=1e-5)
    sample = Fit(block_of(x[:4000], y[:4000]), family, penalty, tolerance=1e-3)
    point = Fit(block_of(x, y), family, penalty, tolerance=1e-5, w=sample.result.w)
    memory = sample.descent.memory.copy()
    warm = Fit(block_of(x, y), family, penalty, tolerance=1e-5, w=sample.result.w, memory=memory)
    assert warm.passes <= 0.8 * min(point.passes, cold.passes) and warm.result.converged
    assert len(memory) > len(sample.descent.memory)


def test_passes_end_and_so_does_what_is_stopped() -> None:
    x, y = data(Poisson())
    fit = Fit(block_of(x, y), Poisson(), Penalty(), passes=4)
    assert not fit.result.converged and fit.passes == 4
    assert fit.result.last.objective == min(place.objective for place in fit.places)
    descent = QuasiNewton(np.zeros(6), tolerance=0, passes=9)
    descent.take(fit.at(descent.point, detailed=True), fit.problem, stop=True)
    assert descent.result is not None and not descent.result.converged and not descent.result.w.any()


def test_a_start_has_no_coefficients_that_are_not_free() -> None:
    x, y = data(Gaussian())
    penalty = Penalty(0.1, intercept=False)
    fit = Fit(block_of(x, y), Gaussian(), penalty, w=np.ones(6))
    np.testing.assert_allclose(fit.w[0], fitted(x, y, Gaussian(), penalty), rtol=1e-6, atol=1e-8)


def test_a_small_slope_alone_is_no_short_way() -> None:
    """Nothing is known of the curvature before the first step; and where steps gain nothing the slope is not of that function."""
    descent = Function(lambda w: (1e-6 * float(w @ w), 2e-6 * w), 2).minimised([1.0, -2.0], tolerance=1e-5)
    assert descent.result is not None and descent.result.converged and np.abs(descent.result.w).max() < 0.01
    descent = Function(lambda w: (1.0, np.full(2, 1e-3)), 2).minimised([1.0, -2.0])
    assert descent.result is not None and not descent.result.converged


def test_where_the_loss_is_not_finite_it_starts_elsewhere() -> None:
    def root(w: Any) -> Any:
        return (float(w[0] + 1 / w[0]), np.array([1 - w[0] ** -2.0])) if w[0] > 0 else (np.nan, np.array([np.nan]))

    descent = Function(root, 1).minimised([-1.0], instead=np.array([3.0]))
    assert descent.result is not None and descent.result.converged and descent.result.w[0] == pytest.approx(1)
    with pytest.raises(TrainingError, match="the loss is not finite"):
        Function(root, 1).minimised([-1.0], instead=np.array([-3.0]))


def test_a_start_without_a_finite_loss_is_refused() -> None:
    with pytest.raises(TrainingError, match="the loss is not finite"):
        Function(lambda w: (np.nan, w), 2).minimised([1.0, 2.0])


def test_coefficients_meet_rows_in_their_precision() -> None:
    x, y = data(Binomial(), np.float32)
    fit = Fit(block_of(x, y), Binomial(), Penalty(0.01), tolerance=1e-5, kind=np.dtype(np.float32))
    exact = fitted(x.astype(np.float64), y.astype(np.float64), Binomial(), Penalty(0.01))
    np.testing.assert_allclose(fit.w[0], exact, rtol=1e-4, atol=1e-5)
    assert all((place.w.astype(np.float32) == place.w).all() for place in fit.places) and fit.result.converged


# --- slopes ---


@pytest.mark.parametrize("outputs", [1, 3])
def test_slopes_of_sparse_rows_are_those_of_dense_centred_ones(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkml.learners.linear.slopes._ETA_BYTES", 64 * 8 * 3)
    x, y = hashed(300, 40)
    y = (y + np.arange(300) % 2) if outputs == 3 else y
    random = np.random.default_rng(0)
    weight, center, w = random.integers(0, 2, 300).astype(float), random.normal(size=40), random.normal(size=41 * outputs)
    family: Any = Multinomial(3) if outputs == 3 else Binomial()
    found = []
    for rows, middle in ((x, center), (x.toarray(), center), (x.toarray() - center, None)):
        adder = SlopeAdder(family, w, 2, center=middle, detailed=True)
        adder.take(Block(rows, y, weight), [(0, 120, 1), (130, 300, 0)])
        both = adder.sums(0) + adder.sums(1)
        found.append((both if middle is None else both.centred(middle), adder.margins))
    for sums, margins in found[1:]:
        np.testing.assert_allclose(sums.packed(), found[0][0].packed(), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(margins, found[0][1])
    kept = np.r_[0:120, 130:300]
    adder = SlopeAdder(family, w, center=center, detailed=True)
    adder.take(Block(x[kept], y[kept], weight[kept]))
    np.testing.assert_allclose(adder.sums().centred(center).packed(), found[0][0].packed(), rtol=1e-10, atol=1e-10)
    weighs = kept[weight[kept] > 0]
    alone = SlopeAdder(family, w, center=center)
    alone.take(Block(x[weighs], y[weighs]))
    assert alone.margins == pytest.approx(adder.margins) and alone.sums().rows < adder.sums().rows


@pytest.mark.parametrize("family", [Poisson(), Multinomial(3)], ids=lambda family: family.name)
def test_slopes_and_details_are_derivatives_of_the_loss(family: Any) -> None:
    x, _ = hashed(200, 10)
    size = 33 if family.name == "multinomial" else 11
    w, center = np.random.default_rng(0).normal(size=size) * 0.3, np.linspace(-1, 1, 10)
    labels, weight = (np.arange(200) % 3).astype(float), np.linspace(0, 2, 200)

    def at(w: Any) -> Slopes:
        adder = SlopeAdder(family, w, center=center, detailed=True)
        adder.take(Block(x, labels, weight))
        return adder.sums().centred(center)

    step = 1e-5
    ahead, behind = ([at(w + sign * step * unit) for unit in np.eye(size)] for sign in (1, -1))
    slopes = [(a.loss - b.loss) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
    np.testing.assert_allclose(at(w).gradient, slopes, atol=1e-4)
    hessian = np.array([(a.gradient - b.gradient) / (2 * step) for a, b in zip(ahead, behind, strict=True)])
    np.testing.assert_allclose(at(w).diagonal, hessian.diagonal(), atol=1e-4)
    rows = [hessian[(at // 11 + 1) * 11 - 1, at] for at in range(size)]  # of each predictor its intercept's
    np.testing.assert_allclose(at(w).coupling, rows, atol=1e-4)


def test_etas_of_classes_may_be_large() -> None:
    x, y = np.array([[1000.0], [-1000.0]]), np.array([0.0, 2.0])
    adder = SlopeAdder(Multinomial(3), np.array([1.0, 0, 0, 0, -1.0, 0]), detailed=True)
    adder.take(Block(x, y))
    assert adder.sums().loss == 0 and adder.margins == [1000] and not adder.sums().gradient.any()


def test_facts_of_sparse_rows_are_those_of_dense_ones() -> None:
    x, y = hashed(300, 40)
    x = csr_array(x - 3 * x.multiply(x > 1))  # some below 0
    weight = np.random.default_rng(0).integers(0, 3, 300).astype(float)
    found = []
    for rows in (x, x.toarray()):
        looker = Looker(Binomial(), 40)
        looker.take(Block(rows, y, weight))
        found.append(looker.facts().packed())
    for sparse, dense in zip(*found, strict=True):
        np.testing.assert_allclose(sparse, dense, rtol=1e-12)
