"""A linear model on ranks of real processes: the same bits for any number of them, and the optimum of all rows."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import linear_model

from sparkml.errors import DataError
from sparkml.launch.processes import ProcessGang
from sparkml.learners.linear import passes
from sparkml.learners.linear.families import Binomial
from sparkml.learners.linear.job import LinearJob, train_linear
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.passes import Task
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.rows import RowSource
from sparkml.shards.schema import Column
from sparkml.shards.writer import write_shard
from sparkml.storage import Store

FEATURES, GROUP_ROWS = 6, 1000
TRUE = np.array([1.0, -2.0, 0.5, 0.0, 0.25, -0.5, 0.3])


def rows(count: int, seed: int = 5) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, FEATURES)).astype(np.float32)
    y = (random.random(count) < 1 / (1 + np.exp(-(x @ TRUE[:-1] + TRUE[-1])))).astype(np.float64)
    return x, y, random.integers(1, 3, count).astype(np.float32)


def publish(folder: Path, x: Any, y: Any, weight: Any) -> str:
    columns = [
        Column(name="x", dtype=str(x.dtype), shape=(x.shape[1],)),
        Column(name="y", dtype="float64"),
        Column(name="w", dtype="float32"),
    ]
    store, found = Store(str(folder)), []
    with store.stage() as staging:
        for part, at in enumerate(np.array_split(np.arange(len(x)), 3)):
            offsets = pa.array(np.arange(0, (len(at) + 1) * x.shape[1], x.shape[1], dtype=np.int32))
            tensor = pa.ListArray.from_arrays(offsets, pa.array(x[at].ravel()))
            batch = pa.RecordBatch.from_arrays([tensor, pa.array(y[at]), pa.array(weight[at])], ["x", "y", "w"])
            where: dict[str, Any] = {"root": store.root, "folder": staging.path, "columns": columns, "group_rows": GROUP_ROWS}
            found += [row for report in write_shard(iter([batch]), partition=part, **where) for row in report.to_pylist()]
        extra = {"columns": [column.model_dump() for column in columns], "groups": {row["path"]: row["groups"] for row in found}}
        store.publish(staging, "set", kind="shards", fingerprint="f", extra=extra)
    return store.url("set")


def job_of(url: str, family: Any, penalty: Penalty | None = None, **more: Any) -> LinearJob:
    """Return a job of one model."""
    source = {name: more.pop(name) for name in ("weight", "offset", "memory") if name in more}
    return LinearJob(RowSource(url, "x", ("y",), **source), (family,), (Task(penalty or Penalty()),), **more)


def answer_of(body: bytes) -> dict[str, Any]:
    (answer,) = json.loads(body)["fits"]
    return answer  # type: ignore[no-any-return]


def run(url: str, size: int, **more: Any) -> bytes:
    job = job_of(url, **{"family": Binomial(), "weight": "w", "penalty": Penalty(0.001), **more})
    answers = ProcessGang(pin=False).run(partial(train_linear, job=job), size)
    assert len({*answers}) == 1, "every rank has the same answer"
    return answers[0]


def test_the_optimum_of_all_rows_and_the_same_bits_on_any_number_of_ranks(tmp_path: Path) -> None:
    x, y, weight = rows(23_456)
    url = publish(tmp_path, x, y, weight)
    answers = {run(url, size, tolerance=1e-5) for size in (1, 2, 3)}
    assert len(answers) == 1
    answer = answer_of(answers.pop())
    assert answer["converged"] and answer["rows"] == len(x) and answer["weight"] == weight.sum()
    deviation = np.sqrt(np.cov(x.T, aweights=weight).diagonal())
    exact = linear_model.LogisticRegression(C=1 / (0.001 * weight.sum()), tol=1e-12, solver="newton-cholesky").fit(
        x / deviation, y, weight
    )
    np.testing.assert_allclose(answer["w"][0], [*(exact.coef_[0] / deviation), exact.intercept_[0]], atol=1e-5)


def test_it_starts_on_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_SAMPLE_ROWS", 500)
    monkeypatch.setattr(passes, "_GROWTH", 2)
    url = publish(tmp_path, *rows(60_000))
    answer = answer_of(train_linear(Alone(), job_of(url, Binomial(), memory=4 << 20)))
    assert list(answer["decrements"]) == ["1000 rows", "2000 rows", "3000 rows", "6000 rows", "all rows"]
    assert answer["passes"] <= 3 and answer["error"] < 1e-6


def test_labels_that_the_family_does_not_have_are_refused(tmp_path: Path) -> None:
    x, y, weight = rows(2000)
    y[1234] = 2
    url = publish(tmp_path, x, y, weight)
    with pytest.raises(DataError, match="column 'y': a label of two classes is 0 or 1, not 2"):
        run(url, 2)


@pytest.mark.parametrize("strength", [0.0, 0.02])
def test_several_classes_are_those_of_scikit_learn(tmp_path: Path, strength: float) -> None:
    x, _, weight = rows(6000)
    random = np.random.default_rng(8)
    eta = x @ random.normal(size=(FEATURES, 4)) + [0.5, 0.0, -0.5, 0.2]
    y = np.argmax(eta + random.gumbel(size=eta.shape), axis=1).astype(np.float64)
    url = publish(tmp_path, x, y, weight)
    answers = {run(url, size, family=Multinomial(4), penalty=Penalty(strength, standardised=False)) for size in (1, 3)}
    assert len(answers) == 1
    answer = answer_of(answers.pop())
    assert answer["converged"] and 0 < answer["error"] < 1e-6
    theirs = linear_model.LogisticRegression(C=1 / (strength * weight.sum()) if strength else np.inf, tol=1e-10, max_iter=10_000)
    theirs.fit(x.astype(np.float64), y, weight)
    intercepts = theirs.intercept_ - theirs.intercept_.mean()
    slopes = theirs.coef_ if strength else theirs.coef_ - theirs.coef_.mean(axis=0)
    np.testing.assert_allclose(answer["w"], np.column_stack([slopes, intercepts]), atol=2e-5)


class Alone:
    """The only rank."""

    rank = local_rank = 0
    size = local_size = 1
    host = "here"

    def barrier(self) -> None: ...
    def all_gather(self, payload: bytes) -> list[bytes]:
        return [payload]

    def log(self, text: str) -> None: ...
    def note(self, phase: str, step: int) -> None: ...
    def report(self, progress: dict[str, Any]) -> None: ...


def test_a_rank_does_not_import_what_it_does_not_need(tmp_path: Path) -> None:
    """Pandas and SciPy alone took longer to import than all else, and imports are most of a rank's start."""
    code = """
import pickle, sys, types
fit, job = pickle.load(sys.stdin.buffer)
ignored = lambda *_: None
alone = dict(rank=0, local_rank=0, size=1, local_size=1, all_gather=lambda payload: [payload], note=ignored, report=ignored)
assert fit(types.SimpleNamespace(**alone), job)
assert not (heavy := {'pandas', 'scipy', 'sklearn', 'pyspark', 'tensorflow'} & {*sys.modules}), heavy
"""
    job = job_of(publish(tmp_path, *rows(2000)), Binomial(), weight="w")
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps((train_linear, job)), check=True, timeout=60)
