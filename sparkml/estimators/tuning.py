"""`CrossValidator`: pyspark.ml's for our linear models, with every fold and every penalty in shared passes over the rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
from pyspark.ml.evaluation import BinaryClassificationEvaluator, MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.tuning import CrossValidator as OneByOne
from pyspark.ml.tuning import CrossValidatorModel, _ValidatorSharedReadWrite
from pyspark.ml.util import DefaultParamsReader, MLReader, MLWriter
from pyspark.sql import DataFrame

from sparkml.errors import ConfigError
from sparkml.estimators.linear import Folds, LinearEstimator
from sparkml.learners.linear.metrics import METRICS, Confusion, Metric

_OF_CLASSES = ("areaUnderROC", "areaUnderPR", "accuracy", "f1", "weightedPrecision", "weightedRecall", "logLoss")


class CrossValidator(OneByOne):
    """K-fold cross-validation of a linear model of `sparkml.estimators`; Params and the fitted model are pyspark.ml's.

    The maps of Params may differ in ``regParam``, ``elasticNetParam`` and ``standardization``. A pass or two serve the fits of
    all maps to all rows *and* without each fold (a fold's optimum is one Newton step away from that of all rows), one more judges
    them, and the best goes on to the estimator's `tol`. The log-loss mostly needs no pass to judge: the sums that a fold's last
    step began from say it, with a certain bound. By default they are judged by the log-loss, those that are no classifiers by the
    rmse, a support vector machine by the area under the ROC curve. `parallelism` has no effect.

    Rows are dealt to folds by the seed and their place, or by `foldCol`. ``avgMetrics`` and ``stdMetrics`` are over the folds.

    Example
    -------
    >>> lr = LogisticRegression()
    >>> grid = ParamGridBuilder().addGrid(lr.regParam, [0.001, 0.01, 0.1]).build()
    >>> CrossValidator(estimator=lr, estimatorParamMaps=grid, numFolds=10).fit(frame).bestModel
    """

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._setDefault(seed=7)  # pyspark.ml's differs from process to process

    def write(self) -> MLWriter:
        return super(CrossValidator, self._judging(self.getEstimator())).write()

    @classmethod
    def read(cls) -> MLReader[Any]:  # type: ignore[override]
        return _Reader()

    def _judging(self, estimator: Any) -> CrossValidator:
        """Return this one with an evaluator of what the estimator predicts."""
        if self.isDefined("evaluator"):
            return self
        evaluator: Any = RegressionEvaluator()
        if _classifies(estimator):
            by_loss = estimator._family().name == "binomial"
            evaluator = MulticlassClassificationEvaluator() if by_loss else BinaryClassificationEvaluator()
            evaluator.setMetricName("logLoss" if by_loss else "areaUnderROC")
        if weight := estimator._chosen("weightCol"):
            evaluator.setWeightCol(weight)
        return cast(CrossValidator, self.copy({self.evaluator: evaluator.setLabelCol(estimator.getLabelCol())}))

    def _fit(self, dataset: DataFrame) -> CrossValidatorModel:
        missing = [name for name in ("estimator", "estimatorParamMaps") if not self.isDefined(name)]
        if missing:
            raise ConfigError(
                f"CrossValidator needs {' and '.join(missing)}", hint="CrossValidator(estimator=..., estimatorParamMaps=...)"
            )
        estimator, maps = self.getEstimator(), self.getEstimatorParamMaps()
        if not isinstance(estimator, LinearEstimator):
            raise ConfigError(
                f"{type(estimator).__name__} is no linear model of sparkml.estimators",
                hint="take pyspark.ml's CrossValidator, or put this one into a Pipeline behind the other stages",
            )
        if self.getCollectSubModels():
            raise ConfigError("collectSubModels: the models of folds are not kept", hint="take pyspark.ml's CrossValidator")
        if not maps:
            raise ConfigError("estimatorParamMaps is empty", hint="ParamGridBuilder().addGrid(estimator.regParam, [...]).build()")
        several = [estimator.copy(params) for params in maps]
        if len({(one._shares_with(), one.getLabelCol()) for one in several}) > 1:
            raise ConfigError(
                "the maps differ in more than regParam, elasticNetParam and standardization",
                hint="take pyspark.ml's CrossValidator for other Params",
            )
        count, column = self.getNumFolds(), self.getFoldCol() or None
        if count < 2:
            raise ConfigError(f"numFolds = {count}: must be 2 or more")
        one = several[0]  # what the maps set alike is set here, too
        judging = self._judging(one)
        folds = Folds(count, _metric(judging.getEvaluator(), one), self.getSeed() & (2**63 - 1), column)
        models, said = one.fit_shared(dataset, several, folds=folds)
        metrics = np.array(said["metrics"])
        best = models[said["best"]]
        best.history["validation"] = {"metrics": said["metrics"], "errors": said["errors"], "best": said["best"]}
        model = CrossValidatorModel(best, metrics.mean(axis=1).tolist(), stdMetrics=metrics.std(axis=1).tolist())
        return judging._copyValues(model)  # with the evaluator, or it could not be saved


def _classifies(estimator: LinearEstimator) -> bool:
    return estimator.hasParam("rawPredictionCol") or estimator._family().separable


def _metric(evaluator: Any, estimator: LinearEstimator) -> Metric:
    """Return what the evaluator's metric is in shared passes. Raises `ConfigError` where it would judge something else."""
    known = (BinaryClassificationEvaluator, MulticlassClassificationEvaluator, RegressionEvaluator)
    name = evaluator.getMetricName() if isinstance(evaluator, known) else type(evaluator).__name__
    kind = type(estimator).__name__
    if name in _OF_CLASSES and not _classifies(estimator):
        raise ConfigError(f"the evaluator's metric {name} is of classes, {kind} has none")
    if isinstance(evaluator, RegressionEvaluator) and estimator.hasParam("rawPredictionCol"):
        raise ConfigError(
            f"the evaluator's metric {name} is of numbers, {kind} predicts classes", hint=f"known are {', '.join(_OF_CLASSES)}"
        )
    metric = METRICS.get(name) if isinstance(evaluator, known) else None
    if name == "logLoss" and estimator._family().name == "binomial":
        metric = METRICS["loss"]
    if metric is None:
        raise ConfigError(
            f"{name} is no metric of shared passes", hint=f"known are logLoss, {', '.join(sorted(set(METRICS) - {'loss'}))}"
        )
    if evaluator.getLabelCol() != estimator.getLabelCol():
        raise ConfigError(f"the evaluator's label is {evaluator.getLabelCol()!r}, the estimator's {estimator.getLabelCol()!r}")
    if (evaluator.getWeightCol() if evaluator.isSet("weightCol") else None) != estimator._chosen("weightCol"):
        raise ConfigError("rows are judged with the estimator's weightCol: the evaluator's must be the same")
    if isinstance(metric, Confusion) and estimator.hasParam("threshold"):
        threshold = estimator.getOrDefault("threshold")
        return replace(metric, threshold=threshold if math.isfinite(threshold) else 0.5)
    return metric


class _Reader(MLReader[CrossValidator]):
    """pyspark.ml's own makes its own class, and takes the JSON of any other for Java's."""

    def load(self, path: str) -> CrossValidator:
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        taken = {**metadata, "class": f"{OneByOne.__module__}.{OneByOne.__name__}"}
        _, estimator, evaluator, maps = _ValidatorSharedReadWrite.load(path, self.sparkSession, taken)
        found = CrossValidator(estimator=estimator, estimatorParamMaps=maps, evaluator=evaluator)
        found._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(found, metadata, skipParams=["estimatorParamMaps"])
        return found
