"""What estimators of nets share: their Params, what they say about the columns, where a fit keeps its files, persistence."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

from pyspark.ml import Estimator
from pyspark.ml.param.shared import HasPredictionCol, HasSeed, HasValidationIndicatorCol, HasWeightCol
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter

from sparkml.errors import ConfigError
from sparkml.estimators.keras_data import Asked
from sparkml.estimators.keras_params import HasCheckpoints, HasClassWeight, HasInputs, refuse_unknown
from sparkml.estimators.net_model import NetModel
from sparkml.launch.options import RankOptions
from sparkml.learners.training import NetOptions
from sparkml.storage import Store

_Model = TypeVar("_Model", bound=NetModel)


class NetEstimator(
    Estimator[Any],
    HasInputs,
    HasPredictionCol,
    HasValidationIndicatorCol,
    HasWeightCol,
    HasSeed,
    HasCheckpoints,
    HasClassWeight,
    MLWritable,
    MLReadable[Any],
):
    """An estimator of a net. It is made as ``Kind(model=...)``; `_file` is the name of a saved model's file, if it has one."""

    _task: ClassVar[str]
    _file: ClassVar[str] = ""

    def _start(self, params: dict[str, Any]) -> None:
        """Take the Params that were given. Raises `ConfigError` for names and values that are not allowed."""
        self._setDefault(seed=7)
        refuse_unknown(self, params)
        self.setParams(**params)

    @abstractmethod
    def options(self) -> NetOptions: ...

    @abstractmethod
    def gang_options(self) -> RankOptions: ...

    @abstractmethod
    def _saved(self) -> tuple[Any, bytes | None]:
        """Return the model as JSON, or as the bytes of its file. Raises `ConfigError` for one that is code."""

    def setParams(self, **params: Any) -> NetEstimator:
        """Set Params by name. Raises `ConfigError` for values that are not allowed."""
        self._set(**{name: value for name, value in params.items() if value is not None})
        options, _, _ = self.options(), self.gang_options(), self.class_weight()
        if options.label_smoothing and self._task == "regression":
            raise ConfigError(f"{type(self).__name__}: labelSmoothing is for classification")
        for name in ("numClasses", "maxLength"):
            if self.hasParam(name) and (self._chosen(name) or 1) < 1:
                raise ConfigError(f"{type(self).__name__}: {name} = {self._chosen(name)}: must be 1 or more")
        return self

    def _asked(self) -> Asked:
        weight = self.getOrDefault(self.weightCol) if self.isDefined(self.weightCol) else None
        held_out = self.getValidationIndicatorCol() if self.isDefined(self.validationIndicatorCol) else None
        shape = self._chosen("inputShape")
        if shape is not None and len(self.input_names()) > 1:
            raise ConfigError("inputShape is for featuresCol alone", hint="several inputs have the shapes of their columns")
        return Asked(
            inputs=self.input_names(),
            labels=self.label_names(),
            weight=weight,
            validation=held_out,
            task=self._task,
            shape=None if shape is None else tuple(shape),
            longest=self._chosen("maxLength"),
            classes=self._chosen("numClasses") if self.hasParam("numClasses") else None,
        )

    def _trained(self, model: _Model) -> _Model:
        """Return a new model with the Params and the uid of this estimator."""
        model._resetUid(self.uid)
        return self._copyValues(model)  # type: ignore[no-any-return]

    def write(self) -> MLWriter:
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[Any]:
        return NetEstimatorReader(cls)


class _Writer(MLWriter):
    def __init__(self, estimator: NetEstimator) -> None:
        super().__init__()
        self._estimator = estimator

    def saveImpl(self, path: str) -> None:
        described, body = self._estimator._saved()
        if body is not None:
            Store(path).replace(self._estimator._file, body)
            described = self._estimator._file
        DefaultParamsWriter.saveMetadata(self._estimator, path, self.sparkSession, extraMetadata={"model": described})


class NetEstimatorReader(MLReader[NetEstimator]):
    """Reads what `NetEstimator.write` wrote."""

    def __init__(self, kind: type[NetEstimator]) -> None:
        super().__init__()
        self._kind = kind

    def make(self, model: Any) -> NetEstimator:
        kind: Any = self._kind
        return kind(model=model)  # type: ignore[no-any-return]

    def load(self, path: str) -> NetEstimator:
        """Raise `ConfigError` when the folder holds something else, `StorageError` when its model could run code."""
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        wanted = f"{self._kind.__module__}.{self._kind.__name__}"
        if metadata["class"] != wanted:
            raise ConfigError(f"{path} holds a {metadata['class']}, not a {wanted}")
        model = metadata["model"]
        estimator = self.make(f"{path}/{model}" if model == self._kind._file else model)
        estimator._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(estimator, metadata)
        return estimator
