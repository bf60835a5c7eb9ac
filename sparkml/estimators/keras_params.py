"""Params that the Keras estimators and their models share."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasFeaturesCol, HasInputCols, HasLabelCol

from sparkml.config import explain
from sparkml.errors import ConfigError
from sparkml.learners.training import TrainingOptions


def _same(value: Any) -> Any:
    return value


def _param(name: str, doc: str, kind: Any = _same) -> Param[Any]:
    return Param(Params._dummy(), name, doc, typeConverter=kind)


class HasColumns(HasFeaturesCol, HasInputCols, HasLabelCol):
    """Which columns go in, and which are learnt."""

    inputShape = _param(
        "inputShape",
        "shape of one row of featuresCol, which comes flattened row-major; by default (length of the vector,)",
        TypeConverters.toListInt,
    )
    labelCols = _param(
        "labelCols",
        "label columns of a model with several outputs, in the model's order; instead of labelCol",
        TypeConverters.toListString,
    )
    maxLength = _param(
        "maxLength",
        "ids kept of a sequence, the rest is cut off; by default the longest of the training rows",
        TypeConverters.toInt,
    )

    def input_names(self) -> list[str]:
        """Return the columns that the net takes: `inputCols`, or `featuresCol` alone."""
        return list(self.getInputCols()) if self.isDefined(self.inputCols) else [self.getFeaturesCol()]

    def label_names(self) -> list[str]:
        """Return the label columns, one per output of the net."""
        return list(self.getOrDefault(self.labelCols)) if self.isDefined(self.labelCols) else [self.getLabelCol()]


class HasGang(Params):
    """Where and how the ranks run."""

    numProc = _param("numProc", "number of ranks; by default one per slot of the cluster", TypeConverters.toInt)
    minProc = _param(
        "minProc", "go on with as few ranks as this when slots are missing; by default numProc", TypeConverters.toInt
    )
    maxRestarts = _param(
        "maxRestarts", "how often a gang that lost a rank starts again from its last checkpoint; default 2", TypeConverters.toInt
    )
    stallTimeout = _param(
        "stallTimeout", "seconds after which ranks without progress count as hanging; default 300", TypeConverters.toFloat
    )
    cpusPerRank = _param("cpusPerRank", "cores per rank; by default spark.task.cpus", TypeConverters.toInt)
    gpusPerRank = _param("gpusPerRank", "GPUs per rank, by Spark's resource scheduling; default 0", TypeConverters.toInt)
    checkpointDir = _param(
        "checkpointDir",
        "URL of a folder that all ranks reach, for checkpoints (a fit goes on from them) and for the shards; "
        "by default a folder below ./.sparkml that is removed after the fit",
        TypeConverters.toString,
    )
    logDir = _param("logDir", "local folder on the driver for rank-N.log and timeline.json", TypeConverters.toString)
    timeline = _param("timeline", "write Horovod's trace of all collectives to logDir", TypeConverters.toBoolean)
    shuffleBytes = _param("shuffleBytes", "buffer in which a rank shuffles rows; default 256 MiB", TypeConverters.toInt)


class HasTraining(Params):
    """One Param per setting of `TrainingOptions`, in camelCase, so that grids and ``fit(df, {net.epochs: 3})`` reach them."""

    classWeight = _param("classWeight", "'balanced', or a factor per class for the loss: a list, or a mapping by class index")

    def options(self) -> TrainingOptions:
        """Return the settings of the training. Raises `ConfigError` for values that are not allowed."""
        given = {name: self.getParam(camel(name)) for name in TrainingOptions.model_fields}
        try:
            return TrainingOptions(**{name: self.getOrDefault(param) for name, param in given.items() if self.isSet(param)})
        except ValidationError as error:
            raise ConfigError(f"{type(self).__name__}: {explain(error, camel)}") from None


def camel(name: str) -> str:
    """``batch_size`` -> ``batchSize``, pyspark.ml's way."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _add_params() -> None:
    for name, info in TrainingOptions.model_fields.items():
        setattr(HasTraining, camel(name), _param(camel(name), f"see TrainingOptions.{name}; default {info.default!r}"))


_add_params()
