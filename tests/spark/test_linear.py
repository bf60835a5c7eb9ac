"""Linear models on barrier tasks against MLlib's: coefficients, predictions, persistence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml import classification as mllib
from pyspark.ml import regression as mllib_regression
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Matrices, Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy import stats
from sklearn import svm

from sparkml.errors import ConfigError, DataError, TrainingError
from sparkml.estimators import LogisticRegressionModel
from sparkml.estimators.linear import (
    GeneralizedLinearRegression,
    LinearEstimator,
    LinearRegression,
    LinearSVC,
    LogisticRegression,
)
from sparkml.estimators.materialise import as_shards, describe
from sparkml.storage import Store
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "how-to" / "linear-models.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r"<!-- file: (\w+).py -->\n```python\n(.*?)```", PAGE, re.DOTALL))
NAMES = [f"x{number}" for number in range(4)]


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    random = np.random.default_rng(11)
    x = random.normal(size=(3000, 4)) * [1, 3, 0.2, 1] + [0, 1, 0, -1]
    margin = x @ [1.0, -0.4, 2.0, 0.0] + 0.5
    label = (random.random(3000) < 1 / (1 + np.exp(-margin))).astype(float)
    value = margin + random.normal(size=3000)
    data = [
        (*map(float, row), float(y), float(v), float(w), float(o), float(c))
        for row, y, v, w, o, c in zip(
            x,
            label,
            value,
            random.integers(1, 4, 3000),
            random.normal(size=3000),
            random.poisson(np.exp(margin / 4)),
            strict=True,
        )
    ]
    frame = spark.createDataFrame(data, [*NAMES, "label", "value", "weight", "offset", "count"])
    frame = frame.withColumn("counts", 100 + F.floor("value"))
    kind = F.when(F.col("value") < -1, 0.0).when(F.col("value") + F.col("x2") < 1, 2.0).otherwise(1.0)
    frame = frame.withColumn("kind", kind)
    frame = frame.withColumn("positive", F.col("count") + 0.1).withColumn("large", 100 + F.col("value"))
    return VectorAssembler(inputCols=NAMES, outputCol="features").transform(frame).cache()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"regParam": 0.05},
        {"regParam": 0.05, "standardization": False, "fitIntercept": False},
        {"regParam": 0.05, "elasticNetParam": 1.0},
        {"regParam": 0.03, "elasticNetParam": 0.4, "standardization": False},
    ],
    ids=str,
)
def test_logistic_regression_is_that_of_mllib(rows: DataFrame, more: dict[str, Any]) -> None:
    ours = LogisticRegression(weightCol="weight", numProc=2, verbose=False, **more).fit(rows)
    theirs = mllib.LogisticRegression(weightCol="weight", tol=1e-14, maxIter=5000, **more).fit(rows)
    np.testing.assert_allclose(ours.coefficients.toArray(), theirs.coefficients.toArray(), atol=1e-6)
    assert ours.intercept == pytest.approx(theirs.intercept, abs=1e-6)
    columns = ["rawPrediction", "probability", "prediction"]
    for mine, its in zip(
        ours.transform(rows).select(columns).collect(), theirs.transform(rows).select(columns).collect(), strict=True
    ):
        np.testing.assert_allclose(mine.rawPrediction.toArray(), its.rawPrediction.toArray(), atol=1e-5)
        np.testing.assert_allclose(mine.probability.toArray(), its.probability.toArray(), atol=1e-5)
        assert mine.prediction == its.prediction or abs(its.rawPrediction[1]) < 1e-4
    assert ours.history["converged"] and ours.history["rows"] == 3000 and not ours.history["warnings"]


@pytest.mark.parametrize(
    "more", [{"regParam": 0.1}, {"regParam": 0.3, "elasticNetParam": 0.5}, {"regParam": 0.2, "elasticNetParam": 1.0}], ids=str
)
@pytest.mark.parametrize("standardization", [True, False])
def test_linear_regression_is_that_of_mllib(rows: DataFrame, more: dict[str, Any], standardization: bool) -> None:
    more = {**more, "labelCol": "value", "standardization": standardization}
    ours = LinearRegression(numProc=2, verbose=False, **more).fit(rows)
    theirs = mllib_regression.LinearRegression(tol=1e-14, maxIter=5000, **more).fit(rows)
    np.testing.assert_allclose(ours.coefficients.toArray(), theirs.coefficients.toArray(), atol=1e-7)
    assert ours.intercept == pytest.approx(theirs.intercept, abs=1e-7)
    assert ours.history["passes"] == 1


@pytest.mark.parametrize(
    "more",
    [{}, {"regParam": 0.02}, {"regParam": 0.02, "elasticNetParam": 0.5}, {"regParam": 0.01, "standardization": False}],
    ids=str,
)
def test_several_classes_are_those_of_mllib(rows: DataFrame, more: dict[str, Any]) -> None:
    more = {**more, "labelCol": "kind", "weightCol": "weight"}
    ours = LogisticRegression(numProc=2, verbose=False, **more).fit(rows)
    theirs = mllib.LogisticRegression(tol=1e-14, maxIter=5000, **more).fit(rows)
    np.testing.assert_allclose(ours.coefficientMatrix.toArray(), theirs.coefficientMatrix.toArray(), atol=1e-5)
    np.testing.assert_allclose(ours.interceptVector, theirs.interceptVector, atol=1e-5)
    assert ours.numClasses == 3 and ours.history["converged"]
    columns = ["rawPrediction", "probability", "prediction"]
    for mine, its in zip(
        ours.transform(rows).select(columns).collect(), theirs.transform(rows).select(columns).collect(), strict=True
    ):
        np.testing.assert_allclose(mine.rawPrediction.toArray(), its.rawPrediction.toArray(), atol=1e-4)
        np.testing.assert_allclose(mine.probability.toArray(), its.probability.toArray(), atol=1e-5)
        assert mine.prediction == its.prediction or np.ptp(np.sort(its.probability.toArray())[1:]) < 1e-4
    with pytest.raises(ConfigError, match="a model of 3 classes has no coefficients but one per class"):
        _ = ours.coefficients
    if "regParam" in more:
        with pytest.raises(ConfigError, match="penalised fit has no standard errors"):
            ours.summary.toPandas()
    else:
        assert ours.summary.toPandas().loc[(2, "x3"), "coefficient"] == ours.coefficientMatrix[2, 3]


def test_bounds_are_those_of_mllib(rows: DataFrame) -> None:
    lower, upper = [-0.2, -1.0, 0.5, 0.0], [0.8, 1.0, 1.5, 1.0]
    ours = LogisticRegression(
        numProc=1, verbose=False, lowerBoundsOnCoefficients=lower, upperBoundsOnCoefficients=upper, lowerBoundOnIntercept=0.7
    ).fit(rows)
    theirs = mllib.LogisticRegression(
        tol=1e-14,
        maxIter=5000,
        lowerBoundsOnCoefficients=Matrices.dense(1, 4, lower),
        upperBoundsOnCoefficients=Matrices.dense(1, 4, upper),
        lowerBoundsOnIntercepts=Vectors.dense([0.7]),
    ).fit(rows)
    np.testing.assert_allclose(ours.coefficients.toArray(), theirs.coefficients.toArray(), atol=1e-5)
    assert ours.intercept == pytest.approx(theirs.intercept, abs=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.03])
def test_bounds_of_several_classes_are_those_of_mllib(rows: DataFrame, strength: float) -> None:
    lower = Matrices.dense(3, 4, [0.0] * 12)
    upper = Matrices.dense(3, 4, np.array([[0.5, 0.2, 9, 9], [9, 9, 9, 0.1], [9, 0.3, 1.0, 9]]).ravel(order="F"))
    more: dict[str, Any] = {
        "labelCol": "kind",
        "regParam": strength,
        "lowerBoundsOnCoefficients": lower,
        "upperBoundsOnCoefficients": upper,
        "lowerBoundsOnIntercepts": Vectors.dense([-1.0, -1.0, -1.0]),
        "upperBoundsOnIntercepts": Vectors.dense([0.0, 0.5, 2.0]),
    }
    ours = LogisticRegression(numProc=2, verbose=False, **more).fit(rows)
    theirs = mllib.LogisticRegression(tol=1e-14, maxIter=5000, **more).fit(rows)
    for mine, its in (
        (ours.coefficientMatrix.toArray(), theirs.coefficientMatrix.toArray()),
        (ours.interceptVector.toArray(), theirs.interceptVector.toArray()),
    ):  # without a penalty what classes have in common is free as far as bounds let it be
        common = 0.0 if strength and mine.ndim == 2 else (its - mine).mean(axis=0)
        np.testing.assert_allclose(mine + common, its, atol=5e-5)
    found = ours.coefficientMatrix.toArray()
    assert (found >= 0).all() and (found <= upper.toArray()).all() and (found == 0).any() and ours.history["converged"]


def test_robust_errors_are_asked_for_by_a_param(rows: DataFrame) -> None:
    frame = rows.select(*NAMES, "value", "label", "weight").toPandas()
    x = np.column_stack([frame[NAMES], np.ones(len(frame))])
    least = LinearRegression(labelCol="value", weightCol="weight", covarianceType="HC1", numProc=2, verbose=False).fit(rows)
    other = sm.WLS(frame.value, x, frame.weight).fit(cov_type="HC1")
    np.testing.assert_allclose(least.summary.coefficientStandardErrors, other.bse, rtol=1e-9)
    plain = LogisticRegression(numProc=1, verbose=False).fit(rows)
    logit = LogisticRegression(covarianceType="HC0", numProc=1, verbose=False).fit(rows)
    robust = sm.Logit(frame.label, x).fit(cov_type="HC0", disp=0, tol=1e-12)
    np.testing.assert_allclose(logit.summary.pValues, robust.pvalues, rtol=1e-6, atol=1e-12)
    assert list(logit.summary.toPandas())[1] == "standard error (HC0)" and logit.coefficients == plain.coefficients
    assert plain.summary.covarianceType == "nonrobust"
    with pytest.raises(ConfigError, match="covarianceType = 'hc3': must be nonrobust, HC0 or HC1"):
        LogisticRegression(covarianceType="hc3")
    with pytest.raises(ConfigError, match="LinearSVC has no parameter 'covarianceType'"):
        LinearSVC(covarianceType="HC0")


@pytest.mark.parametrize(
    ("label", "more"),
    [
        ("value", {"family": "gaussian"}),
        ("positive", {"family": "gaussian", "link": "log"}),
        ("large", {"family": "gaussian", "link": "inverse"}),
        ("label", {"family": "binomial"}),
        ("label", {"family": "binomial", "link": "probit"}),
        ("label", {"family": "binomial", "link": "cloglog"}),
        ("count", {"family": "poisson"}),
        ("counts", {"family": "poisson", "link": "identity"}),
        ("count", {"family": "poisson", "link": "sqrt"}),
        ("large", {"family": "gamma"}),
        ("positive", {"family": "gamma", "link": "log"}),
        ("large", {"family": "gamma", "link": "identity"}),
        ("count", {"family": "tweedie", "variancePower": 1.5, "linkPower": 0.0}),
        ("large", {"family": "tweedie", "variancePower": 2.5}),
    ],
    ids=str,
)
def test_a_generalised_linear_regression_is_that_of_mllib(rows: DataFrame, label: str, more: dict[str, Any]) -> None:
    offset = {"offsetCol": "offset"} if "link" not in more and more["family"] in ("binomial", "poisson") else {}
    more = {**more, **offset, "labelCol": label, "weightCol": "weight"}
    ours = GeneralizedLinearRegression(numProc=1, verbose=False, tol=1e-9, **more).fit(rows)
    theirs = mllib_regression.GeneralizedLinearRegression(tol=1e-12, maxIter=200, **more).fit(rows)
    np.testing.assert_allclose(ours.coefficients.toArray(), theirs.coefficients.toArray(), rtol=1e-6, atol=1e-8)
    assert ours.intercept == pytest.approx(theirs.intercept, rel=1e-6)
    mine, its = ours.summary, theirs.summary
    np.testing.assert_allclose(mine.coefficientStandardErrors, its.coefficientStandardErrors, rtol=1e-5)
    np.testing.assert_allclose(mine.tValues, its.tValues, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mine.pValues, its.pValues, rtol=1e-4, atol=1e-10)
    assert mine.deviance == pytest.approx(its.deviance, rel=1e-8) and mine.dispersion == pytest.approx(its.dispersion, rel=1e-7)
    assert mine.degreesOfFreedom == its.degreesOfFreedom
    if not offset:
        assert mine.nullDeviance == pytest.approx(its.nullDeviance, rel=1e-8)
    if more["family"] != "tweedie":
        assert mine.aic == pytest.approx(its.aic, rel=1e-8)
    predicted = [frame.select("prediction").toPandas().prediction for frame in (ours.transform(rows), theirs.transform(rows))]
    np.testing.assert_allclose(*predicted, rtol=1e-5)


def test_a_squared_hinge_is_that_of_scikit_learn(rows: DataFrame) -> None:
    frame = rows.select(*NAMES, "label").toPandas()
    ours = LinearSVC(numProc=2, verbose=False, regParam=0.1, standardization=False).fit(rows)
    x = np.column_stack([frame[NAMES], np.ones(len(frame))])
    wanted = [*ours.coefficients, ours.intercept]
    sign = 2 * frame.label.to_numpy() - 1
    missing = np.maximum(0, 1 - sign * (x @ wanted))
    gradient = -2 * (sign * missing) @ x / len(x) + 0.1 * np.array([*wanted[:-1], 0.0])
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    hinge = svm.LinearSVC(loss="squared_hinge", C=1 / (0.1 * len(x)), intercept_scaling=1e4, tol=1e-10, max_iter=100_000)
    theirs = hinge.fit(frame[NAMES].to_numpy(), frame.label.to_numpy())
    predicted = ours.transform(rows).select("prediction").toPandas().prediction
    assert np.mean(predicted == theirs.predict(frame[NAMES].to_numpy())) > 0.99


def test_the_table_of_coefficients_has_the_names_of_the_features(rows: DataFrame) -> None:
    model = LinearRegression(labelCol="value", numProc=1, verbose=False).fit(rows)
    table = model.summary.toPandas(level=0.9)
    assert list(table.index) == [*NAMES, "(intercept)"]
    assert list(table.columns) == ["coefficient", "standard error", "t", "P>|t|", "[0.05", "0.95]"]
    frame = rows.select(*NAMES, "value").toPandas()
    x = np.column_stack([frame[NAMES], np.ones(len(frame))])
    solution, residual, *_ = np.linalg.lstsq(x, frame.value, rcond=None)
    errors = np.sqrt(np.linalg.inv(x.T @ x).diagonal() * residual[0] / (len(x) - 5))
    np.testing.assert_allclose(table["coefficient"], solution, rtol=1e-9)
    np.testing.assert_allclose(table["standard error"], errors, rtol=1e-9)
    np.testing.assert_allclose(table["[0.05"], solution - stats.t.ppf(0.95, len(x) - 5) * errors, rtol=1e-8)
    with pytest.raises(ConfigError, match="penalised fit has no standard errors"):
        _ = LinearRegression(labelCol="value", numProc=1, verbose=False, regParam=0.1).fit(rows).summary.tValues


def test_the_sql_of_a_model_predicts_the_same(rows: DataFrame) -> None:
    for estimator, column in (
        (LogisticRegression(numProc=1, verbose=False), "probability"),
        (LinearRegression(labelCol="value", numProc=1, verbose=False), "prediction"),
        (
            GeneralizedLinearRegression(labelCol="count", family="poisson", offsetCol="offset", numProc=1, verbose=False),
            "prediction",
        ),
        (GeneralizedLinearRegression(labelCol="count", family="poisson", link="sqrt", numProc=1, verbose=False), "prediction"),
    ):
        model = estimator.fit(rows)
        value = F.element_at(vector_to_array("probability"), 2) if column == "probability" else F.col(column)
        predicted = model.transform(rows).select(value.alias("ours"), F.expr(model.toSQL()).alias("sql")).toPandas()
        np.testing.assert_allclose(predicted.sql, predicted.ours, rtol=1e-12)
    arrays = rows.withColumn("a", vector_to_array("features"))
    assert arrays.selectExpr(model.toSQL([f"a[{at}]" for at in range(4)])).first()[0] == pytest.approx(predicted.sql[0])
    with pytest.raises(ConfigError, match="4 features need as many expressions, not 1"):
        model.toSQL(["a"])


def test_what_a_user_should_know_is_said(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(1)
    data = [(float(a), float(b), 3.0, float(a > 0), float(2 * a - b)) for a, b in random.normal(size=(500, 2)) if abs(a) > 0.1]
    frame = spark.createDataFrame(data, ["a", "b", "c", "label", "d"])
    assembled = VectorAssembler(inputCols=["a", "b", "c"], outputCol="features").transform(frame)
    separated = LogisticRegression(numProc=1, verbose=False).fit(assembled)
    assert "tell the classes apart without an error" in separated.history["warnings"][0]
    assert separated.history["warnings"][1] == "constant features have the coefficient 0: c" and separated.coefficients[2] == 0
    assert separated.transform(assembled).where("prediction != label").count() == 0
    penalised = LogisticRegression(numProc=1, verbose=False, regParam=0.01).fit(assembled)
    assert penalised.history["converged"] and len(penalised.history["warnings"]) == 1
    assembled = VectorAssembler(inputCols=["a", "b", "d"], outputCol="features").transform(frame.withColumn("y", F.rand(3)))
    dependent = LinearRegression(labelCol="y", numProc=1, verbose=False).fit(assembled)
    assert "depend linearly on one another: a, b, d" in dependent.history["warnings"][0] and "depend linearly" in caplog.text
    assert np.isnan(dependent.summary.coefficientStandardErrors).tolist() == [True, True, True, False]
    assert dependent.summary.degreesOfFreedom == len(data) - 3


def test_a_pipeline_with_it_is_saved_and_loaded(rows: DataFrame, tmp_path: Path) -> None:
    raw = rows.drop("features")
    estimator = LogisticRegression(regParam=0.01, numProc=1, verbose=False, rawPredictionCol="")
    fitted = Pipeline(stages=[VectorAssembler(inputCols=NAMES, outputCol="features"), estimator]).fit(raw)
    fitted.write().save(f"file://{tmp_path}/model")
    again = PipelineModel.load(f"file://{tmp_path}/model")
    assert again.stages[1].coefficients == fitted.stages[1].coefficients and again.stages[1].history == fitted.stages[1].history
    assert again.transform(raw).columns == [*raw.columns, "features", "probability", "prediction"]
    assert again.transform(raw).collect() == fitted.transform(raw).collect()


@pytest.mark.parametrize("sparse", [False, True])
def test_shards_are_read_in_place_and_scored(rows: DataFrame, tmp_path: Path, sparse: bool) -> None:
    store = Store(str(tmp_path))
    columns = describe(rows, ["features", "label"], sparse=["features"] if sparse else [])
    as_shards(rows, store, "set", columns)
    scan = rows.sparkSession.read.parquet(store.url("set"))
    model = LogisticRegression(numProc=2, verbose=False).fit(scan)
    again = LogisticRegression(numProc=1, verbose=False).fit(rows)
    np.testing.assert_allclose(model.coefficients.toArray(), again.coefficients.toArray(), atol=1e-5)  # shards are in float32
    assert [name for name in store.list("") if name != "_staging"] == ["set"], "nothing is written anew"
    model.write().save(f"file://{tmp_path}/model")
    loaded = LogisticRegressionModel.load(f"file://{tmp_path}/model")
    for found in (
        loaded.transform(scan),
        loaded.transform(scan.where("label = 1")),
        loaded.transform(rows.select("features", "label")),
    ):
        wrong = found.where("prediction != label").count()
        assert 0 < wrong < 0.3 * found.count()


def test_a_threshold_moves_predictions_and_sql_alike(rows: DataFrame) -> None:
    model = LinearSVC(numProc=1, verbose=False, regParam=0.1, threshold=0.8).fit(rows)
    predicted = model.transform(rows).select("prediction", F.expr(model.toSQL()).alias("sql")).toPandas()
    assert (predicted.prediction == predicted.sql).all() and 0 < predicted.sql.mean() < 0.5
    with pytest.raises(ConfigError, match="a support vector machine has no likelihood"):
        _ = model.summary.pValues


@pytest.mark.parametrize(("name", "said"), [("my_linear", "passes over all rows"), ("my_search", "best: ")])
def test_the_scripts_of_the_page_run_as_they_stand_there(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "my_linear.py").write_text(SCRIPTS[name], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "my_linear.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_linear.py"]


GLM = GeneralizedLinearRegression
CROSSING = {"lowerBoundsOnCoefficients": [1.0] * 4, "upperBoundsOnCoefficients": [0.0] * 4}
WRONG: dict[str, tuple[type[LinearEstimator], dict[str, Any], str, type[Exception], str]] = {  # the label y as an expression
    "not 0 or 1": (
        LogisticRegression,
        {"family": "binomial"},
        "weight",
        DataError,
        "'y': a label of two classes is 0 or 1, not [23]",
    ),
    "no shares": (GLM, {"family": "binomial"}, "weight", DataError, "binomial family is from 0 to 1, not [23]"),
    "negative counts": (GLM, {"family": "poisson"}, "-weight", DataError, "is 0 or more, not -"),
    "zeros of a gamma": (GLM, {"family": "gamma"}, "0D", DataError, "gamma family is positive, not 0"),
    "half a class": (LogisticRegression, {}, "weight + 0.5", DataError, r"a label of 4 classes is 0 to 3, not [123]\.5"),
    "many classes": (LogisticRegression, {}, "weight + 1e6", ConfigError, r"\d+ classes: a linear model takes at most 10000"),
    "one bound of classes": (
        LogisticRegression,
        {"upperBoundOnIntercept": 1.0},
        "weight",
        ConfigError,
        "upperBoundOnIntercept is of one linear predictor",
    ),
    "bounds of two classes": (
        LogisticRegression,
        {"lowerBoundsOnCoefficients": [0.0] * 4},
        "weight",
        ConfigError,
        r"has 4 bounds, the coefficients are 4 x 4: \(classes, features\)",
    ),
    "bounds of other classes": (
        LogisticRegression,
        {"lowerBoundsOnIntercepts": [0.0] * 3},
        "weight",
        ConfigError,
        "lowerBoundsOnIntercepts has 3 bounds for 4 intercepts",
    ),
    "bounds of nothing": (
        LogisticRegression,
        {"lowerBoundsOnIntercepts": [0.0], "fitIntercept": False},
        "label",
        ConfigError,
        "bounds of an intercept, and fitIntercept = False",
    ),
    "one class": (LogisticRegression, {}, "1D", DataError, "'y': one class only, 1"),
    "one class of a machine": (LinearSVC, {}, "0D", DataError, "'y': one class only, 0"),
    "no counts": (GLM, {"family": "poisson"}, "0D", DataError, "'y': every label is 0"),
    "a null label": (LinearRegression, {}, "if(weight > 1, 1D, null)", DataError, r"label 'y' is null, NaN .* in \d+ of 3000"),
    "a label of text": (LinearRegression, {}, "'a'", DataError, "label 'y' is a string, not a number"),
    "a negative weight": (LinearRegression, {"weightCol": "bad"}, "value", DataError, "'bad': a weight is 0 or more, not -1"),
    "an offset that is NaN": (GLM, {"offsetCol": "nan"}, "value", DataError, "offset 'nan' is null, NaN or infinite in 3000"),
    "far too large": (GLM, {"link": "log", "offsetCol": "huge"}, "value", TrainingError, "the loss is not finite"),
    "other bounds": (LogisticRegression, {"lowerBoundsOnCoefficients": [0.0]}, "label", ConfigError, "1 bounds for 4 features"),
    "crossing bounds": (LogisticRegression, CROSSING, "label", ConfigError, "a lower bound is above its upper bound"),
    "no column": (LogisticRegression, {"featuresCol": "there"}, "label", DataError, "there is no column 'there'"),
    "a number": (LogisticRegression, {"featuresCol": "x0"}, "label", DataError, "'x0' is a double: .*vector or an array"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_rows_are_refused(rows: DataFrame, wrong: str) -> None:
    kind, params, label, error, message = WRONG[wrong]
    frame = rows.withColumn("y", F.expr(label)).withColumn("bad", F.lit(-1.0)).withColumn("nan", F.lit(float("nan")))
    with pytest.raises(error, match=message):
        kind(labelCol="y", numProc=1, verbose=False, **params).fit(frame.withColumn("huge", F.lit(1e6)))


def test_wrong_params_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"LogisticRegression has no parameter 'regparam'.*regParam"):
        LogisticRegression(regparam=1.0)
    with pytest.raises(ConfigError, match=r"regParam = -1\.0: must be 0 or more"):
        LogisticRegression(regParam=-1.0)
    with pytest.raises(ConfigError, match=r"elasticNetParam = 2\.0: must be from 0 to 1"):
        LinearRegression(elasticNetParam=2.0)
    with pytest.raises(ConfigError, match="family = 'poison': must be one of gaussian, binomial, poisson, gamma, tweedie"):
        GeneralizedLinearRegression(family="poison")
    with pytest.raises(ConfigError, match="link = 'logit': of the poisson family it is one of log, identity, sqrt"):
        GeneralizedLinearRegression(family="poisson", link="logit")
    with pytest.raises(ConfigError, match=r"variancePower = 0\.5: there is a distribution for 0 and from 1 on"):
        GeneralizedLinearRegression(family="tweedie", variancePower=0.5)
    with pytest.raises(ConfigError, match="the tweedie family takes linkPower, not link"):
        GeneralizedLinearRegression(family="tweedie", link="log")


def test_it_says_when_it_has_not_converged(rows: DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    model = LogisticRegression(numProc=1, verbose=False, maxIter=2).fit(rows)
    assert not model.history["converged"] and model.history["passes"] == 2
    assert "not converged after 2 passes; raise maxIter" in caplog.text
