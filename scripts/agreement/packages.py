"""The same problem put to sparkml, MLlib, statsmodels and scikit-learn: coefficients, standard errors, p-values, what is said.

Intercepts come last. Several classes are compared with class 0: (classes - 1, features + 1).
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import statsmodels.api as sm
from pyspark.errors import PySparkException
from pyspark.ml import classification, regression
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from scipy import stats
from sklearn import linear_model

from scripts.agreement import exact
from scripts.agreement.problems import Problem
from sparkml.estimators import GeneralizedLinearRegression, LinearRegression, LogisticRegression

_MOST_CALLS = 10_000


@dataclass(frozen=True)
class Answer:
    """What a package found; None for what it does not have."""

    values: Any
    errors: Any = None
    p: Any = None
    said: str = ""


@contextlib.contextmanager
def frame(spark: SparkSession, problem: Problem) -> Iterator[DataFrame]:
    """Give the rows as a DataFrame of features (vectors), label and weight."""
    with tempfile.TemporaryDirectory() as folder:
        x = np.ascontiguousarray(problem.x)
        ends = pa.array(np.arange(0, x.size + 1, x.shape[1], dtype=np.int32))
        columns = {"features": pa.ListArray.from_arrays(ends, pa.array(x.ravel())), "label": pa.array(problem.y)}
        if problem.weight is not None:
            columns["weight"] = pa.array(problem.weight)
        pq.write_table(pa.table(columns), Path(folder) / "rows.parquet")
        read = spark.read.parquet(f"file://{folder}/rows.parquet")
        yield read.withColumn("features", array_to_vector("features"))


def ours(rows: DataFrame, problem: Problem) -> Answer:
    """sparkml's estimators, asked for the optimum."""
    kinds: dict[str, type[Any]] = {
        "gaussian": LinearRegression,
        "binomial": LogisticRegression,
        "multinomial": LogisticRegression,
    }
    kind = GeneralizedLinearRegression if problem.link else kinds.get(problem.family, GeneralizedLinearRegression)
    more: dict[str, Any] = {"regParam": problem.penalty[0], "elasticNetParam": problem.penalty[1]}
    model = kind(**_params(problem, kind), **more, covarianceType=problem.covariance, tol=1e-10, numProc=1, verbose=False).fit(
        rows
    )
    summary, said = model.summary, "; ".join(model.history["warnings"])
    if problem.penalty[0]:
        return Answer(summary.coefficients, said=said)
    summary = summary.against(0) if problem.family == "multinomial" else summary
    return Answer(summary.coefficients, summary.coefficientStandardErrors, summary.pValues, said)


def mllib(rows: DataFrame, problem: Problem) -> Answer:
    """Its LogisticRegression and LinearRegression."""
    weight = {} if problem.weight is None else {"weightCol": "weight"}
    if problem.family == "gaussian":
        return _summary(regression.LinearRegression(solver="normal", tol=1e-14, **weight).fit(rows))
    strength, mixing = problem.penalty
    kind = classification.LogisticRegression(tol=1e-14, maxIter=_MOST_CALLS, regParam=strength, elasticNetParam=mixing, **weight)
    model = kind.fit(rows)
    each = np.column_stack([model.coefficientMatrix.toArray(), model.interceptVector.toArray()])
    return Answer(each[1:] - each[0] if len(each) > 1 else each[0])


def mllib_glm(rows: DataFrame, problem: Problem) -> Answer:
    """Its GeneralizedLinearRegression."""
    kind = regression.GeneralizedLinearRegression
    return _summary(kind(**_params(problem, kind), tol=1e-13, maxIter=200).fit(rows))


def _params(problem: Problem, kind: type[Any]) -> dict[str, Any]:
    params: dict[str, Any] = {} if problem.weight is None else {"weightCol": "weight"}
    if kind.__name__ == "GeneralizedLinearRegression":
        params["family"] = problem.family
        if problem.family == "tweedie":
            params |= {"variancePower": problem.power, "linkPower": 0.0}
        elif problem.link:
            params["link"] = problem.link
    return params


def _summary(model: Any) -> Answer:
    values = np.append(model.coefficients.toArray(), model.intercept)
    try:
        errors, p = np.array(model.summary.coefficientStandardErrors), np.array(model.summary.pValues)
    except PySparkException as error:
        return Answer(values, said=str(error).splitlines()[0])
    return Answer(values, errors, p)


def by_statsmodels(problem: Problem, scaled: bool = False) -> Answer:
    """WLS, GLM and MNLogit; their weights are those of variances.

    If `scaled`, of features with a mean of 0 and a deviation of 1.
    """
    x, y, classes = problem.x, problem.y, problem.family == "multinomial"
    mean, unit = (x.mean(axis=0), x.std(axis=0)) if scaled else (np.zeros(x.shape[1]), np.ones(x.shape[1]))
    design = np.column_stack([(x - mean) / unit, np.ones(len(x))])
    weight = np.ones(len(y)) if problem.weight is None else problem.weight
    robust: dict[str, Any] = {} if problem.covariance == "nonrobust" else {"cov_type": problem.covariance}
    if problem.family == "gaussian":
        done = sm.WLS(y, design, weight).fit(use_t=True, **robust)
    else:
        if problem.covariance == "HC1":  # there the same as HC0
            size = design.shape[1] * (len(np.unique(y)) - 1 if classes else 1)
            robust["cov_kwds"] = {"scaling_factor": len(y) / (len(y) - size)}
        if classes:
            done = sm.MNLogit(y, design).fit(method="newton", disp=0, maxiter=200, tol=1e-14, **robust)
        else:
            student = problem.family in ("gamma", "tweedie")
            done = sm.GLM(y, design, _family(problem), var_weights=weight).fit(tol=1e-15, maxiter=300, use_t=student, **robust)
    values, errors, p = (np.asarray(part).T for part in (done.params, done.bse, done.pvalues))
    if scaled:
        back = np.diag(np.append(1 / unit, 1.0))
        back[-1, :-1] = -mean / unit
        covariance = back @ done.cov_params() @ back.T
        values, errors = back @ values, np.sqrt(covariance.diagonal())
        p = 2 * stats.norm.sf(np.abs(values / errors))  # of families whose dispersion is known
    return Answer(values, errors, p)


def _family(problem: Problem) -> Any:
    links = {"probit": sm.families.links.Probit, "cloglog": sm.families.links.CLogLog, "log": sm.families.links.Log}
    given = {"link": links[problem.link]()} if problem.link else {}
    if problem.family == "tweedie":
        return sm.families.Tweedie(var_power=problem.power)
    return {"binomial": sm.families.Binomial, "poisson": sm.families.Poisson, "gamma": sm.families.Gamma}[problem.family](**given)


def by_sklearn(problem: Problem) -> Answer:
    """Its linear models have no standard errors. Penalties are of features divided by their standard deviation."""
    strength = problem.penalty[0]
    unit = problem.x.std(axis=0, ddof=1) if strength else np.ones(problem.x.shape[1])
    if problem.family in ("binomial", "multinomial"):
        c = 1 / (strength * len(problem.y)) if strength else np.inf
        model = linear_model.LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=_MOST_CALLS)
    elif problem.family == "gaussian":
        model = linear_model.LinearRegression()
    else:
        power = {"poisson": 1.0, "gamma": 2.0}.get(problem.family, problem.power)
        model = linear_model.TweedieRegressor(
            power=power, alpha=0, link="log", solver="newton-cholesky", tol=1e-12, max_iter=1000
        )
    model.fit(problem.x / unit, problem.y, sample_weight=problem.weight)
    each = np.column_stack([np.atleast_2d(model.coef_) / unit, np.atleast_1d(model.intercept_)])
    return Answer(each[1:] - each[0] if len(each) > 1 else each[0])


def ask(name: str, rows: DataFrame, problem: Problem) -> Answer:
    """Return a package's answer, with its warnings; a failure is an answer, too."""
    asked: dict[str, Callable[[], Answer]] = {
        "MLlib": lambda: mllib(rows, problem),
        "MLlib GLM": lambda: mllib_glm(rows, problem),
        "statsmodels": lambda: by_statsmodels(problem),
        "statsmodels, scaled": lambda: by_statsmodels(problem, scaled=True),
        "scikit-learn": lambda: by_sklearn(problem),
        "exact": lambda: Answer(*exact.least_squares(problem.x, problem.y)),
    }
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            answer = asked[name]()
        except (ArithmeticError, ValueError, RuntimeError, PySparkException, np.linalg.LinAlgError) as error:
            return Answer(None, said=f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")
    kinds = {f"{one.category.__name__}: {' '.join(str(one.message).split())[:100]}": None for one in heard}
    said = [
        text for text in kinds if not text.startswith(("DeprecationWarning", "FutureWarning", "ResourceWarning", "DomainWarning"))
    ]
    return Answer(answer.values, answer.errors, answer.p, "; ".join([*([answer.said] if answer.said else []), *said]))
