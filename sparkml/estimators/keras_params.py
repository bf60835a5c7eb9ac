"""Params that the Keras estimators and their models share."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pyspark.ml.param import Param, Params, TypeConverters

from sparkml.errors import ConfigError
from sparkml.learners.training import TrainingOptions


class HasInputShape(Params):
    """The tensor shape of one row of features."""

    inputShape: Param[Any] = Param(
        Params._dummy(),
        "inputShape",
        "shape of one row of features, which come flattened row-major; by default (length of the vector,)",
        typeConverter=TypeConverters.toListInt,
    )

    def getInputShape(self) -> tuple[int, ...]:
        return tuple(self.getOrDefault(self.inputShape))


class HasTraining(Params):
    """One Param per setting of `TrainingOptions`, in camelCase, so that grids and ``fit(df, {net.epochs: 3})`` reach them."""

    def options(self) -> TrainingOptions:
        """Return the settings of the training. Raises `ConfigError` for values that are not allowed."""
        given = {name: self.getParam(camel(name)) for name in TrainingOptions.model_fields}
        try:
            return TrainingOptions(**{name: self.getOrDefault(param) for name, param in given.items() if self.isSet(param)})
        except ValidationError as error:
            raise ConfigError(f"{type(self).__name__}: {explain(error)}") from None


def camel(name: str) -> str:
    """``batch_size`` -> ``batchSize``, pyspark.ml's way."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def explain(error: ValidationError) -> str:
    """Return every problem of a settings model on one line, in pyspark.ml's names."""
    problems = error.errors(include_url=False)
    return "; ".join(f"{camel('.'.join(map(str, item['loc'])))} = {item['input']!r}: {item['msg']}" for item in problems)


def _add_params() -> None:
    for name, info in TrainingOptions.model_fields.items():
        param: Param[Any] = Param(Params._dummy(), camel(name), f"see TrainingOptions.{name}; default {info.default!r}")
        setattr(HasTraining, camel(name), param)


_add_params()
