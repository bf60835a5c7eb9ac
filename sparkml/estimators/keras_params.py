"""Params that estimators of nets and their models share, and those of Keras."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasFeaturesCol, HasInputCols, HasLabelCol

from sparkml.config import Options, explain, suggest
from sparkml.errors import ConfigError
from sparkml.launch.options import GangOptions
from sparkml.learners.training import TrainingOptions
from sparkml.storage import Store

_Kind = TypeVar("_Kind", bound=type[Params])


class HasInputs(HasFeaturesCol, HasInputCols, HasLabelCol):
    """Which columns go in, and which one is learnt."""

    inputShape: Param[Any] = Param(
        Params._dummy(),
        "inputShape",
        "shape of one row of featuresCol, which comes flattened row-major; by default (length of the vector,)",
        typeConverter=TypeConverters.toListInt,
    )
    maxLength: Param[Any] = Param(
        Params._dummy(),
        "maxLength",
        "ids kept of a sequence, the rest is cut off; by default the longest of the training rows",
        typeConverter=TypeConverters.toInt,
    )

    def input_names(self) -> list[str]:
        """Return the columns that the net takes: `inputCols`, or `featuresCol` alone."""
        return list(self.getInputCols()) if self.isDefined(self.inputCols) else [self.getFeaturesCol()]

    def label_names(self) -> list[str]:
        """Return the label columns, one per output of the net."""
        return [self.getLabelCol()]


class HasColumns(HasInputs):
    """The same with several labels."""

    labelCols: Param[Any] = Param(
        Params._dummy(),
        "labelCols",
        "label columns of a model with several outputs, in the model's order; instead of labelCol",
        typeConverter=TypeConverters.toListString,
    )

    def label_names(self) -> list[str]:
        """Return the label columns, one per output of the net."""
        return list(self.getOrDefault(self.labelCols)) if self.isDefined(self.labelCols) else [self.getLabelCol()]


class HasCheckpoints(Params):
    """Where a fit keeps what it can go on from."""

    checkpointDir: Param[Any] = Param(
        Params._dummy(),
        "checkpointDir",
        "URL of a folder that all ranks reach, for checkpoints (a fit goes on from them) and shards; by default one below "
        "./.sparkml that is removed after the fit",
        typeConverter=TypeConverters.toString,
    )

    def _chosen(self, name: str) -> Any:
        param = self.getParam(name)
        return self.getOrDefault(param) if self.isDefined(param) else None

    @contextlib.contextmanager
    def _store(self) -> Iterator[Store]:
        """Give the place for shards and checkpoints: the user's, or one that is removed afterwards."""
        folder = self._chosen("checkpointDir")
        if folder is not None:
            yield Store(folder)
            return
        store = Store(f".sparkml/_fit/{uuid.uuid4().hex[:16]}")
        try:
            yield store
        finally:
            store.remove("")
            for parent in (".sparkml/_fit", ".sparkml"):
                with contextlib.suppress(OSError):  # another fit's, or a run's
                    os.rmdir(parent)


class HasGang(HasCheckpoints):
    """One Param per setting of `GangOptions`, in camelCase, and the folders."""

    logDir: Param[Any] = Param(
        Params._dummy(),
        "logDir",
        "local folder on the driver for rank-N.log and timeline.json",
        typeConverter=TypeConverters.toString,
    )

    def gang_options(self) -> GangOptions:
        """Return where and how the ranks run. Raises `ConfigError` for values that are not allowed."""
        return validated(self, GangOptions)  # type: ignore[no-any-return]


class HasClassWeight(Params):
    """What errors on each class cost."""

    classWeight: Param[Any] = Param(
        Params._dummy(), "classWeight", "'balanced', or a factor per class for the loss: a list, or a mapping by class index"
    )

    def class_weight(self) -> str | dict[int, float] | None:
        """Return ``balanced``, or factors by class index. Raises `ConfigError` for anything else."""
        given = self.getOrDefault(self.classWeight) if self.isDefined(self.classWeight) else None
        if given is None or given == "balanced":
            return given  # type: ignore[no-any-return]
        items = dict(enumerate(given)) if isinstance(given, Sequence) and not isinstance(given, str) else given
        try:
            factors = {int(label): float(factor) for label, factor in items.items()} if isinstance(items, Mapping) else {}
        except (TypeError, ValueError):
            factors = {}
        if not factors or not all(label >= 0 and 0 <= factor < float("inf") for label, factor in factors.items()):
            raise ConfigError(
                f"classWeight = {given!r}: must be 'balanced', a list, or a mapping of class index to a factor >= 0"
            )
        return factors


class HasTraining(HasClassWeight):
    """One Param per setting of `TrainingOptions`, in camelCase, so that grids and ``fit(df, {net.epochs: 3})`` reach them."""

    def options(self) -> TrainingOptions:
        """Return the settings of the training. Raises `ConfigError` for values that are not allowed."""
        return validated(self, TrainingOptions)  # type: ignore[no-any-return]


def refuse_unknown(params: Params, given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a name that is none of the Params, with the one that was meant."""
    for name in given:
        if not params.hasParam(name):
            known = sorted(param.name for param in params.params)
            raise ConfigError(f"{type(params).__name__} has no parameter {name!r}; {suggest(name, known)}")


def camel(name: str) -> str:
    """``batch_size`` -> ``batchSize``, pyspark.ml's way."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def accessible(kind: _Kind) -> _Kind:
    """Give an estimator or model ``setX`` and ``getX`` for each of its Params, as pyspark.ml's own have, and ``setParams``."""
    for name in [name for name in dir(kind) if isinstance(getattr(kind, name, None), Param)]:
        upper = name[0].upper() + name[1:]
        for method, function in ((f"set{upper}", _setter(name)), (f"get{upper}", _getter(name))):
            if not hasattr(kind, method):
                function.__name__ = method
                setattr(kind, method, function)
    return kind


def defaults(model: type[Options]) -> dict[str, Any]:
    """Return the defaults of a settings model by Param."""
    return {camel(name): info.default for name, info in model.model_fields.items()}


def _setter(name: str) -> Callable[..., Any]:
    def set_it(self: Any, value: Any) -> Any:
        return self._set(**{name: value})

    set_it.__doc__ = f"Set `{name}` and return self."
    return set_it


def _getter(name: str) -> Callable[..., Any]:
    def get_it(self: Any) -> Any:
        return self.getOrDefault(name)

    get_it.__doc__ = f"Return `{name}` or its default."
    return get_it


def validated(params: Params, model: type[Any]) -> Any:
    """Return the settings that the Params hold. Raises `ConfigError` for values that are not allowed."""
    given = {name: params.getParam(camel(name)) for name in model.model_fields}
    try:
        return model(**{name: params.getOrDefault(param) for name, param in given.items() if params.isSet(param)})
    except ValidationError as error:
        raise ConfigError(f"{type(params).__name__}: {explain(error, camel)}") from None


def _plain(whole: bool) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if type(value).__module__ == "numpy" and hasattr(value, "item"):
            value = value.item()
        return int(value) if whole and isinstance(value, float) and value.is_integer() else value

    return convert


def _documented(model: type[Options]) -> dict[str, str]:
    """Return what the docstrings of the model and its bases say about each attribute, on one line."""
    found: dict[str, str] = {}
    names: list[str] = []
    texts = [kind.__doc__ or "" for kind in reversed(model.__mro__) if issubclass(kind, Options) and "__doc__" in vars(kind)]
    for line in "\n".join(text.partition("----------\n")[2] for text in texts).splitlines():
        if re.fullmatch(r"    [a-z_]+(?:, [a-z_]+)*", line):
            names = [name.strip() for name in line.split(",")]
        elif line.strip():
            for name in names:
                found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


def add_params(kind: type[Params], model: type[Options]) -> None:
    """Give a class of Params one Param per setting of a model, in camelCase, documented as there."""
    texts = _documented(model)
    for name, info in model.model_fields.items():
        convert = _plain(whole="int" in str(info.annotation) and "float" not in str(info.annotation))
        setattr(kind, camel(name), Param(Params._dummy(), camel(name), texts[name], typeConverter=convert))


add_params(HasTraining, TrainingOptions)
add_params(HasGang, GangOptions)
