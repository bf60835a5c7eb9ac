"""Many coefficients on ranks: sparse shards, L-BFGS against Newton's method and scikit-learn, the same bits everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array
from sklearn import linear_model

from sparkml.errors import ConfigError, DataError
from sparkml.launch.processes import ProcessGang
from sparkml.learners.linear import methods, passes
from sparkml.learners.linear import rows as row_sets
from sparkml.learners.linear.facts import Looker
from sparkml.learners.linear.families import Binomial, Gaussian, Poisson
from sparkml.learners.linear.job import LinearJob, train_linear
from sparkml.learners.linear.methods import BySlopes, chosen_solver
from sparkml.learners.linear.metrics import METRICS
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.passes import Task
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.rows import RowSource
from sparkml.learners.linear.sums import Block
from sparkml.shards.schema import Column
from sparkml.shards.writer import write_shard
from sparkml.storage import Store
from tests.conftest import ROOT
from tests.unit.learners.linear.test_edges import together
from tests.unit.learners.linear.test_job import Alone, answer_of, publish
from tests.unit.learners.linear.test_lbfgs import hashed, problem_of

ONES: Any = np.ones


def publish_sparse(folder: Path, x: Any, *numbers: Any, group_rows: int = 500, dtype: str = "float32") -> str:
    """Write rows with the columns x, y, w, o, ... as shards."""
    features = Column(name="x", dtype=dtype, shape=(x.shape[1],), kind="sparse", stored_bytes=max(1, 8 * x.nnz // x.shape[0]))
    columns = [features, *(Column(name=name, dtype="float64") for name, _ in zip("ywo", numbers, strict=False))]
    store, found = Store(str(folder)), []
    kind = pa.struct({"size": pa.int32(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float64())})
    with store.stage() as staging:
        for part, at in enumerate(np.array_split(np.arange(x.shape[0]), 3)):
            own = x[at]
            lists = [
                pa.ListArray.from_arrays(pa.array(own.indptr, pa.int32()), pa.array(v))
                for v in (own.indices.astype("i4"), own.data.astype(float))
            ]
            sizes = pa.array(np.full(len(at), x.shape[1], np.int32))
            vectors = pa.StructArray.from_arrays([sizes, *lists], fields=list(kind))
            batch = pa.RecordBatch.from_arrays(
                [vectors, *(pa.array(values[at]) for values in numbers)], [c.name for c in columns]
            )
            where: dict[str, Any] = {"root": store.root, "folder": staging.path, "columns": columns, "group_rows": group_rows}
            found += [row for report in write_shard(iter([batch]), partition=part, **where) for row in report.to_pylist()]
        extra = {"columns": [column.model_dump() for column in columns], "groups": {row["path"]: row["groups"] for row in found}}
        store.publish(staging, "set", kind="shards", fingerprint="f", extra=extra)
    return store.url("set")


def job_of(url: str, family: Any, penalty: Penalty, *, sparse: bool = True, solver: str = "l-bfgs", **more: Any) -> LinearJob:
    source = {name: more.pop(name) for name in ("weight", "offset", "memory", "folds") if name in more}
    return LinearJob(RowSource(url, "x", ("y",), sparse=sparse, **source), (family,), (Task(penalty),), solver=solver, **more)


@pytest.mark.parametrize("penalty", [Penalty(0.01), Penalty(0.01, 0.5, standardised=False), Penalty(0.02, 1.0)], ids=str)
@pytest.mark.parametrize("family", [Binomial(), Gaussian(), Poisson()], ids=lambda family: family.name)
def test_sparse_rows_dense_rows_and_newton_agree(tmp_path: Path, family: Any, penalty: Penalty) -> None:
    x, y = hashed(3000, 80)
    random = np.random.default_rng(1)
    weight, offset = random.integers(0, 3, 3000).astype(float), random.normal(size=3000) / 4
    x = csr_array(x * 1.5)
    y = y if family.name != "gaussian" else y + random.normal(size=3000)
    url = publish_sparse(tmp_path, x, y, weight, offset)
    more: dict[str, Any] = {"weight": "w", "offset": "o", "tolerance": 1e-9}
    newton = answer_of(train_linear(Alone(), job_of(url, family, penalty, sparse=False, solver="newton", **more)))
    for sparse in (True, False):
        found = answer_of(train_linear(Alone(), job_of(url, family, penalty, sparse=sparse, **more)))
        np.testing.assert_allclose(found["w"], newton["w"], atol=2e-7)
        assert found["converged"] and found["solver"] == ("l-bfgs" if penalty.smooth else "owl-qn")
        if not penalty.smooth:
            assert ((np.array(found["w"]) == 0) == (np.array(newton["w"]) == 0)).all() and 0.0 in found["w"][0]
        assert found["deviance"] == pytest.approx(newton["deviance"], rel=1e-6)
        assert found["standard_errors"] is None and found["weight"] == newton["weight"]
        assert (found["error"] is None) == (not penalty.strength * (1 - penalty.mixing)), "a bound where squares are penalised"
    assert found["unseen"] == 0


def narrow(x: Any) -> Any:
    """Return the rows as scikit-learn wants them."""
    return csr_array((x.data, x.indices.astype(np.int32), x.indptr.astype(np.int32)), shape=x.shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_on_any_number_of_ranks(tmp_path: Path, dtype: str) -> None:
    x, y = hashed(4000, 5000)
    x = csr_array(x * 0.1)
    url = publish_sparse(tmp_path, x, y, dtype=dtype)
    job = job_of(url, Binomial(), Penalty(0.001, 0.5, standardised=False), memory=200 << 10)  # a part of the rows is kept
    answers = {together(job, size)[0] for size in (1, 2, 3)}
    assert len(answers) == 1
    processes = ProcessGang(pin=False).run(partial(train_linear, job=job), 2)
    assert {*processes} == answers
    answer = answer_of(answers.pop())
    counts = np.bincount(x.indices, minlength=5000)
    assert answer["converged"] and answer["unseen"] == (counts == 0).sum() > 0 and answer["constant"] == []
    theirs = linear_model.LogisticRegression(
        C=1 / (0.001 * 4000), l1_ratio=0.5, penalty="elasticnet", solver="saga", tol=1e-7, max_iter=20_000
    ).fit(narrow(x), y)
    np.testing.assert_allclose(answer["w"][0], [*theirs.coef_[0], theirs.intercept_[0]], atol=2e-4)


def test_three_thousand_dense_coefficients_are_those_of_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(1200, 3000)).astype(np.float32)
    y = (x[:, :30].sum(axis=1) + random.normal(size=1200) > 1).astype(float)
    url = publish(tmp_path, x + np.float32(3), y, ONES(1200, np.float32))
    penalty = Penalty(0.1, standardised=False)
    found = answer_of(train_linear(Alone(), job_of(url, Binomial(), penalty, sparse=False)))
    theirs = linear_model.LogisticRegression(C=1 / (0.1 * 1200), tol=1e-9, max_iter=5000).fit(x.astype(float), y)
    exact = [*theirs.coef_[0], theirs.intercept_[0] - 3 * theirs.coef_.sum()]
    np.testing.assert_allclose(found["w"][0][:-1], exact[:-1], atol=1e-6)
    assert found["w"][0][-1] == pytest.approx(exact[-1], abs=1e-5)
    assert found["converged"] and found["passes"] < 30
    monkeypatch.setattr(row_sets, "_EXACT_NUMBERS", 0)
    rough = answer_of(train_linear(Alone(), job_of(url, Binomial(), penalty, sparse=False, tolerance=1e-5)))
    np.testing.assert_allclose(rough["w"][0][:-1], exact[:-1], atol=1e-4)
    assert rough["converged"]


def test_several_classes_of_sparse_rows(tmp_path: Path) -> None:
    x, _ = hashed(3000, 60)
    y = np.argmax(x[:, :3].toarray() + np.random.default_rng(1).gumbel(size=(3000, 3)), axis=1).astype(float)
    url = publish_sparse(tmp_path, x, y)
    for penalty in (Penalty(0.01), Penalty(0.01, 1.0)):
        found, newton = (
            answer_of(
                train_linear(
                    Alone(), job_of(url, Multinomial(3), penalty, sparse=solver != "newton", solver=solver, tolerance=1e-8)
                )
            )
            for solver in ("l-bfgs", "newton")
        )
        np.testing.assert_allclose(found["w"], newton["w"], atol=1e-6)


def test_it_starts_on_samples_with_what_they_taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = hashed(16_000, 300)
    url = publish_sparse(tmp_path, x, y)
    penalty = Penalty(1e-3, standardised=False)
    cold = answer_of(train_linear(Alone(), job_of(url, Binomial(), penalty, tolerance=1e-5)))
    assert list(cold["decrements"]) == ["all rows"]
    monkeypatch.setattr(passes, "_SAMPLE_ROWS", 2000)
    warm = answer_of(train_linear(Alone(), job_of(url, Binomial(), penalty, tolerance=1e-5)))
    assert list(warm["decrements"]) == ["2334 rows", "all rows"] and warm["passes"] < 0.75 * cold["passes"]
    np.testing.assert_allclose(warm["w"], cold["w"], atol=1e-3)
    rare = answer_of(train_linear(Alone(), job_of(url, Binomial(), Penalty(1e-3), tolerance=1e-5)))
    assert list(rare["decrements"]) == ["all rows"], "a standardised penalty does not hold what is rare in a sample"


def test_a_sample_is_not_asked_about_what_hardly_occurs_in_it() -> None:
    x = np.zeros((1000, 3))
    x[:9, 0], x[:30, 1], x[:, 2] = 2.0, -3.0, np.linspace(0, 1, 1000)
    looker = Looker(Binomial(), 3)
    looker.take(Block(x, np.arange(1000) % 2.0, np.full(1000, 0.1)))
    facts, reach = looker.facts(), np.array([2.0, 3.0, 1.0, 1.0])
    terms = Penalty(0.1).on(facts, None, 2)
    assert BySlopes().terms(terms, facts, reach, sample=True).free.tolist() == 2 * [False, True, True, True]
    assert BySlopes().terms(terms, facts, reach, sample=False).free.all()
    through = Penalty(0.1, intercept=False).on(facts, None)
    assert BySlopes().terms(through, facts, reach, sample=True).free.tolist() == [False, True, True, False]


@pytest.mark.parametrize("solver", methods.METHODS)
def test_where_a_sample_leads_to_no_loss_it_starts_as_without(solver: str) -> None:
    x, y = np.linspace(-1, 1, 50)[:, None], np.arange(50) % 3.0
    looker, method = Looker(Poisson(), 1), methods.METHODS[solver]
    looker.take(block := Block(x, y))
    problem = problem_of(looker.facts(), None, Penalty(), Poisson())
    start, kind = methods.Start(np.array([1e4, 0.0])), np.dtype(np.float64)
    descent = method.descent(start, 1e-6, 9, patient=False, kind=kind, instead=np.array([0.0, 0.5]))
    adder = method.adder(Poisson(), descent.point[None], 1, [None], None, True)
    adder.take(block)
    descent.take(adder.sums(0), problem)
    assert descent.point.tolist() == [0.0, 0.5]


def test_folds_are_judged_as_newton_s(tmp_path: Path) -> None:
    x, y = hashed(3000, 60)
    url = publish_sparse(tmp_path, x, y)
    tasks = (Task(Penalty(0.001)), Task(Penalty(0.1)), Task(Penalty(0.01, 1.0)))
    found = []
    for solver in ("l-bfgs", "newton"):
        source = RowSource(url, "x", ("y",), folds=3, sparse=solver != "newton")
        job = LinearJob(source, (Binomial(),), tasks, metric=METRICS["loss"], solver=solver)
        bodies = {together(job, size)[0] for size in (1, 2)}
        assert len(bodies) == 1
        found.append(json.loads(bodies.pop()))
    ours, newton = found
    np.testing.assert_allclose(ours["validation"]["metrics"], newton["validation"]["metrics"], atol=3e-4)
    best = ours["validation"]["best"]
    assert best == newton["validation"]["best"]
    np.testing.assert_allclose(ours["fits"][best]["w"], newton["fits"][best]["w"], atol=1e-5)


def test_classes_that_features_tell_apart_end_the_fit(tmp_path: Path) -> None:
    x, _ = hashed(200, 5000)
    y = np.arange(200) % 2.0
    answer = answer_of(train_linear(Alone(), job_of(publish_sparse(tmp_path, x, y), Binomial(), Penalty())))
    assert answer["separated"] and not answer["converged"]


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_are_told_apart_by_rows_that_weigh_something(tmp_path: Path, classes: int) -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(1200, 2))
    y = np.digitize(x[:, 0], [-0.3, 0.3] if classes == 3 else [0.0]).astype(float)
    wrong = np.arange(1200) % 5 == 0
    y[wrong] = (y[wrong] + 1) % classes
    family: Any = Multinomial(3) if classes == 3 else Binomial()
    for weight in (ONES(1200), ONES(1200) - wrong):
        url = publish_sparse(tmp_path / str(weight.sum()), csr_array(x), y, weight, dtype="float64")
        answer = answer_of(train_linear(Alone(), job_of(url, family, Penalty(), weight="w")))
        assert answer["separated"] == (not weight.all()) and answer["converged"] == weight.all()


def test_what_is_wrong_with_sparse_rows_is_said(tmp_path: Path) -> None:
    x, y = hashed(1000, 50)
    x.data[77] = np.nan
    with pytest.raises(DataError, match=r"column 'x': feature \d+ is NaN or infinite in 1 of \d+ rows"):
        train_linear(Alone(), job_of(publish_sparse(tmp_path / "nan", x, y), Binomial(), Penalty(0.1)))
    x.data[77] = 1.0
    with pytest.raises(DataError, match="column 'y': a label of two classes is 0 or 1, not 2"):
        train_linear(Alone(), job_of(publish_sparse(tmp_path / "label", x, y * 2), Binomial(), Penalty(0.1)))


def test_the_solver_is_chosen_by_shape() -> None:
    assert [chosen_solver("auto", size, bounded=False) for size in (2000, 2001, 1 << 20)] == ["newton", "l-bfgs", "l-bfgs"]
    assert chosen_solver("auto", 4096, bounded=True) == "newton" and chosen_solver("l-bfgs", 3, bounded=False) == "l-bfgs"
    with pytest.raises(ConfigError, match="bounds of 4097 coefficients: only Newton's method keeps them"):
        chosen_solver("auto", 4097, bounded=True)
    with pytest.raises(ConfigError, match="bounds of 3 coefficients"):
        chosen_solver("l-bfgs", 3, bounded=True)
    with pytest.raises(ConfigError, match="5000 coefficients: Newton's method takes at most 4096"):
        methods.METHODS["newton"].check(5000, 1, 1)
    slopes = BySlopes()
    slopes.check(1 << 24, 1, 1)
    for size, folds, models, message in (
        (1 + (1 << 24), 1, 1, "a linear model takes at most 16777216"),
        (1 << 20, 1, 40, "40 fits of 1048576 coefficients at once would remember 12 GiB"),
        (1 << 20, 5, 1, "1048576 coefficients and 5 folds are too many for shared passes"),
    ):
        with pytest.raises(ConfigError, match=message):
            slopes.check(size, folds, models)


MILLION = """
import json, resource, sys
import numpy as np
from pathlib import Path
from tests.unit.learners.linear.test_job import Alone
from tests.unit.learners.linear.test_large import job_of, train_linear, Binomial, Penalty
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answer = json.loads(train_linear(Alone(), job_of(sys.argv[1], Binomial(), Penalty(1e-4), memory=0, tolerance=1e-4)))["fits"][0]
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([answer["converged"], len(answer["w"][0]), answer["passes"], (after - before) // 1024]))
"""


def test_a_million_coefficients_fit_in_bounded_memory(tmp_path: Path) -> None:
    """Of 20,000 rows that would be 160 GB dense; a Hessian of them 8 TB."""
    random = np.random.default_rng(3)
    places = np.minimum(random.zipf(1.3, 20_000 * 40) * 7919 % (1 << 20), (1 << 20) - 1)
    x = csr_array((np.ones(len(places)), places, np.arange(0, len(places) + 1, 40)), shape=(20_000, 1 << 20))
    x.sum_duplicates()
    y = (random.random(20_000) < 1 / (1 + np.exp(-x @ random.normal(size=1 << 20) / 3))).astype(float)
    url = publish_sparse(tmp_path, x, y, group_rows=2000)
    done = subprocess.run([sys.executable, "-c", MILLION, url], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    converged, size, passed, mebibytes = json.loads(done.stdout)
    assert converged and size == (1 << 20) + 1 and passed < 100
    assert mebibytes < 1200
