"""`transform` and `toSQL` of linear models: the same of all forms that features come in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkml.estimators.linear_model import (
    GeneralizedLinearRegressionModel,
    LinearRegressionModel,
    LinearSVCModel,
    LogisticRegressionModel,
)

W, B = np.array([0.5, -2.0, 1e-3, 0.0]), 0.25
NAMES = ["a", "b c", "d-e", "f"]
X = np.array([[1, 2, 3, 4], [0, 0, 0, 7], [-1, 0.5, 0, 0], [0, 0, 2, 0], [1e3, -1e-3, 5, 1]])


@pytest.fixture
def columns(spark: SparkSession) -> DataFrame:
    rows = [(at, *map(float, row)) for at, row in enumerate(X)]
    return spark.createDataFrame(rows, ["id", *NAMES]).withColumn("f", F.col("f").cast("int"))


def assembled(frame: DataFrame) -> DataFrame:
    return VectorAssembler(inputCols=NAMES, outputCol="features").transform(frame)


def array(frame: DataFrame) -> DataFrame:
    return frame.withColumn("features", F.array(*(F.col(f"`{name}`") for name in NAMES)))


FORMS: dict[str, Callable[[DataFrame], DataFrame]] = {
    "assembled": assembled,
    "a column of the same name": lambda frame: assembled(frame).withColumn("a", F.lit(9.0)),
    "a column that Spark takes for the same": lambda frame: assembled(frame).withColumnRenamed("f", "A"),
    "dense": lambda frame: array(frame).withColumn("features", array_to_vector("features")).select("id", "features"),
    "sparse": lambda frame: frame.sparkSession.createDataFrame(
        [(at, Vectors.sparse(4, [*enumerate(row)])) for at, row in enumerate(X.tolist())], ["id", "features"]
    ),
    "array": array,
    "array of floats": lambda frame: array(frame).withColumn("features", F.col("features").cast("array<float>")),
    "array of decimals": lambda frame: array(frame).withColumn("features", F.col("features").cast("array<decimal(10,3)>")),
}


def predicted(frame: DataFrame, column: str = "prediction") -> list[float]:
    return [row[0] for row in frame.orderBy("id").select(column).collect()]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_features_is_scored_alike(columns: DataFrame, form: str) -> None:
    found = LinearRegressionModel(W, B, NAMES).transform(FORMS[form](columns))
    np.testing.assert_allclose(predicted(found), X @ W + B, rtol=1e-6 if "floats" in form else 1e-13)


def test_the_sql_of_many_features_can_be_parsed(spark: SparkSession) -> None:
    model = LinearRegressionModel(np.ones(2000), 0.5)
    assert spark.range(1).select(F.expr(model.toSQL(["2D"] * 2000)).alias("found")).first()[0] == 4000.5


def test_each_model_has_its_own_columns(columns: DataFrame) -> None:
    frame, eta = assembled(columns), X @ W + B
    p = 1 / (1 + np.exp(-eta))
    found = LogisticRegressionModel(W, B, NAMES).transform(frame)
    np.testing.assert_allclose(predicted(found.withColumn("p", vector_to_array("probability")[1]), "p"), p, rtol=1e-13)
    np.testing.assert_allclose(predicted(found.withColumn("r", vector_to_array("rawPrediction")[0]), "r"), -eta, rtol=1e-13)
    assert predicted(found) == (p > 0.5).astype(float).tolist()
    assert predicted(LinearSVCModel(W, B, NAMES)._set(threshold=0.0).transform(frame)) == (eta > 0).astype(float).tolist()
    glm = GeneralizedLinearRegressionModel(W / 100, B, NAMES)
    glm._set(family="poisson", link="log", variancePower=0.0, offsetCol="id", linkPredictionCol="eta")
    found, with_offset = glm.transform(frame), X @ W / 100 + B + np.arange(len(X))
    np.testing.assert_allclose(predicted(found, "eta"), with_offset, rtol=1e-13)
    np.testing.assert_allclose(predicted(found), np.exp(with_offset), rtol=1e-12)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("name", ["a", "f"], ids=["weighs", "weighs nothing"])
def test_features_that_are_no_numbers_are_refused(columns: DataFrame, wrong: float, name: str) -> None:
    broken = columns.withColumn(name, F.when(F.col("id") == 3, F.lit(wrong)).otherwise(F.col(name)))
    with pytest.raises(Exception, match="column 'features' has 1 numbers that are NaN or infinite"):
        predicted(LinearRegressionModel(W, B, NAMES).transform(array(broken)))
