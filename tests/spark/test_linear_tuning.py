"""Cross-validation and paths in shared passes: as pyspark.ml's CrossValidator does it one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml import classification as mllib
from pyspark.ml import tuning as mllib_tuning
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    ClusteringEvaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.tuning import CrossValidatorModel, ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkml.errors import ConfigError
from sparkml.estimators import CrossValidator, GeneralizedLinearRegression, LinearRegression, LogisticRegression

STRENGTHS, FOLDS = [0.0005, 0.02, 0.4], 3


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    frame = spark.range(3000).select(
        F.randn(1).alias("a"),
        (F.randn(2) * 3 + 1).alias("b"),
        F.randn(3).alias("c"),
        F.pmod("id", F.lit(FOLDS)).cast("int").alias("fold"),
    )
    eta = F.col("a") - 0.4 * F.col("b") + 0.5
    frame = frame.withColumn("label", (F.rand(4) < 1 / (1 + F.exp(-eta))).cast("double"))
    frame = frame.withColumn("other", (F.rand(5) < 1 / (1 + F.exp(-F.col("c")))).cast("double"))
    frame = frame.withColumn("value", eta + F.randn(6)).withColumn("count", F.floor(-F.log(F.rand(7)) * F.exp(eta / 4)))
    return VectorAssembler(inputCols=["a", "b", "c"], outputCol="features").transform(frame).cache()


def grid(estimator: Any, strengths: list[float] = STRENGTHS) -> list[Any]:
    return ParamGridBuilder().addGrid(estimator.regParam, strengths).build()  # type: ignore[no-any-return]


@pytest.mark.parametrize("metric", ["logLoss", "areaUnderROC", "accuracy"])
def test_it_is_what_mllib_finds_one_by_one(rows: DataFrame, metric: str) -> None:
    kind = BinaryClassificationEvaluator if metric == "areaUnderROC" else MulticlassClassificationEvaluator
    lr, theirs = LogisticRegression(), mllib.LogisticRegression(tol=1e-12)
    settings: dict[str, Any] = {"evaluator": kind(metricName=metric), "numFolds": FOLDS, "foldCol": "fold"}
    ours = CrossValidator(estimator=lr, estimatorParamMaps=grid(lr), **settings).fit(rows)
    other = mllib_tuning.CrossValidator(estimator=theirs, estimatorParamMaps=grid(theirs), **settings).fit(rows)
    # MLlib's area under the curve is that of 1,000 points of it
    tolerance = 5e-4 if metric == "areaUnderROC" else 2e-6
    np.testing.assert_allclose(ours.avgMetrics, other.avgMetrics, atol=tolerance)
    np.testing.assert_allclose(ours.stdMetrics, other.stdMetrics, atol=tolerance)
    assert metric == "areaUnderROC" or np.argmax(ours.avgMetrics) == np.argmax(other.avgMetrics)
    best = STRENGTHS[ours.bestModel.history["validation"]["best"]]
    np.testing.assert_allclose(
        ours.bestModel.coefficients, theirs.copy({theirs.regParam: best}).fit(rows).coefficients, atol=1e-6
    )


@pytest.mark.parametrize("which", ["squares", "poisson", "lasso"])
def test_shared_passes_find_what_single_fits_find(rows: DataFrame, which: str) -> None:
    estimator: Any = {
        "squares": lambda: LinearRegression(labelCol="value"),
        "poisson": lambda: GeneralizedLinearRegression(labelCol="count", family="poisson"),
        "lasso": lambda: LinearRegression(labelCol="value", elasticNetParam=1.0),
    }[which]()
    metric = {"squares": "r2", "poisson": "mae", "lasso": "rmse"}[which]
    evaluator = RegressionEvaluator(labelCol=estimator.getLabelCol(), metricName=metric)
    settings: dict[str, Any] = {"evaluator": evaluator, "numFolds": FOLDS, "foldCol": "fold"}
    shared = CrossValidator(estimator=estimator, estimatorParamMaps=grid(estimator), **settings).fit(rows)
    single = mllib_tuning.CrossValidator(estimator=estimator, estimatorParamMaps=grid(estimator), **settings).fit(rows)
    np.testing.assert_allclose(shared.avgMetrics, single.avgMetrics, atol=2e-6)
    np.testing.assert_allclose(shared.bestModel.coefficients, single.bestModel.coefficients, atol=1e-6)


def test_folds_by_the_seed_in_a_pipeline_saved_and_loaded(rows: DataFrame, tmp_path: Path) -> None:
    lr = LogisticRegression(featuresCol="made")
    search = CrossValidator(estimator=lr, estimatorParamMaps=grid(lr), numFolds=5)
    search.save(str(tmp_path / "search"))
    again = CrossValidator.load(str(tmp_path / "search"))
    assert isinstance(again, CrossValidator) and again.getNumFolds() == 5
    stages = [VectorAssembler(inputCols=["a", "b", "c"], outputCol="made"), again]
    fitted = Pipeline(stages=stages).fit(rows)
    found = fitted.stages[1]
    assert isinstance(found, CrossValidatorModel) and found.avgMetrics[0] < found.avgMetrics[2]
    assert np.shape(found.bestModel.history["validation"]["metrics"]) == (3, 5)
    fitted.save(str(tmp_path / "model"))
    loaded = PipelineModel.load(str(tmp_path / "model"))
    first, second = (model.transform(rows).select("probability").head(5) for model in (fitted, loaded))
    assert first == second and loaded.stages[1].avgMetrics == pytest.approx(found.avgMetrics)


def test_a_path_and_many_labels_share_their_passes(rows: DataFrame) -> None:
    lr = LogisticRegression()
    maps = [{lr.regParam: strength, lr.labelCol: label} for label in ("label", "other") for strength in STRENGTHS]
    reports: list[dict[str, Any]] = []
    shared = LogisticRegression(on_report=reports.append)
    models = shared.fit(rows, [{shared.regParam: m[lr.regParam], shared.labelCol: m[lr.labelCol]} for m in maps])
    assert max(report.get("models", 1) for report in reports) == 6, "all six in one pass"
    for params, model in zip(maps, models, strict=True):
        alone = lr.fit(rows, params)
        np.testing.assert_allclose(model.coefficients, alone.coefficients, atol=1e-7)
        assert model.getLabelCol() == params[lr.labelCol]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: {"estimator": mllib.LogisticRegression()}, "LogisticRegression is no linear model of sparkml.estimators"),
        (lambda: {"numFolds": 1}, "numFolds = 1: must be 2 or more"),
        (lambda: {"estimatorParamMaps": []}, "estimatorParamMaps is empty"),
        (lambda: {"collectSubModels": True}, "the models of folds are not kept"),
        (lambda: {"evaluator": ClusteringEvaluator()}, "is no metric of shared passes"),
        (
            lambda: {"evaluator": MulticlassClassificationEvaluator(labelCol="kind")},
            "the evaluator's label is 'kind', the estimator's 'label'",
        ),
        (lambda: {"evaluator": BinaryClassificationEvaluator(weightCol="a")}, "the evaluator's must be the same"),
        (lambda: {"estimator": LinearRegression(), "evaluator": BinaryClassificationEvaluator()}, "areaUnderROC is of classes"),
    ],
)
def test_what_it_refuses(rows: DataFrame, settings: Any, message: str) -> None:
    given = {"estimator": LogisticRegression(), **settings()}
    given = {"estimatorParamMaps": grid(given["estimator"]), **given}
    with pytest.raises(ConfigError, match=message):
        CrossValidator(**given).fit(rows)


def test_what_is_not_set_is_named(rows: DataFrame) -> None:
    with pytest.raises(ConfigError, match="needs estimator and estimatorParamMaps"):
        CrossValidator().fit(rows)
    with pytest.raises(ConfigError, match="needs estimatorParamMaps"):
        CrossValidator(estimator=LogisticRegression()).fit(rows)


def test_maps_that_cannot_share_are_refused(rows: DataFrame) -> None:
    lr = LogisticRegression()
    maps = ParamGridBuilder().addGrid(lr.fitIntercept, [True, False]).build()
    with pytest.raises(ConfigError, match="the maps differ in more than regParam"):
        CrossValidator(estimator=lr, estimatorParamMaps=maps).fit(rows)
