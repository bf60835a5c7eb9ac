"""Many models in shared passes: the same as one by one; folds as scikit-learn fits and judges them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn import linear_model, metrics

from sparkml.errors import ConfigError, DataError
from sparkml.learners.linear import passes as shared
from sparkml.learners.linear import rows as row_sets
from sparkml.learners.linear import validation
from sparkml.learners.linear.facts import Looker
from sparkml.learners.linear.families import Binomial, Gaussian, Poisson
from sparkml.learners.linear.job import LinearJob, train_linear
from sparkml.learners.linear.metrics import METRICS
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.newton import Problem, missed_after
from sparkml.learners.linear.passes import Task
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.rows import RowSource
from sparkml.learners.linear.sums import Adder, Block
from tests.unit.learners.linear.test_edges import together
from tests.unit.learners.linear.test_job import Alone, publish, rows
from tests.unit.learners.linear.test_large import publish_sparse
from tests.unit.learners.linear.test_statistics import with_intercept

FOLDS, STRENGTHS = 4, (0.001, 0.03, 0.3)


def job_of(url: str, family: Any, metric: str = "loss", **source: Any) -> LinearJob:
    tasks = tuple(Task(Penalty(strength, standardised=False)) for strength in STRENGTHS)
    given: dict[str, Any] = {"folds": FOLDS, "fold": "w", **source}
    return LinearJob(RowSource(url, "x", ("y",), **given), (family,), tasks, tolerance=1e-9, metric=METRICS[metric])


def with_folds(folder: Path, count: int = 4000) -> tuple[str, Any, Any, Any]:
    x, y, _ = rows(count)
    fold = np.random.default_rng(3).integers(0, FOLDS, count).astype(np.float32)
    return publish(folder, x, y, fold), x.astype(np.float64), y, fold


@pytest.mark.parametrize(
    ("metric", "theirs"),
    [
        ("loss", lambda y, p: metrics.log_loss(y, p)),
        ("areaUnderROC", lambda y, p: metrics.roc_auc_score(y, p)),
        ("accuracy", lambda y, p: metrics.accuracy_score(y, p > 0.5)),
        ("f1", lambda y, p: metrics.f1_score(y, p > 0.5, average="weighted")),
        ("rmse", lambda y, p: np.sqrt(metrics.mean_squared_error(y, p))),
        ("mae", lambda y, p: metrics.mean_absolute_error(y, p)),
        ("r2", lambda y, p: metrics.r2_score(y, p)),
    ],
)
def test_folds_are_those_of_scikit_learn(tmp_path: Path, metric: str, theirs: Any) -> None:
    url, x, y, fold = with_folds(tmp_path)
    answer = json.loads(train_linear(Alone(), job_of(url, Binomial(), metric)))
    expected = np.zeros((len(STRENGTHS), FOLDS))
    for at, strength in enumerate(STRENGTHS):
        for out in range(FOLDS):
            own, other = fold != out, fold == out
            model = linear_model.LogisticRegression(C=1 / (strength * own.sum()), tol=1e-10, solver="newton-cholesky")
            expected[at, out] = theirs(y[other], model.fit(x[own], y[own]).predict_proba(x[other])[:, 1])
    found = np.array(answer["validation"]["metrics"])
    np.testing.assert_allclose(found, expected, atol=1e-4 if metric in ("areaUnderROC", "r2") else 2e-5)
    better = np.argmax if METRICS[metric].larger_is_better else np.argmin
    assert answer["validation"]["best"] == better(expected.mean(axis=1))
    whole = linear_model.LogisticRegression(C=1 / (STRENGTHS[0] * len(y)), tol=1e-12, solver="newton-cholesky").fit(x, y)
    if answer["validation"]["best"] == 0:
        np.testing.assert_allclose(answer["fits"][0]["w"][0], [*whole.coef_[0], whole.intercept_[0]], atol=1e-7)


def test_a_fold_left_out_of_a_pass_is_out_of_its_facts_too(tmp_path: Path) -> None:
    """A feature that is constant elsewhere, and standard deviations that are those of the rows fitted."""
    x, y, _ = rows(4000)
    fold = (np.arange(4000) % FOLDS).astype(np.float32)
    x[:, 0] *= fold == 1
    x[:, 1] *= np.where(fold == 2, 10, 1)
    url = publish(tmp_path, x, y, fold)
    tasks = (Task(Penalty(0.05)),)
    source = RowSource(url, "x", ("y",), folds=FOLDS, fold="w")
    answer = json.loads(train_linear(Alone(), LinearJob(source, (Binomial(),), tasks, 1e-9, metric=METRICS["loss"])))
    for out in range(FOLDS):
        own = fold != out
        deviation = x[own].astype(np.float64).std(axis=0, ddof=1)
        scaled = x.astype(np.float64) / np.where(deviation > 0, deviation, np.inf)
        model = linear_model.LogisticRegression(C=1 / (0.05 * own.sum()), tol=1e-10, solver="newton-cholesky")
        p = model.fit(scaled[own], y[own]).predict_proba(scaled[~own])[:, 1]
        assert answer["validation"]["metrics"][0][out] == pytest.approx(metrics.log_loss(y[~own], p), abs=1e-4)


@pytest.mark.parametrize("solver", ["newton", "l-bfgs"])
@pytest.mark.parametrize("role", ["weight", "offset"])
def test_weights_and_offsets_count_where_a_fold_is_judged_too(tmp_path: Path, role: str, solver: str) -> None:
    x, y, _ = rows(2000)
    random = np.random.default_rng(6)
    fold, given = random.integers(0, FOLDS, 2000).astype(float), random.choice([0.25, 1.0, 3.0], 2000)
    url = publish_sparse(tmp_path, csr_array(x.astype(float)), y, given, fold, dtype="float64")
    source = RowSource(url, "x", ("y",), folds=FOLDS, fold="o", sparse=solver != "newton", **{role: "w"})
    job = LinearJob(source, (Binomial(),), (Task(Penalty()),), 1e-9, metric=METRICS["loss"], solver=solver)
    said = json.loads(train_linear(Alone(), job))["validation"]
    neutral = {"weight": np.ones(2000), "offset": np.zeros(2000), role: given}
    for out in range(FOLDS):
        own, judged = ({name: values[at] for name, values in neutral.items()} for at in (fold != out, fold == out))
        model = sm.GLM(
            y[fold != out],
            with_intercept(x[fold != out]),
            sm.families.Binomial(),
            var_weights=own["weight"],
            offset=own["offset"],
        )
        p = model.fit(tol=1e-12).predict(with_intercept(x[fold == out]), offset=judged["offset"])
        expected = metrics.log_loss(y[fold == out], p, sample_weight=judged["weight"])
        assert said["metrics"][0][out] == pytest.approx(expected, abs=1e-4)
    assert solver != "newton" or all(0 < error < 0.01 for error in said["errors"][0])


def test_several_classes_and_counts(tmp_path: Path) -> None:
    x, _, _ = rows(3000)
    random = np.random.default_rng(8)
    fold = random.integers(0, FOLDS, 3000).astype(np.float32)
    y = np.argmax(x[:, :3] + random.gumbel(size=(3000, 3)), axis=1).astype(np.float64)
    answer = json.loads(train_linear(Alone(), job_of(publish(tmp_path / "classes", x, y, fold), Multinomial(3))))
    own = fold != 2
    model = linear_model.LogisticRegression(C=1 / (STRENGTHS[1] * own.sum()), tol=1e-9, max_iter=1000).fit(x[own], y[own])
    assert answer["validation"]["metrics"][1][2] == pytest.approx(
        metrics.log_loss(y[~own], model.predict_proba(x[~own])), abs=2e-5
    )
    counts = random.poisson(np.exp(0.3 * x[:, 0])).astype(np.float64)
    answer = json.loads(train_linear(Alone(), job_of(publish(tmp_path / "counts", x, counts, fold), Poisson(), "rmse")))
    counted = linear_model.PoissonRegressor(alpha=STRENGTHS[1], tol=1e-9).fit(x[own], counts[own])
    mse = metrics.mean_squared_error(counts[~own], counted.predict(x[~own]))
    assert answer["validation"]["metrics"][1][2] == pytest.approx(np.sqrt(mse), abs=1e-4)


@pytest.mark.parametrize("family", [Binomial(), Gaussian()], ids=lambda family: family.name)
def test_folds_by_the_seed_are_even_and_the_same_on_any_number_of_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Any
) -> None:
    monkeypatch.setattr(row_sets, "_EXACT_NUMBERS", 0)
    x, y, weight = rows(20_000)
    url = publish(tmp_path, x + np.float32(50), y, weight)
    jobs = [job_of(url, family, fold=None, weight="w", memory=memory) for memory in (1, 1 << 30)]
    for job in jobs:
        assert len({together(job, size)[0] for size in (1, 2, 3)}) == 1
    found = [np.array(json.loads(train_linear(Alone(), job))["validation"]["metrics"]) for job in jobs]
    np.testing.assert_allclose(*found, atol=1e-5)
    spread = found[0].std(axis=1) / found[0].mean(axis=1)
    assert (spread > 0).all() and (spread < 0.1).all()


def test_the_null_model_is_left_for_the_optimum_even_where_folds_differ(tmp_path: Path) -> None:
    """Folds so small and unlike that each needs passes of its own."""
    x, y, _ = rows(60)
    fold = np.sort(np.arange(60) % FOLDS).astype(np.float32)
    job = job_of(publish(tmp_path, x, y, fold), Binomial())
    answer = json.loads(train_linear(Alone(), job))
    for at, strength in enumerate(STRENGTHS):
        for out in range(FOLDS):
            own = fold != out
            model = linear_model.LogisticRegression(C=1 / (strength * own.sum()), tol=1e-10, solver="newton-cholesky")
            p = model.fit(x[own].astype(np.float64), y[own]).predict_proba(x[~own])[:, 1]
            assert answer["validation"]["metrics"][at][out] == pytest.approx(metrics.log_loss(y[~own], p), rel=0.02)


@pytest.mark.parametrize("family", [Binomial(), Gaussian(), Poisson()], ids=lambda family: family.name)
def test_folds_near_the_optimum_of_all_rows_are_judged_without_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Any
) -> None:
    """By the sums that their last step began from: the mean losses of independent fits all the same."""
    count, random = 300_000, np.random.default_rng(4)
    x = random.uniform(-1, 1, (count, 2)).astype(np.float32)
    eta = x @ [1.0, -0.5] + 0.25
    y = {"binomial": lambda: random.random(count) < expit(eta), "poisson": lambda: random.poisson(np.exp(eta))}.get(
        family.name, lambda: eta + random.normal(size=count)
    )()
    fold = random.integers(0, FOLDS, count).astype(np.float32)
    job = job_of(publish(tmp_path, x, y.astype(np.float64), fold), family)
    with monkeypatch.context() as patched:
        patched.setattr(validation, "_judged", None)  # would not come back from it
        found = np.array(json.loads(train_linear(Alone(), job))["validation"]["metrics"])
    monkeypatch.setattr(validation, "_expanded", lambda *_: None)
    judged = json.loads(train_linear(Alone(), job))["validation"]["metrics"]
    np.testing.assert_allclose(found, judged, atol=0.01 * 3 / count)  # a hundredth of coefficients per row
    for at, strength in enumerate(STRENGTHS):
        for out in range(FOLDS):
            own, total = fold != out, strength * np.count_nonzero(fold != out)
            models: dict[str, Any] = {
                "binomial": linear_model.LogisticRegression(C=1 / total, tol=1e-10, solver="newton-cholesky"),
                "poisson": linear_model.PoissonRegressor(alpha=strength, tol=1e-10, solver="newton-cholesky"),
                "gaussian": linear_model.Ridge(alpha=total),
            }
            model = models[family.name].fit(x[own].astype(np.float64), y[own])
            eta = x[~own].astype(np.float64) @ np.ravel(model.coef_) + np.ravel(model.intercept_)
            assert found[at, out] == pytest.approx(family.evaluate(eta, y[~own])[0].mean(), abs=1e-6)


def test_what_a_loss_a_step_on_misses_is_bounded() -> None:
    random = np.random.default_rng(6)
    x, terms = random.normal(size=(200, 3)), Penalty().on(_facts(3), None)
    problem = Problem(terms, np.append(np.abs(x).max(axis=0), 1.0), 1.0, 1e-15)
    for family, y in ((Binomial(), random.integers(0, 2, 200) * 1.0), (Poisson(), random.poisson(1, 200) * 1.0)):
        for scale in (0.003, 0.03, 0.1):
            w, step = random.normal(size=4) / 2, random.normal(size=4) * scale
            here, there = (Adder(family, at) for at in (w, w + step))
            for adder in (here, there):
                adder.take(Block(x, y))
            missed = abs(there.sums().loss - here.sums().loss_after(step))
            assert missed <= missed_after(here.sums(), step, problem)
            assert missed_after(here.sums(), 30 * step / scale, problem) == np.inf, "nothing is certain so far on"
    assert missed_after(here.sums(), step, replace(problem, bend=0.0)) == 0
    assert missed_after(here.sums(), step, replace(problem, bend=None)) == np.inf


def _facts(features: int) -> Any:
    looker = Looker(Gaussian(), features)
    looker.take(Block(np.random.default_rng(1).normal(size=(10, features)), np.arange(10.0)))
    return looker.facts()


def test_many_labels_and_penalties_are_those_fitted_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MOST_NUMBERS", 100)  # so that points do not even share all passes
    x, y, _ = rows(5000)
    other = (np.random.default_rng(1).random(5000) < expit(x[:, 1])).astype(np.float32)
    url = publish(tmp_path, x, y, other)
    tasks = [Task(Penalty(strength, mixing), label) for strength in (0.0, 0.02) for mixing in (0.0, 1.0) for label in (0, 1)]
    source, families = RowSource(url, "x", ("y", "w")), (Binomial(), Binomial())
    together_ = json.loads(train_linear(Alone(), LinearJob(source, families, tuple(tasks), 1e-9)))["fits"]
    for task, fit in zip(tasks, together_, strict=True):
        (alone,) = json.loads(train_linear(Alone(), LinearJob(source, families, (task,), 1e-9)))["fits"]
        np.testing.assert_allclose(fit["w"], alone["w"], atol=1e-9)
        assert fit["converged"]


def test_points_in_common_are_worked_on_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, weight = rows(3000)
    url = publish(tmp_path, x, y, weight)
    seen: list[int] = []
    inner = shared.SharedPasses._evaluated

    def counted(self: Any, count: Any, points: Any) -> Any:
        seen.append(len(points))
        return inner(self, count, points)

    monkeypatch.setattr(shared.SharedPasses, "_evaluated", counted)
    tasks = tuple(Task(Penalty(strength, by_label=True)) for strength in STRENGTHS)
    train_linear(Alone(), LinearJob(RowSource(url, "x", ("y",)), (Gaussian(),), tasks))
    assert seen == [1], "least squares of any penalty: one pass, one Gram matrix"


def test_what_folds_cannot_be(tmp_path: Path) -> None:
    x, y, _ = rows(2000)
    fold = (np.arange(2000) % FOLDS).astype(np.float32)
    with pytest.raises(DataError, match="column 'w': a fold of 3 is 0 to 2, not 3"):
        train_linear(Alone(), job_of(publish(tmp_path / "more", x, y, fold), Binomial(), folds=3))
    with pytest.raises(DataError, match="fold 3 has no rows"):
        train_linear(Alone(), job_of(publish(tmp_path / "less", x, y, np.minimum(fold, 2)), Binomial()))
    y[fold != 1] = 0
    with pytest.raises(DataError, match="column 'y' outside of fold 1: one class only, 0"):
        train_linear(Alone(), job_of(publish(tmp_path / "class", x, y, fold), Binomial()))
    wide = np.zeros((3000, 1000), np.float32)
    with pytest.raises(ConfigError, match="1001 coefficients and 10 folds are too many"):
        train_linear(Alone(), job_of(publish(tmp_path / "wide", wide, wide[:, 0] * 1.0, wide[:, 0]), Binomial(), folds=10))


def test_rows_that_weigh_nothing_but_in_one_fold_are_bad_data_through_a_gang_too(tmp_path: Path) -> None:
    """What a gang hands on of an error is the name of its class, which must be one of `sparkml.errors`."""
    x, y, _ = rows(2000)
    job = job_of(publish(tmp_path, x, y, (np.arange(2000) % 2).astype(np.float32)), Binomial(), weight="w", folds=2)
    with pytest.raises(DataError, match="'w': every row outside of fold 1 has a weight of 0") as caught:
        train_linear(Alone(), job)
    assert type(caught.value) is DataError


def test_a_fold_that_cannot_be_judged_is_named(tmp_path: Path) -> None:
    x, y, _ = rows(4000)
    fold = np.random.default_rng(3).integers(0, FOLDS, 4000).astype(np.float32)
    y[fold == 2] = 1
    url = publish(tmp_path, x, y, fold)
    with pytest.raises(DataError, match="the metric is not defined on fold 2: its labels are all the same"):
        train_linear(Alone(), job_of(url, Binomial(), "areaUnderROC"))


@pytest.mark.filterwarnings("ignore:invalid value")  # of sums that are not finite
def test_a_search_begins_anew_where_a_fit_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimum of the sample overflows on rows that it has not seen."""
    monkeypatch.setattr(shared, "_SAMPLE_ROWS", 1000)
    random = np.random.default_rng(0)
    x = random.normal(size=(60_000, 2))
    y = random.poisson(np.exp(x[:, 0])).astype(float)
    for at in random.integers(60_000, size=5).tolist():
        x[at, 0], y[at] = 1500.0, 3.0
    url = publish(tmp_path, x, y, np.arange(60_000, dtype=np.float32) % FOLDS)
    found = json.loads(train_linear(Alone(), job_of(url, Poisson(), memory=4 << 20)))
    assert np.isfinite(found["validation"]["metrics"]).all() and found["fits"][found["validation"]["best"]]["converged"]
