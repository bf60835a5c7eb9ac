"""Linear models in the API of pyspark.ml, fitted by Newton's method on ranks that read the rows themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pyspark.ml import Estimator, Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import DenseVector
from pyspark.ml.param.shared import (
    HasFeaturesCol,
    HasFitIntercept,
    HasLabelCol,
    HasMaxIter,
    HasPredictionCol,
    HasProbabilityCol,
    HasRawPredictionCol,
    HasRegParam,
    HasSeed,
    HasStandardization,
    HasTol,
    HasWeightCol,
)
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from sparkml.errors import ConfigError, DataError
from sparkml.estimators.keras_data import Asked, Frame
from sparkml.estimators.keras_params import accessible, defaults, refuse_unknown
from sparkml.estimators.materialise import handed_over
from sparkml.estimators.ranks import OnRanks
from sparkml.launch.gang import Report
from sparkml.launch.options import GangOptions
from sparkml.learners.linear.families import FAMILIES
from sparkml.learners.linear.job import LinearJob, train_linear
from sparkml.learners.linear.newton import Penalty
from sparkml.shards.schema import Column, check_finite, to_arrow, to_numpy


class LinearColumns(HasFeaturesCol, HasLabelCol, HasPredictionCol):
    """Columns of the estimators and of their models."""


class LinearModel(Model, LinearColumns, MLWritable, MLReadable[Any]):
    """Coefficients, an intercept, and how they were found.

    Attributes
    ----------
    coefficients, intercept
        Of the features as they come.
    history
        ``passes`` over all rows, ``decrements`` (the Newton decrement of each pass, samples included), ``converged``,
        ``objective``, ``rows``, ``weight``, ``restarts``.
    """

    def __init__(
        self, coefficients: Any = (), intercept: float = 0.0, history: dict[str, Any] | None = None, family: str = ""
    ) -> None:
        super().__init__()
        self.coefficients, self.intercept = DenseVector(coefficients), float(intercept)
        self.history, self.family = history or {}, family

    @property
    def numFeatures(self) -> int:
        return len(self.coefficients)

    def _outputs(self, predicted: SparkColumn) -> dict[str, SparkColumn]:
        """Return the columns to add, of the margin and the mean."""
        return {self.getPredictionCol(): predicted["mean"]}

    def _transform(self, dataset: DataFrame) -> DataFrame:
        name = self.getFeaturesCol()
        if name not in dataset.columns:
            raise DataError(f"there is no column {name!r}, only {', '.join(dataset.columns)}", hint="set featuresCol")
        column = Column(name=name, dtype="float32", shape=(self.numFeatures,))
        predict = _Predict(column, self.coefficients.toArray(), self.intercept, self.family)
        made = arrow_udf(predict.udf(), "struct<margin: double, mean: double>")(handed_over(dataset, column))  # type: ignore[call-overload]
        hidden = f"__of {self.uid}"
        added = {name: value for name, value in self._outputs(F.col(f"`{hidden}`")).items() if name}
        for other in added:
            if other in dataset.columns:
                raise DataError(f"there is a column {other!r} already", hint="drop it, or name the model's output columns anew")
        return dataset.withColumn(hidden, made).withColumns(added).drop(hidden)

    def write(self) -> MLWriter:
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[Any]:
        return _Reader(cls)


class _Predict:
    """The linear predictor and the mean as a function of Arrow columns; travels to the Python workers."""

    def __init__(self, column: Column, coefficients: Any, intercept: float, family: str) -> None:
        self._column, self._w, self._b, self._family = column, coefficients, intercept, family

    def udf(self) -> Callable[..., Any]:
        def predict(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
            for batch in batches:
                yield self._predicted(batch)

        predict.__annotations__ = {"batches": Iterator[pa.Array], "return": Iterator[pa.Array]}
        return predict

    def _predicted(self, array: pa.Array) -> pa.Array:
        if array.null_count:
            raise ValueError(f"column {self._column.name!r} has {array.null_count} null values: a linear model takes none")
        stored = to_arrow(array, self._column)
        check_finite(stored, self._column)
        margin = to_numpy(stored, self._column) @ self._w + self._b
        mean = FAMILIES[self._family].predict(margin)
        return pa.StructArray.from_arrays([pa.array(margin), pa.array(mean)], names=["margin", "mean"])


class LinearEstimator(
    Estimator[Any],
    LinearColumns,
    HasWeightCol,
    HasRegParam,
    HasFitIntercept,
    HasStandardization,
    HasMaxIter,
    HasTol,
    HasSeed,
    OnRanks,
    DefaultParamsWritable,
    DefaultParamsReadable[Any],
):
    """Params are those of MLlib. `maxIter` counts passes over all rows; `tol` is the Newton decrement of the last of them.

    The fit starts on a growing random sample of row groups, so that one pass over all rows is mostly enough, or two. The same
    rows give the same bits on any number of ranks.
    """

    _task: ClassVar[str] = "regression"
    _model_class: ClassVar[type[LinearModel]] = LinearModel

    def __init__(self, *, on_report: Report | None = None, verbose: bool = True, **params: Any) -> None:
        super().__init__()
        self._on_report, self._verbose = on_report, verbose
        self._setDefault(seed=7, regParam=0.0, fitIntercept=True, standardization=True, maxIter=100, tol=1e-4)
        self._setDefault(**defaults(GangOptions))
        refuse_unknown(self, params)
        self.setParams(**params)

    def setParams(self, **params: Any) -> LinearEstimator:
        """Set Params by name. Raises `ConfigError` for values that are not allowed."""
        self._set(**{name: value for name, value in params.items() if value is not None})
        for name, least in (("regParam", 0.0), ("tol", 0.0), ("maxIter", 1)):
            if not self.getOrDefault(name) >= least:
                raise ConfigError(f"{type(self).__name__}: {name} = {self.getOrDefault(name)}: must be {least:g} or more")
        self.gang_options()
        return self

    def _family(self) -> str:
        return "gaussian"

    def _fit(self, dataset: DataFrame) -> LinearModel:
        family = self._family()
        weight = self.getOrDefault(self.weightCol) if self.isDefined(self.weightCol) else None
        frame = Frame(
            dataset,
            Asked([self.getFeaturesCol()], [self.getLabelCol()], weight, None, self._task, None, None, None),
        )
        sizes = self._sizes(dataset.sparkSession, frame.rows)  # before the shards are written, which may take long
        with self._store() as store, self._reports() as report:
            job = LinearJob(
                shards=frame.prepare(store, None).train,
                features=self.getFeaturesCol(),
                label=self.getLabelCol(),
                weight=weight,
                family=family,
                penalty=Penalty(
                    self.getRegParam(), self.getStandardization(), self.getFitIntercept(), by_label=family == "gaussian"
                ),
                tolerance=self.getTol(),
                passes=self.getMaxIter(),
                seed=self.getSeed(),
            )
            body, restarts = self._run(dataset.sparkSession, partial(train_linear, job=job), sizes, report)
        history = json.loads(body)
        *coefficients, intercept = history.pop("w")
        history["restarts"] = [vars(restart) for restart in restarts]
        model = self._model_class(coefficients, intercept, history, family)
        model._resetUid(self.uid)
        return self._copyValues(model)


@accessible
class LogisticRegressionModel(LinearModel, HasProbabilityCol, HasRawPredictionCol):
    """Adds ``prediction`` (0.0 or 1.0), ``probability`` and ``rawPrediction`` (Vectors of two). One named "" is left out."""

    def _outputs(self, predicted: SparkColumn) -> dict[str, SparkColumn]:
        margin, mean = predicted["margin"], predicted["mean"]
        return {
            self.getOrDefault("rawPredictionCol"): array_to_vector(F.array(-margin, margin)),
            self.getOrDefault("probabilityCol"): array_to_vector(F.array(1 - mean, mean)),
            self.getPredictionCol(): (margin > 0).cast("double"),
        }


@accessible
class LogisticRegression(LinearEstimator, HasProbabilityCol, HasRawPredictionCol):
    """Two classes, 0 and 1."""

    _task = "classification"
    _model_class = LogisticRegressionModel

    def _family(self) -> str:
        return "binomial"


@accessible
class LinearRegressionModel(LinearModel):
    """Adds ``prediction``."""


@accessible
class LinearRegression(LinearEstimator):
    """Least squares: one pass over all rows gives the optimum."""

    _model_class = LinearRegressionModel


class _Writer(MLWriter):
    def __init__(self, model: LinearModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        model = self._model
        made = {"coefficients": model.coefficients.toArray().tolist(), "intercept": model.intercept}
        extra = {**made, "history": model.history, "family": model.family}
        DefaultParamsWriter.saveMetadata(model, path, self.sparkSession, extraMetadata=extra)


class _Reader(MLReader[LinearModel]):
    def __init__(self, kind: type[LinearModel]) -> None:
        super().__init__()
        self._kind = kind

    def load(self, path: str) -> LinearModel:
        """Raise `ConfigError` when the folder holds another kind of model."""
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        wanted = f"{self._kind.__module__}.{self._kind.__name__}"
        if metadata["class"] != wanted:
            raise ConfigError(f"{path} holds a {metadata['class']}, not a {wanted}")
        model = self._kind(np.array(metadata["coefficients"]), metadata["intercept"], metadata["history"], metadata["family"])
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
