"""What a search and a path hand on to shared passes, without a JVM: evaluators are stand-ins, and nothing is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.ml.param import Params

from sparkml.errors import ConfigError
from sparkml.estimators import (
    CrossValidator,
    GeneralizedLinearRegression,
    LinearRegression,
    LinearSVC,
    LogisticRegression,
    tuning,
)
from sparkml.estimators import linear as linear_estimators
from sparkml.estimators.linear import Folds, LinearEstimator
from sparkml.estimators.linear_model import LogisticRegressionModel
from sparkml.learners.linear.metrics import METRICS

Shared = list[tuple[LinearEstimator, list[LinearEstimator], Folds | None]]


class Evaluator(Params):
    """Has what pyspark.ml's evaluators have, whose Params live in the JVM."""

    metric = ""

    def __init__(self, **values: str) -> None:
        super().__init__()
        self.values = values

    def isSet(self, param: Any) -> bool:
        return param in self.values

    def setMetricName(self, name: str) -> Evaluator:
        self.values["metricName"] = name
        return self

    def setLabelCol(self, name: str) -> Evaluator:
        self.values["labelCol"] = name
        return self

    def setWeightCol(self, name: str) -> Evaluator:
        self.values["weightCol"] = name
        return self

    def getMetricName(self) -> str:
        return self.values.get("metricName", self.metric)

    def getLabelCol(self) -> str:
        return self.values.get("labelCol", "label")

    def getWeightCol(self) -> str:
        return self.values["weightCol"]


class OfTwoClasses(Evaluator):
    metric = "areaUnderROC"


class OfClasses(Evaluator):
    metric = "f1"


class OfNumbers(Evaluator):
    metric = "rmse"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Shared:
    """Give the calls of `fit_shared`: whose it was, of which estimators, and how they were to be judged."""
    calls: Shared = []

    def fit_shared(self: Any, rows: Any, several: Sequence[Any], *, folds: Folds | None = None) -> tuple[list[Any], Any]:
        calls.append((self, list(several), folds))
        models = [one._copyValues(LogisticRegressionModel([1.0])) for one in several]
        return models, {"metrics": [[0.5, 0.6] for _ in several], "errors": [], "best": 0}

    monkeypatch.setattr(LinearEstimator, "fit_shared", fit_shared)
    for name, kind in (
        ("BinaryClassificationEvaluator", OfTwoClasses),
        ("MulticlassClassificationEvaluator", OfClasses),
        ("RegressionEvaluator", OfNumbers),
    ):
        monkeypatch.setattr(tuning, name, kind)
    return calls


def search(estimator: Any, maps: Any = None, **more: Any) -> Any:
    maps = maps or [{estimator.regParam: 0.1}, {estimator.regParam: 0.2}]
    return CrossValidator(estimator=estimator, estimatorParamMaps=maps, **more)._fit(None)  # type: ignore[arg-type]


def test_maps_say_more_than_penalties(shared: Shared) -> None:
    lr = LogisticRegression()
    maps = [{lr.weightCol: "w", lr.tol: 1e-3, lr.solver: "newton"}, {lr.maxIter: 1}, {lr.maxIter: 1, lr.regParam: 0.1}]
    models = dict(lr.fitMultiple(None, maps))  # type: ignore[arg-type]
    assert len(models) == 3 and [len(several) for _, several, _ in shared] == [1, 2]
    (first, _, _), (second, _, _) = shared
    assert (first._chosen("weightCol"), first.getTol(), first.getSolver()) == ("w", 1e-3, "newton")
    assert (second._chosen("weightCol"), second.getTol(), second.getMaxIter()) == (None, 1e-6, 1)


def test_what_all_maps_of_a_search_set_is_set(shared: Shared) -> None:
    lr = LogisticRegression()
    alike = {lr.weightCol: "w", lr.labelCol: "y", lr.tol: 1e-3}
    search(lr, [{lr.regParam: strength, **alike} for strength in (0.1, 0.2)])
    ((one, _, _),) = shared
    assert (one._chosen("weightCol"), one.getLabelCol(), one.getTol()) == ("w", "y", 1e-3)


@pytest.mark.parametrize(
    ("estimator", "metric"),
    [
        (LogisticRegression, "loss"),
        (LinearSVC, "areaUnderROC"),
        (LinearRegression, "rmse"),
        (lambda **more: GeneralizedLinearRegression(family="poisson", **more), "rmse"),
        (lambda **more: GeneralizedLinearRegression(family="binomial", **more), "loss"),
    ],
)
def test_what_it_is_judged_by_unless_somebody_says(shared: Shared, estimator: Any, metric: str) -> None:
    found = search(estimator(labelCol="y", weightCol="w"))
    ((_, _, folds),) = shared
    assert folds is not None and folds.metric == METRICS[metric]
    evaluator = found.getEvaluator()  # a model without one cannot be saved
    assert (evaluator.getLabelCol(), evaluator.getWeightCol()) == ("y", "w")


@pytest.mark.parametrize("name", ["areaUnderROC", "areaUnderPR"])
def test_a_support_vector_machine_has_classes(shared: Shared, name: str) -> None:
    search(LinearSVC(), evaluator=OfTwoClasses(metricName=name))
    assert shared[0][2] is not None and shared[0][2].metric == METRICS[name]


@pytest.mark.parametrize(
    ("estimator", "evaluator", "message"),
    [
        (LogisticRegression, OfNumbers(), "rmse is of numbers, LogisticRegression predicts classes"),
        (LinearSVC, OfNumbers(metricName="r2"), "r2 is of numbers, LinearSVC predicts classes"),
        (LinearRegression, OfTwoClasses(), "areaUnderROC is of classes, LinearRegression has none"),
        (lambda: LogisticRegression(weightCol="a"), OfClasses(weightCol="b"), "the evaluator's must be the same"),
        (lambda: LogisticRegression(weightCol="a"), OfClasses(), "the evaluator's must be the same"),
        (LogisticRegression, OfClasses(weightCol="b"), "the evaluator's must be the same"),
    ],
)
def test_what_it_would_judge_otherwise_than_the_evaluator_is_refused(
    shared: Shared, estimator: Any, evaluator: Evaluator, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search(estimator(), evaluator=evaluator)
    assert not shared


def test_ranking_is_of_two_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_estimators, "LinearRows", lambda *_: SimpleNamespace(width=2, most=lambda _: 2.0))
    lr = LogisticRegression()
    with pytest.raises(ConfigError, match="areaUnderPR is of two classes, the label has 3"):
        lr.fit_shared(None, [lr], folds=Folds(3, METRICS["areaUnderPR"], 7))  # type: ignore[arg-type]
