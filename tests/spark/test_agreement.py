"""`scripts/agreement/linear.py`: its fast rows, and that it tells when they do not agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from pyspark.sql import SparkSession

from scripts.agreement import linear, problems
from scripts.agreement.exact import least_squares
from scripts.agreement.packages import Answer
from scripts.agreement.problems import Problem
from tests.unit.learners.linear.test_statistics import LONGLEY


def fast() -> Iterator[Problem]:
    """One of everything: a robust fit with weights, classes, the exact answer, and data without an optimum."""
    wanted = {("cpunish", "HC1"), ("anes96", "HC0")}
    yield from (problem for problem in problems.small() if (problem.name, problem.covariance) in wanted)
    yield next(problems.hard())
    yield from problems.endless()


def test_the_fast_rows_agree(spark: SparkSession) -> None:
    rows, said = linear.compare(fast())
    assert all(row.kept for row in rows), [row for row in rows if not row.kept]
    assert all(one.kept for one in said), [one for one in said if not one.kept]
    promised = {(row.data, row.against) for row in rows if any(limit is not None for limit in row.limits)}
    assert promised == {
        ("cpunish", "statsmodels"),
        ("anes96", "statsmodels"),
        ("longley", "exact"),
        ("a feature that is a sum of others", "statsmodels"),
    }
    assert {one.who for one in said} >= {"sparkml", "MLlib", "MLlib GLM", "statsmodels", "scikit-learn"}


def test_a_difference_that_is_too_large_is_told(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    longley = replace(next(problems.hard()), others={"scikit-learn": (1e-30, None, None)})
    monkeypatch.setitem(linear.PARTS, "hard", lambda _: iter([longley]))
    assert linear.main(["--only", "hard"]) == 1
    assert "1e-30 | " in (shown := capsys.readouterr().out) and "| NO |" in shown
    monkeypatch.setitem(linear.PARTS, "hard", lambda _: iter([replace(longley, others={}, said="depend linearly")]))
    assert linear.main(["--only", "hard", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1 and found["kept"] is False and found["said"][0]["kept"] is False


def test_a_coefficient_without_an_error_counts_unless_a_warning_is_wanted() -> None:
    longley = next(problems.hard())
    values, errors, p = least_squares(longley.x, longley.y)
    wrong, unsure = values.copy(), errors.copy()
    wrong[:3], unsure[:3] = 99, np.nan
    limits: dict[str, tuple[float | None, ...]] = {"exact": (1e-6, None, None)}
    for said, kept in ((None, False), ("depend linearly", True)):
        problem = replace(longley, others=limits, said=said)
        answers = {"sparkml": Answer(wrong, unsure, p), "exact": Answer(values, errors, p)}
        assert linear.compared(problem, "sparkml", answers).kept is kept


def test_the_exact_answer_is_nist_s() -> None:
    longley = next(problems.hard())
    values, errors, _ = least_squares(longley.x, longley.y)
    assert values.tolist() == pytest.approx(LONGLEY["values"], rel=1e-13)
    assert errors.tolist() == pytest.approx(LONGLEY["errors"], rel=1e-13)
    filip = next(problem for problem in problems.hard() if problem.name.startswith("Filip"))
    assert least_squares(filip.x, filip.y)[0][-1] == pytest.approx(-1467.48961422980, rel=1e-7)  # of rounded powers
