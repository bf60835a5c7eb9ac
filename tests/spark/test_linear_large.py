"""Linear models of many and of sparse features on barrier tasks: against MLlib's, saved, loaded, scored without a dense row."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import classification as mllib
from pyspark.ml import regression as mllib_regression
from pyspark.ml.feature import HashingTF
from pyspark.ml.linalg import SparseVector, Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkml.errors import ConfigError
from sparkml.estimators import LogisticRegressionModel
from sparkml.estimators.linear import GeneralizedLinearRegression, LinearRegression, LinearSVC, LogisticRegression
from sparkml.estimators.linear_data import LinearRows
from sparkml.estimators.materialise import as_shards
from sparkml.storage import Store

WIDTH = 3000


@pytest.fixture(scope="module")
def words(spark: SparkSession) -> DataFrame:
    """2,000 texts of twelve words; the label hangs on some of these."""
    random = np.random.default_rng(5)
    texts = np.minimum(random.zipf(1.4, (2000, 12)), 5000)
    effects = random.normal(size=5001)
    margin = effects[texts].sum(axis=1) / 3 - 0.3
    label = (random.random(2000) < 1 / (1 + np.exp(-margin))).astype(float)
    rows = [
        ([f"w{word}" for word in text], float(y), float(m), float(w))
        for text, y, m, w in zip(texts, label, margin, random.integers(1, 4, 2000), strict=True)
    ]
    frame = spark.createDataFrame(rows, "words array<string>, label double, value double, weight double")
    frame = frame.withColumn("kind", F.when(F.col("value") < -1, 0.0).when(F.col("label") == 1, 2.0).otherwise(1.0))
    return HashingTF(inputCol="words", outputCol="features", numFeatures=WIDTH).transform(frame).drop("words").cache()


@pytest.mark.parametrize(
    "more",
    [
        {"regParam": 0.01},
        {"regParam": 0.01, "elasticNetParam": 0.5},
        {"regParam": 0.01, "elasticNetParam": 1.0, "standardization": False},
    ],
    ids=str,
)
def test_sparse_features_are_fitted_as_mllib_fits_them(
    words: DataFrame, more: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sparkml")
    ours = LogisticRegression(numProc=2, verbose=False, weightCol="weight", tol=1e-7, **more).fit(words)
    theirs = mllib.LogisticRegression(weightCol="weight", tol=1e-12, maxIter=2000, **more).fit(words)
    np.testing.assert_allclose(ours.coefficients.toArray(), theirs.coefficients.toArray(), atol=2e-4)
    assert ours.intercept == pytest.approx(theirs.intercept, abs=1e-4)
    assert ours.history["converged"] and ours.history["solver"] == ("owl-qn" if "elasticNetParam" in more else "l-bfgs")
    assert "LogisticRegression: 3001 coefficients, sparse features: solver l-bfgs" in caplog.text
    mine, its = (model.transform(words).select("probability", "prediction").collect() for model in (ours, theirs))
    for one, other in zip(mine, its, strict=True):
        np.testing.assert_allclose(one.probability.toArray(), other.probability.toArray(), atol=1e-4)
    with pytest.raises(ConfigError, match=r"finds no Hessian, and standard errors are of its inverse.*"):
        ours.summary.toPandas()
    assert ours.summary.deviance < ours.summary.nullDeviance and ours.history["warnings"] == []


def test_least_squares_and_several_classes_are_those_of_mllib(words: DataFrame) -> None:
    more: dict[str, Any] = {"regParam": 0.3, "elasticNetParam": 0.2, "labelCol": "value"}
    ours = LinearRegression(numProc=2, verbose=False, **more).fit(words)
    theirs = mllib_regression.LinearRegression(tol=1e-12, maxIter=2000, **more).fit(words)
    np.testing.assert_allclose(ours.coefficients.toArray(), theirs.coefficients.toArray(), atol=1e-4)
    more = {"regParam": 0.02, "labelCol": "kind"}
    several = LogisticRegression(numProc=1, verbose=False, **more).fit(words)
    theirs = mllib.LogisticRegression(tol=1e-12, maxIter=2000, **more).fit(words)
    np.testing.assert_allclose(several.coefficientMatrix.toArray(), theirs.coefficientMatrix.toArray(), atol=2e-4)
    assert several.history["solver"] == "l-bfgs" and several.coefficientMatrix.numRows == 3


def test_a_million_features_are_saved_loaded_and_scored(spark: SparkSession, words: DataFrame, tmp_path: Path) -> None:
    size = 1 << 20
    wide = words.withColumn(
        "features",
        F.udf(lambda v: Vectors.sparse(size, [int(i) * 349 for i in v.indices], v.values), words.schema["features"].dataType)(
            "features"
        ),
    )
    model = LogisticRegression(numProc=2, verbose=False, regParam=0.01, elasticNetParam=0.5, tol=1e-5).fit(wide)
    assert model.numFeatures == size and model.history["converged"]
    narrow = LogisticRegression(numProc=1, verbose=False, regParam=0.01, elasticNetParam=0.5, tol=1e-5).fit(words)
    places = np.arange(WIDTH) * 349
    np.testing.assert_allclose(model.coefficients.toArray()[places], narrow.coefficients.toArray(), atol=5e-4)
    model.write().save(f"file://{tmp_path}/model")
    metadata = b"".join(path.read_bytes() for path in (tmp_path / "model" / "metadata").glob("part-*"))
    assert len(metadata) < 20_000 and json.loads(metadata)["coefficients"] == [1, size]
    again = LogisticRegressionModel.load(f"file://{tmp_path}/model")
    assert again.coefficients == model.coefficients and again.intercept == model.intercept
    assert again.transform(wide).select("probability").collect() == model.transform(wide).select("probability").collect()
    with pytest.raises(Exception, match="must hold vectors of size 1048576, it holds"):
        again.transform(words).collect()


def test_shards_of_sparse_vectors_are_read_and_scored_in_place(words: DataFrame, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = LinearRows(words, "features", ["label"])
    features = rows.columns[0]
    assert rows.sparse and features.kind == "sparse" and features.dtype == "float32", "counts lose nothing as float32"
    as_shards(words, store, "set", rows.columns)
    scan = words.sparkSession.read.parquet(store.url("set"))
    model = LogisticRegression(numProc=2, verbose=False, regParam=0.01).fit(scan)
    again = LogisticRegression(numProc=1, verbose=False, regParam=0.01).fit(words)
    np.testing.assert_allclose(model.coefficients.toArray(), again.coefficients.toArray(), atol=1e-5)
    assert (
        model.transform(scan).where("prediction != label").count() == again.transform(words).where("prediction != label").count()
    )


def test_few_sparse_features_are_stored_sparse_and_go_to_newton(words: DataFrame) -> None:
    few = HashingTF(inputCol="w", outputCol="features", numFeatures=300)
    frame = few.transform(
        words.select(
            "label",
            F.array(
                *(
                    F.concat(F.lit(f"{at} "), F.col(column).cast("int").cast("string"))
                    for at, column in enumerate(["weight", "kind", "value"])
                )
            ).alias("w"),
        )
    )
    rows = LinearRows(frame, "features", ["label"])
    assert rows.columns[0].kind == "sparse"
    sparse = LogisticRegression(numProc=1, verbose=False, regParam=0.01).fit(frame)
    dense = LogisticRegression(numProc=1, verbose=False, regParam=0.01).fit(
        frame.withColumn("features", F.udf(lambda v: Vectors.dense(v.toArray()), words.schema["features"].dataType)("features"))
    )
    assert sparse.history["solver"] == "newton"
    np.testing.assert_allclose(sparse.coefficients.toArray(), dense.coefficients.toArray(), atol=1e-9)
    thirds = frame.withColumn(
        "features", F.udf(lambda v: SparseVector(v.size, v.indices, v.values / 3), words.schema["features"].dataType)("features")
    )
    assert LinearRows(thirds, "features", ["label"]).columns[0].dtype == "float64"


def test_the_solver_is_a_param(words: DataFrame) -> None:
    narrow = words.select(
        "label", F.udf(lambda v: Vectors.dense(v.toArray()[:20]), words.schema["features"].dataType)("features").alias("features")
    )
    found = [
        LogisticRegression(numProc=1, verbose=False, regParam=0.01, tol=1e-8, solver=solver).fit(narrow)
        for solver in ("newton", "l-bfgs")
    ]
    np.testing.assert_allclose(*(model.coefficients.toArray() for model in found), atol=1e-6)
    assert [model.history["solver"] for model in found] == ["newton", "l-bfgs"]
    assert (
        LinearRegression(solver="normal").getSolver() == "normal"
        and GeneralizedLinearRegression(solver="irls").getSolver() == "irls"
    )
    for kind, solver in ((LogisticRegression, "normal"), (LinearRegression, "irls"), (LinearSVC, "sgd")):
        with pytest.raises(ConfigError, match=rf"{kind.__name__}: solver = '{solver}': must be one of auto, newton, l-bfgs"):
            kind(solver=solver)
    with pytest.raises(ConfigError, match="3001 coefficients: only Newton's method keeps them"):
        LogisticRegression(numProc=1, verbose=False, solver="l-bfgs", lowerBoundOnIntercept=0.0).fit(words)


def test_wrong_vectors_are_refused(spark: SparkSession, words: DataFrame) -> None:
    kind = words.schema["features"].dataType
    broken = words.withColumn(
        "features",
        F.udf(lambda v, y: SparseVector(v.size, v.indices, v.values * (float("nan") if y > 1.0 else 1)), kind)(
            "features", "value"
        ),
    )
    with pytest.raises(Exception, match=r"column 'features' has \d+ numbers that are NaN or infinite"):
        LogisticRegression(numProc=1, verbose=False).fit(broken)
    uneven = words.withColumn(
        "features", F.udf(lambda v, y: SparseVector(v.size + int(y > 1.0), v.indices, v.values), kind)("features", "value")
    )
    with pytest.raises(Exception, match=r"'features' must hold vectors of size 300[01], it holds"):
        LogisticRegression(numProc=1, verbose=False).fit(uneven)
    with pytest.raises(ConfigError, match=r"\d+ coefficients: a linear model takes at most 16777216"):
        LogisticRegression(numProc=1, verbose=False).fit(words.withColumn("label", F.floor(F.rand(1) * 9000).cast("double")))
