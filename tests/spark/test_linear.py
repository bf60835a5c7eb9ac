"""Linear models on barrier tasks against MLlib's: coefficients, predictions, persistence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml import classification as mllib
from pyspark.ml import regression as mllib_regression
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession

from sparkml.errors import ConfigError, DataError
from sparkml.estimators.linear import LinearRegression, LogisticRegression

NAMES = [f"x{number}" for number in range(4)]


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    random = np.random.default_rng(11)
    x = random.normal(size=(3000, 4)) * [1, 3, 0.2, 1] + [0, 1, 0, -1]
    margin = x @ [1.0, -0.4, 2.0, 0.0] + 0.5
    label = (random.random(3000) < 1 / (1 + np.exp(-margin))).astype(float)
    value = margin + random.normal(size=3000)
    data = [
        (*map(float, np.float32(row)), float(y), float(v), float(w))
        for row, y, v, w in zip(x, label, value, random.integers(1, 4, 3000), strict=True)
    ]
    frame = spark.createDataFrame(data, [*NAMES, "label", "value", "weight"])
    return VectorAssembler(inputCols=NAMES, outputCol="features").transform(frame).cache()


@pytest.mark.parametrize(
    "more", [{}, {"regParam": 0.05}, {"regParam": 0.05, "standardization": False, "fitIntercept": False}], ids=str
)
def test_logistic_regression_is_that_of_mllib(rows: DataFrame, more: dict[str, Any]) -> None:
    ours = LogisticRegression(weightCol="weight", numProc=2, tol=1e-6, verbose=False, **more).fit(rows)
    theirs = mllib.LogisticRegression(weightCol="weight", tol=1e-12, maxIter=500, **more).fit(rows)
    np.testing.assert_allclose(ours.coefficients.toArray(), theirs.coefficients.toArray(), atol=2e-6)
    assert ours.intercept == pytest.approx(theirs.intercept, abs=2e-6)
    columns = ["rawPrediction", "probability", "prediction"]
    for mine, its in zip(
        ours.transform(rows).select(columns).collect(), theirs.transform(rows).select(columns).collect(), strict=True
    ):
        np.testing.assert_allclose(mine.rawPrediction.toArray(), its.rawPrediction.toArray(), atol=1e-4)
        np.testing.assert_allclose(mine.probability.toArray(), its.probability.toArray(), atol=1e-5)
        assert mine.prediction == its.prediction or abs(its.rawPrediction[1]) < 1e-4
    assert ours.history["converged"] and ours.history["rows"] == 3000


def test_linear_regression_is_that_of_mllib(rows: DataFrame) -> None:
    ours = LinearRegression(labelCol="value", numProc=2, verbose=False, regParam=0.1).fit(rows)
    theirs = mllib_regression.LinearRegression(labelCol="value", regParam=0.1, solver="normal").fit(rows)
    np.testing.assert_allclose(ours.coefficients.toArray(), theirs.coefficients.toArray(), rtol=1e-4)
    assert ours.intercept == pytest.approx(theirs.intercept, rel=1e-4)


def test_a_pipeline_with_it_is_saved_and_loaded(rows: DataFrame, tmp_path: Path) -> None:
    raw = rows.drop("features")
    estimator = LogisticRegression(regParam=0.01, numProc=1, verbose=False, rawPredictionCol="")
    fitted = Pipeline(stages=[VectorAssembler(inputCols=NAMES, outputCol="features"), estimator]).fit(raw)
    fitted.write().save(f"file://{tmp_path}/model")
    again = PipelineModel.load(f"file://{tmp_path}/model")
    assert again.stages[1].coefficients == fitted.stages[1].coefficients and again.stages[1].history == fitted.stages[1].history
    assert again.transform(raw).columns == [*raw.columns, "features", "probability", "prediction"]
    assert again.transform(raw).collect() == fitted.transform(raw).collect()


def test_wrong_input_is_refused(rows: DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"LogisticRegression has no parameter 'regparam'.*regParam"):
        LogisticRegression(regparam=1.0)
    with pytest.raises(ConfigError, match=r"regParam = -1\.0: must be 0 or more"):
        LogisticRegression(regParam=-1.0)
    with pytest.raises(DataError, match="a label of two classes is 0 or 1, not 3"):
        LogisticRegression(labelCol="weight", numProc=1, verbose=False).fit(rows)
    with pytest.raises(DataError, match="there is no column 'there'"):
        LogisticRegression(featuresCol="there", verbose=False).fit(rows)
