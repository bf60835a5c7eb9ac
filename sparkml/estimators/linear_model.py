"""Fitted linear models: predictions in Arrow batches or as an SQL expression, statistics, persistence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml import Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import DenseMatrix, DenseVector
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasElasticNetParam,
    HasFeaturesCol,
    HasFitIntercept,
    HasLabelCol,
    HasPredictionCol,
    HasProbabilityCol,
    HasRawPredictionCol,
    HasRegParam,
    HasThreshold,
)
from pyspark.ml.util import MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from sparkml.errors import ConfigError, DataError
from sparkml.estimators.keras_params import accessible
from sparkml.estimators.linear_files import LinearReader, LinearWriter
from sparkml.estimators.linear_summary import LinearSummary
from sparkml.estimators.materialise import handed_over, in_place
from sparkml.learners.linear.families import Binomial, Family, SquaredHinge
from sparkml.learners.linear.glm import family_of
from sparkml.learners.linear.methods import MANY_COEFFICIENTS
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.shards.schema import Column, check_finite, to_arrow, to_csr, to_numpy

_WIDE = 1 << 16  # features: a batch of rows made dense would take gigabytes


class LinearColumns(HasFeaturesCol, HasLabelCol, HasPredictionCol):
    """Columns of the estimators and of their models."""


class GlmParams(Params):
    """Which distribution, which link. Names and values are those of MLlib's GeneralizedLinearRegression."""

    family: Param[str] = Param(
        Params._dummy(), "family", "gaussian, binomial, poisson, gamma or tweedie", typeConverter=TypeConverters.toString
    )
    link: Param[str] = Param(
        Params._dummy(),
        "link",
        "identity, log, inverse, logit, probit, cloglog or sqrt; by default the family's canonical one; not for tweedie",
        typeConverter=TypeConverters.toString,
    )
    variancePower: Param[float] = Param(
        Params._dummy(), "variancePower", "of tweedie: 0 or from 1 on", typeConverter=TypeConverters.toFloat
    )
    linkPower: Param[float] = Param(
        Params._dummy(), "linkPower", "of tweedie; by default 1 - variancePower", typeConverter=TypeConverters.toFloat
    )
    offsetCol: Param[str] = Param(
        Params._dummy(), "offsetCol", "column that is added to eta with a coefficient of 1", typeConverter=TypeConverters.toString
    )
    linkPredictionCol: Param[str] = Param(
        Params._dummy(), "linkPredictionCol", "column for eta; none by default", typeConverter=TypeConverters.toString
    )

    def _family(self) -> Family:
        def chosen(name: str) -> Any:
            param = self.getParam(name)
            return self.getOrDefault(param) if self.isDefined(param) else None

        name, power = chosen("family"), chosen("linkPower")
        if name != "tweedie" and self.isSet("linkPower"):
            raise ConfigError(f"linkPower is for the tweedie family, not for {name}", hint="set link")
        if name == "tweedie" and chosen("link") is not None:
            raise ConfigError("the tweedie family takes linkPower, not link")
        return family_of(name, chosen("link"), chosen("variancePower"), power)


class LinearModel(Model, LinearColumns, HasFitIntercept, HasRegParam, HasElasticNetParam, MLWritable, MLReadable[Any]):
    """Coefficients, an intercept, and how they were found.

    Attributes
    ----------
    coefficientMatrix, interceptVector
        Of the features as they come: (1, features) and (1,); of several classes one row each.
    names
        Of the features, as far as their column said them.
    history
        ``passes`` over all rows, ``decrements`` (the Newton decrement of each pass, samples included), ``objectives``,
        ``converged``, ``error``, ``rows``, ``weight``, ``warnings``, ``restarts``, and what `summary` shows.
    """

    def __init__(
        self,
        coefficients: Any = (),
        intercept: Any = 0.0,
        names: Sequence[str] = (),
        history: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        each = np.atleast_2d(np.asarray(coefficients, np.float64))
        self.coefficientMatrix = DenseMatrix(each.shape[0], each.shape[1], each.ravel(order="F"))
        self.interceptVector = DenseVector(np.atleast_1d(np.asarray(intercept, np.float64)))
        self.names, self.history = list(names), history or {}

    @property
    def coefficients(self) -> DenseVector:
        """Of the one linear predictor. Raises `ConfigError` for a model of several classes."""
        self._alone("coefficients", "coefficientMatrix")
        return DenseVector(self.coefficientMatrix.toArray()[0])

    @property
    def intercept(self) -> float:
        """Of the one linear predictor. Raises `ConfigError` for a model of several classes."""
        self._alone("intercept", "interceptVector")
        return float(self.interceptVector[0])

    def _alone(self, asked: str, hint: str) -> None:
        if (classes := len(self.interceptVector)) > 1:
            raise ConfigError(f"a model of {classes} classes has no {asked} but one per class", hint=f"use {hint}")

    @property
    def numFeatures(self) -> int:
        return int(self.coefficientMatrix.numCols)

    @property
    def summary(self) -> LinearSummary:
        """Standard errors, tests, deviance and more."""
        intercepts = self.interceptVector.toArray() if self.getFitIntercept() else None
        return LinearSummary(self.coefficientMatrix.toArray(), intercepts, self.names, self.history)

    def _family(self) -> Family | Multinomial:
        return family_of("gaussian")

    def _offset(self) -> str | None:
        return None

    def toSQL(self, features: Sequence[str] | None = None) -> str:
        """Return the prediction as an expression of Spark SQL: for any query, view or `selectExpr`, without Python.

        Parameters
        ----------
        features
            The expression of each feature: by default the columns that the features were assembled from, if their column said so.

        Raises
        ------
        ConfigError
            The names are not known, or there are not as many as features.
        """
        given = [_quoted(name) for name in self.names] if features is None else list(features)
        self._alone("expression", "one per row of coefficientMatrix")
        if len(given) != self.numFeatures:
            raise ConfigError(
                f"{self.numFeatures} features need as many expressions, not {len(given)}",
                hint='give them: toSQL(["age", "log(income)", ...]), or [f"features[{i}]" ...] of an array column',
            )
        parts = [f"{_literal(value)} * {name}" for value, name in zip(self.coefficients, given, strict=True) if value]
        offset = self._offset()
        eta = _total([*parts, _literal(self.intercept), *([_quoted(offset)] if offset else [])])
        family = self._family()
        assert not isinstance(family, Multinomial)
        return family.sql(f"({eta})")

    def _outputs(self, predicted: SparkColumn) -> dict[str, SparkColumn]:
        """Return the columns to add, of eta and the mean."""
        return {self.getPredictionCol(): predicted["mean"]}

    def _transform(self, dataset: DataFrame) -> DataFrame:
        name, offset = self.getFeaturesCol(), self._offset()
        for wanted, param in ((name, "featuresCol"), (offset, "offsetCol")):
            if wanted is not None and wanted not in dataset.columns:
                raise DataError(f"there is no column {wanted!r}, only {', '.join(dataset.columns)}", hint=f"set {param}")
        column = self._column(dataset)
        predict = _Predict(column, self.coefficientMatrix.toArray(), self.interceptVector.toArray(), self._family())
        taken = [handed_over(dataset, column)] + ([F.col(f"`{offset}`").cast("double")] if offset else [])
        made = arrow_udf(predict.udf(len(taken)), predict.type)(*taken)  # type: ignore[call-overload]
        hidden = f"__of {self.uid}"
        added = {name: value for name, value in self._outputs(F.col(f"`{hidden}`")).items() if name}
        for other in added:
            if other in dataset.columns:
                raise DataError(f"there is a column {other!r} already", hint="drop it, or name the model's output columns anew")
        return dataset.withColumn(hidden, made).withColumns(added).drop(hidden)

    def _column(self, dataset: DataFrame) -> Column:
        """Return how the features come: as numbers, or as shards store them."""
        name = self.getFeaturesCol()
        if dataset.schema[name].dataType.simpleString() != "binary":
            sparse = self.history.get("sparse") or self.numFeatures > _WIDE
            return Column(name=name, dtype="float64", shape=(self.numFeatures,), kind="sparse" if sparse else "plain")
        found = in_place(dataset)
        stored = found[1].extra["columns"] if found else [self.history["stored"]] if self.history.get("stored") else []
        column = next((Column.model_validate(item) for item in stored if item["name"] == name), None)
        if column is None or column.shape != (self.numFeatures,):
            raise DataError(
                f"column {name!r} is binary, and not known to be {self.numFeatures} features of shards",
                hint="transform the shards' plain scan, or a vector column",
            )
        return column

    def write(self) -> MLWriter:
        return LinearWriter(self)

    @classmethod
    def read(cls) -> MLReader[Any]:
        return LinearReader(cls)


class _Predict:
    """The linear predictor and the mean as a function of Arrow columns; travels to the Python workers."""

    def __init__(self, column: Column, coefficients: Any, intercepts: Any, family: Family | Multinomial) -> None:
        self._column, self._w, self._b, self._family = column, coefficients, intercepts, family

    @property
    def type(self) -> str:
        kind = "double" if len(self._b) == 1 else "array<double>"
        return f"struct<eta: {kind}, mean: {kind}>"

    def udf(self, columns: int) -> Callable[..., Any]:
        def of_one(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
            for features in batches:
                yield self._predicted(features, None)

        def of_two(batches: Iterator[tuple[pa.Array, pa.Array]]) -> Iterator[pa.Array]:
            for features, offset in batches:
                yield self._predicted(features, offset)

        of_one.__annotations__ = {"batches": Iterator[pa.Array], "return": Iterator[pa.Array]}
        of_two.__annotations__ = {"batches": Iterator[tuple[pa.Array, pa.Array]], "return": Iterator[pa.Array]}
        return of_one if columns == 1 else of_two

    def _predicted(self, features: pa.Array, offset: pa.Array | None) -> pa.Array:
        if features.null_count:
            raise ValueError(f"column {self._column.name!r} has {features.null_count} null values: a linear model takes none")
        stored = to_arrow(features, self._column)
        check_finite(stored, self._column)
        kept = self._column.kind == "sparse" and self._column.shape[0] > MANY_COEFFICIENTS
        eta = (to_csr if kept else to_numpy)(stored, self._column) @ self._w.T + self._b
        if len(self._b) == 1:
            eta = eta[:, 0] if offset is None else eta[:, 0] + offset.to_numpy(zero_copy_only=False)
        made = [_lists(values) if values.ndim == 2 else pa.array(values) for values in (eta, self._family.predict(eta))]
        return pa.StructArray.from_arrays(made, names=["eta", "mean"])


def _lists(values: Any) -> pa.Array:
    ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel()))


@accessible
class LogisticRegressionModel(LinearModel, HasProbabilityCol, HasRawPredictionCol, HasThreshold):
    """Adds ``prediction`` (the class), ``probability`` and ``rawPrediction`` (Vectors, one entry per class).

    One named "" is left out. `threshold` is that of two classes.
    """

    @property
    def numClasses(self) -> int:
        return max(2, len(self.interceptVector))

    def _family(self) -> Family | Multinomial:
        return Binomial() if len(self.interceptVector) == 1 else Multinomial(self.numClasses)

    def _outputs(self, predicted: SparkColumn) -> dict[str, SparkColumn]:
        eta, mean = predicted["eta"], predicted["mean"]
        if len(self.interceptVector) == 1:
            eta, mean = F.array(-eta, eta), F.array(1 - mean, mean)
            prediction = (predicted["mean"] > self.getThreshold()).cast("double")
        else:
            prediction = (F.array_position(mean, F.array_max(mean)) - 1).cast("double")
        return {
            self.getOrDefault("rawPredictionCol"): array_to_vector(eta),
            self.getOrDefault("probabilityCol"): array_to_vector(mean),
            self.getPredictionCol(): prediction,
        }


@accessible
class LinearSVCModel(LinearModel, HasRawPredictionCol, HasThreshold):
    """Adds ``prediction`` (0.0 or 1.0) and ``rawPrediction`` (Vectors of two). One named "" is left out."""

    @property
    def numClasses(self) -> int:
        return 2

    def _family(self) -> Family:
        return SquaredHinge(self.getThreshold())

    def _outputs(self, predicted: SparkColumn) -> dict[str, SparkColumn]:
        eta = predicted["eta"]
        return {
            self.getOrDefault("rawPredictionCol"): array_to_vector(F.array(-eta, eta)),
            self.getPredictionCol(): (eta > self.getThreshold()).cast("double"),
        }


@accessible
class LinearRegressionModel(LinearModel):
    """Adds ``prediction``."""


@accessible
class GeneralizedLinearRegressionModel(LinearModel, GlmParams):
    """Adds ``prediction`` (the mean) and, if `linkPredictionCol` is set, eta."""

    def _family(self) -> Family:
        return GlmParams._family(self)

    def _offset(self) -> str | None:
        return self.getOrDefault(self.offsetCol) if self.isDefined(self.offsetCol) else None

    def _outputs(self, predicted: SparkColumn) -> dict[str, SparkColumn]:
        link = {self.getOrDefault(self.linkPredictionCol): predicted["eta"]} if self.isDefined(self.linkPredictionCol) else {}
        return {**link, **super()._outputs(predicted)}


def _total(terms: Sequence[str]) -> str:
    """Return the sum as an expression of SQL: pairs of pairs, as Spark does not parse a thousand in a row."""
    half = len(terms) // 2
    return f"({_total(terms[:half])} + {_total(terms[half:])})" if half else terms[0]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _literal(value: float) -> str:
    """Return a double of SQL, every digit of it."""
    return f"{float(value)!r}D".replace("e", "E") if value >= 0 else f"({float(value)!r}D)".replace("e", "E")
