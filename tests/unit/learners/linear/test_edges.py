"""What is at the edge of what has an optimum, or of what numbers can hold; and ranks that share rows they cannot keep."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn import linear_model

from sparkml.errors import DataError, TrainingError
from sparkml.learners.linear import passes
from sparkml.learners.linear import rows as row_sets
from sparkml.learners.linear.facts import Looker
from sparkml.learners.linear.families import Binomial, Family, Gaussian, Poisson
from sparkml.learners.linear.glm import family_of
from sparkml.learners.linear.job import LinearJob, train_linear
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.sums import Block
from sparkml.learners.linear.tree_sum import TreeSum, shares
from tests.unit.learners.linear.test_job import Alone, answer_of, job_of, publish, rows
from tests.unit.learners.linear.test_statistics import fit, with_intercept

RANDOM = np.random.default_rng(17)


class Together(Alone):
    """One of several ranks in threads; keeps what it noted."""

    def __init__(self, rank: int, size: int, meeting: threading.Barrier, table: list[bytes]) -> None:
        self.rank, self.size, self.meeting, self.table = rank, size, meeting, table
        self.notes: list[tuple[str, int]] = []

    def all_gather(self, payload: bytes) -> list[bytes]:
        self.table[self.rank] = payload
        self.meeting.wait(60)
        found = list(self.table)
        self.meeting.wait(60)
        return found

    def note(self, phase: str, step: int) -> None:
        self.notes.append((phase, step))


def together(job: LinearJob, size: int) -> tuple[bytes, list[Together]]:
    meeting, table = threading.Barrier(size), [b""] * size
    ranks = [Together(rank, size, meeting, table) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        answers = list(pool.map(lambda rank: train_linear(rank, job), ranks))
    assert len({*answers}) == 1
    return answers[0], ranks


@pytest.mark.parametrize("family", [Binomial(), Multinomial(2), Gaussian()], ids=lambda family: family.name)
def test_float32_rows_that_are_not_kept_give_the_same_bits_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    monkeypatch.setattr(row_sets, "_EXACT_NUMBERS", 0)
    x, y, weight = rows(20_000)
    url = publish(tmp_path, x + np.float32(50), y, weight)  # far enough to be centred in a buffer of its own
    streamed = {together(job_of(url, family, weight="w", memory=1), size)[0] for size in (1, 2, 3)}
    assert len(streamed) == 1


def test_a_rank_says_what_it_does_at_every_row_group(tmp_path: Path) -> None:
    """A pass may take longer than what counts as a stall."""
    x, y, weight = rows(20_000)
    _, ranks = together(job_of(publish(tmp_path, x, y, weight), Binomial(), memory=1), 2)
    for rank in ranks:
        data = [step for phase, step in rank.notes if phase == "data"]
        assert len(data) > 40 and data == sorted({*data}) and rank.notes[-1][0] == "step"


@pytest.mark.parametrize(("count", "size"), [(954, 2), (954, 7), (100_000, 64), (256, 2)])
def test_few_partial_sums_travel(count: int, size: int) -> None:
    dealt = shares(np.ones(count), size, 0.1)
    assert [number for share in dealt for number in share] == list(range(count))
    nodes = []
    for share in dealt:
        tree = TreeSum()
        for number in share:
            tree.add(number, np.zeros(1))
        nodes.append(len(tree.nodes))
    assert max(len(share) for share in dealt) <= 1.2 * count / size and max(nodes) <= 9 and np.median(nodes) <= 5


def test_shares_of_successes(tmp_path: Path) -> None:
    x = RANDOM.normal(size=(500, 2))
    y = RANDOM.binomial(20, 1 / (1 + np.exp(3 - x @ [0.3, -0.2]))) / 20
    assert y.max() < 0.5, "the sign of eta is right for every row"
    w, summary, answer = fit(tmp_path, x, y, family_of("binomial"))
    other = sm.GLM(y, with_intercept(x), sm.families.Binomial()).fit(tol=1e-12)
    np.testing.assert_allclose(w, other.params, rtol=1e-8)
    assert answer["converged"] and not answer["separated"] and summary.aic is None


def test_two_classes_by_softmax_are_those_by_logit(tmp_path: Path) -> None:
    x, y, weight = rows(3000)
    url = publish(tmp_path, x, y, weight)
    logit, softmax = (np.array(answer_of(train_linear(Alone(), job_of(url, f)))["w"]) for f in (Binomial(), Multinomial(2)))
    np.testing.assert_allclose(softmax[1] - softmax[0], logit[0], atol=1e-6)
    np.testing.assert_allclose(softmax.sum(axis=0), 0, atol=1e-9)


def test_bounds_that_the_null_model_breaks_are_kept(tmp_path: Path) -> None:
    x = RANDOM.normal(size=(2000, 2))
    y = (RANDOM.random(2000) < 1 / (1 + np.exp(-x[:, 1]))).astype(float)
    lower = (1.0, -np.inf, -np.inf)
    w, _, answer = fit(tmp_path, x, y, Binomial(), penalty=Penalty(lower=lower))
    offset = sm.GLM(y, with_intercept(x[:, 1:]), sm.families.Binomial(), offset=x[:, 0]).fit(tol=1e-12)
    np.testing.assert_allclose(w, [1.0, *offset.params], rtol=1e-7)
    assert answer["converged"]


def test_a_coefficient_that_is_fixed_beside_a_feature_far_from_zero(tmp_path: Path) -> None:
    x = np.column_stack([RANDOM.normal(size=1000), 2000 + 10 * RANDOM.normal(size=1000)])
    y = x @ [3.0, 0.5] + RANDOM.normal(size=1000)
    for intercept in (np.inf, 1000.0):  # with a bound on the intercept nothing is centred
        bounds = {"lower": (1.0, -np.inf, -intercept), "upper": (1.0, np.inf, intercept)}
        w, _, answer = fit(tmp_path / str(intercept), x, y, Gaussian(), penalty=Penalty(**bounds))
        exact = np.linalg.lstsq(with_intercept(x[:, 1:]), y - x[:, 0], rcond=None)[0]
        np.testing.assert_allclose(w, [1.0, *exact], rtol=1e-6)
        assert answer["converged"]


def test_l1_of_several_classes_is_that_of_scikit_learn(tmp_path: Path) -> None:
    x, _, weight = rows(3000)
    y = np.argmax(x[:, :3] + RANDOM.gumbel(size=(3000, 3)), axis=1).astype(float)
    url = publish(tmp_path, x, y, weight)
    penalty = Penalty(0.01, 1.0, standardised=False)
    answer = answer_of(train_linear(Alone(), job_of(url, Multinomial(3), penalty, memory=1)))
    theirs = linear_model.LogisticRegression(
        C=1 / 30, l1_ratio=1.0, penalty="elasticnet", solver="saga", tol=1e-10, max_iter=50_000
    )
    theirs.fit(x.astype(float), y)

    def objective(w: Any, b: Any) -> float:
        eta = x @ w.T + b
        return float(np.mean(np.log(np.exp(eta).sum(axis=1)) - eta[np.arange(3000), y.astype(int)]) + 0.01 * np.abs(w).sum())

    found = np.array(answer["w"])
    assert objective(found[:, :-1], found[:, -1]) <= objective(theirs.coef_, theirs.intercept_) + 1e-7


def test_no_finite_optimum_is_said(tmp_path: Path) -> None:
    x = RANDOM.normal(size=(600, 2))
    classes = np.digitize(x[:, 0], [-0.5, 0.5]).astype(float)
    apart = np.abs(np.abs(x[:, 0]) - 0.5) > 0.1
    _, _, answer = fit(tmp_path / "3", (x[apart] ** [1, 1]), classes[apart], Multinomial(3))
    assert answer["separated"]
    dummy = (np.arange(600) % 10 == 0).astype(float)
    y = np.where(dummy == 1, 1.0, (x[:, 1] + RANDOM.normal(size=600) > 0).astype(float))
    _, _, answer = fit(tmp_path / "quasi", np.column_stack([x, dummy]), y, Binomial())
    assert answer["fading"] and not answer["separated"]
    _, _, answer = fit(tmp_path / "usual", x, (x[:, 1] + RANDOM.normal(size=600) > 0).astype(float), Binomial())
    assert not answer["fading"] and not answer["separated"] and answer["error"] < 1e-9
    with pytest.raises(DataError, match="'y': one class only, 2"):
        fit(tmp_path / "one", x, np.full(600, 2.0), Multinomial(3))


def test_rows_that_weigh_nothing(tmp_path: Path) -> None:
    x, y, weight = rows(3000)
    with pytest.raises(DataError, match="'w': every row has a weight of 0"):
        fit(tmp_path / "all", x, y, Binomial(), np.zeros(3000, np.float32))
    half = weight * (np.arange(3000) < 1500)
    w, _, _ = fit(tmp_path / "half", x, y, Binomial(), half)
    other, _, _ = fit(tmp_path / "first", x[:1500], y[:1500], Binomial(), weight[:1500])
    np.testing.assert_allclose(w, other, rtol=1e-9)


@pytest.mark.parametrize(("family", "label"), [(Binomial(), 1.0), (Multinomial(4), 1.0), (Multinomial(4), 3.0)])
def test_one_class_is_noticed_whatever_its_rows_weigh(family: Family, label: float) -> None:
    for seed in range(50):
        weight = np.random.default_rng(seed).random(1000)
        looker = Looker(family, 1)
        for part in (slice(0, 600), slice(600, 1000)):
            looker.take(Block(np.ones((1000, 1))[part], np.full(1000, label)[part], weight[part]))
        facts = looker.facts()
        assert family.check_labels(facts.label / facts.weight, facts.label_variance) == f"one class only, {label:g}"


def test_labels_far_from_zero_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sets, "_EXACT_NUMBERS", 0)
    x = RANDOM.normal(size=(20_000, 2)).astype(np.float32)
    y = 1e6 + x @ [0.5, -1.0] + RANDOM.normal(size=20_000)
    w, summary, answer = fit(tmp_path / "gaussian", x, y, Gaussian())
    other = sm.OLS(y, with_intercept(x.astype(float))).fit()
    np.testing.assert_allclose(w, other.params, atol=1e-5)
    np.testing.assert_allclose(summary.coefficientStandardErrors, other.bse, rtol=1e-5)
    assert summary.nullDeviance == pytest.approx(other.centered_tss, rel=1e-5)
    counts = RANDOM.poisson(np.exp(14 + x @ [0.1, 0.1])).astype(float)
    w, _, answer = fit(tmp_path / "poisson", x, counts, Poisson(), tolerance=1e-6)
    assert answer["converged"] and answer["passes"] < 20
    np.testing.assert_allclose(w, [0.1, 0.1, 14], atol=1e-4)


def test_a_sample_that_ends_where_the_next_one_has_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger sample has rows far from all others, whose mean by the smaller one's optimum is exp(1500)."""
    monkeypatch.setattr(passes, "_SAMPLE_ROWS", 1000)
    monkeypatch.setattr(passes, "_GROWTH", 2)
    random = np.random.default_rng(0)
    x = random.normal(size=(30_000, 2))
    y = random.poisson(np.exp(x[:, 0])).astype(float)
    second = 1000 * int(np.random.default_rng(7).permutation(30)[1])  # row groups are drawn by the seed
    x[second : second + 3, 0], y[second : second + 3] = 1500, 3
    _, _, answer = fit(tmp_path, x, y, Poisson(), memory=8 << 20)
    assert answer["converged"] and {"1000 rows", "2000 rows"} <= {*answer["decrements"]}


def test_labels_far_from_zero_keep_their_variance(tmp_path: Path) -> None:
    """Squares of 1e8 +- 1 have no digit left for the 1: nor had the null deviance, or a penalty in units of the label."""
    x = RANDOM.normal(size=(2000, 2))
    y = np.round(x @ [0.5, -1.0] + RANDOM.normal(size=2000), 6)
    penalty = Penalty(0.1, by_label=True)
    near, near_summary, _ = fit(tmp_path / "near", x, y, Gaussian(), penalty=penalty)
    far, far_summary, _ = fit(tmp_path / "far", x, y + 1e8, Gaussian(), penalty=penalty)
    np.testing.assert_allclose(far[:2], near[:2], rtol=1e-7)
    assert far_summary.nullDeviance == pytest.approx(near_summary.nullDeviance, rel=1e-7)
    assert far_summary.deviance == pytest.approx(near_summary.deviance, rel=1e-7)


def test_a_perfect_fit(tmp_path: Path) -> None:
    x = RANDOM.normal(size=(100, 1))
    _, summary, _ = fit(tmp_path / "line", x, 2 * x[:, 0] + 1, Gaussian())
    assert summary.deviance == pytest.approx(0, abs=1e-9) and np.isfinite(summary.coefficientStandardErrors).all()
    _, summary, _ = fit(tmp_path / "same", x, np.full(100, 3.7), family_of("gamma", "log"))
    assert summary.deviance == pytest.approx(0, abs=1e-9) and summary.aic is None


def test_a_link_that_takes_no_such_eta(tmp_path: Path) -> None:
    x, y = RANDOM.normal(size=(200, 2)), RANDOM.gamma(2, 1, 200)
    with pytest.raises(TrainingError, match="the loss is not finite") as caught:
        fit(tmp_path, x, y, family_of("gamma"), penalty=Penalty(intercept=False))
    assert "try another link, or an intercept" in str(caught.value.hint)
