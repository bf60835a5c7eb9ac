"""What models of nets share: prediction in Arrow batches, and a file without code beside Spark's own metadata."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from pyspark.ml import Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.param.shared import HasPredictionCol, HasProbabilityCol, HasRawPredictionCol
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import StringType

from sparkml.errors import ConfigError, DataError, StorageError
from sparkml.estimators.keras_params import HasInputs
from sparkml.estimators.materialise import handed_over
from sparkml.learners.inputs import Input, Target
from sparkml.shards.schema import Column, check_finite, to_arrow, to_numpy
from sparkml.storage import Store

_ROWS_AT_ONCE = 512  # an Arrow batch of 10,000 images would need a gigabyte for the first convolution's output


class Loader(Protocol):
    """How a Python worker gets the net from its file; travels there."""

    def __call__(self, body: bytes) -> Callable[[list[Any]], list[Any]]:
        """Return the forward pass: from one array per input to one array per output, rows first."""


class NetModel(Model, HasInputs, HasPredictionCol, MLWritable, MLReadable[Any]):
    """A trained net.

    Attributes
    ----------
    body
        The net's file, which holds no code.
    history
        What `sparkml.learners.loop.train` returned: ``epochs``, ``best_epoch``, ``resumed``, ``restarts``, ...
    signature
        The columns that go in and the targets that come out, as JSON.
    """

    _file: ClassVar[str]

    def __init__(self, body: bytes = b"", history: dict[str, Any] | None = None, signature: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.body, self.history, self.signature = body, history or {}, signature or {}

    @abstractmethod
    def _loader(self) -> Loader: ...

    @abstractmethod
    def _layers(self) -> str:
        """Return the net's layers as text that ends with a line break."""

    def summary(self) -> str:
        """Return the layers, and how the training went, as text."""
        text = self._layers()
        epochs = self.history.get("epochs", [])
        if epochs:
            last = {name: value for name, value in epochs[-1].items() if isinstance(value, int | float)}
            shown = ", ".join(f"{name} {last[name]:.4g}" for name in last if not name.endswith("_share") and name != "epoch")
            text += f"trained for {len(epochs)} epochs on {len(self.history['ranks'])} ranks; the last: {shown}\n"
            text += f"best epoch {self.history['best_epoch']}; {len(self.history.get('restarts', []))} restarts\n"
        return text

    def targets(self) -> tuple[Target, ...]:
        """Return what the outputs are, the first label first."""
        return tuple(Target(**item) for item in self.signature["targets"])

    def _columns(self) -> list[Column]:
        """Return how the inputs are fed, under the names that they have in the frame to be transformed."""
        trained = [Column.model_validate(item) for item in self.signature["columns"]]
        return [column.model_copy(update={"name": name}) for column, name in zip(trained, self.input_names(), strict=True)]

    def _predicted(self, dataset: DataFrame) -> SparkColumn:
        """Return the column of all outputs, side by side: class probabilities (or scores), or numbers."""
        columns = self._columns()
        for column in columns:
            if column.name not in dataset.columns:
                raise DataError(f"there is no column {column.name!r}, only {', '.join(dataset.columns)}", hint="set featuresCol")
            if isinstance(dataset.schema[column.name].dataType, StringType):
                raise DataError(f"column {column.name!r} holds strings, the model takes numbers")
        inputs = [Input(**{**item, "shape": tuple(item["shape"])}) for item in self.signature["inputs"]]
        forward = _Forward(self.body, columns, inputs, self.targets(), self.signature["logits"], self._loader())
        predict = arrow_udf(forward.udf(), "array<double>")  # type: ignore[call-overload]
        return predict(*(handed_over(dataset, column) for column in columns))  # type: ignore[no-any-return]

    def _transform(self, dataset: DataFrame) -> DataFrame:
        outputs = f"__outputs of {self.uid}"
        made = dataset.withColumn(outputs, self._predicted(dataset))
        added: dict[str, SparkColumn] = {}
        metadata: dict[str, dict[str, Any]] = {}
        start = 1
        for at, target in enumerate(self.targets()):
            values = F.slice(F.col(f"`{outputs}`"), start, target.outputs)
            start += target.outputs
            self._add(at, target, values, added, metadata)
        for name in added:
            if name in dataset.columns:
                raise DataError(f"there is a column {name!r} already", hint="drop it, or name the model's output columns anew")
        made = made.withColumns(added).drop(outputs)
        for name, facts in metadata.items():
            made = made.withMetadata(name, {"ml_attr": facts})
        return made

    def _add(
        self, at: int, target: Target, values: SparkColumn, added: dict[str, SparkColumn], metadata: dict[str, dict[str, Any]]
    ) -> None:
        if target.task == "classification":
            vals = self.signature["labels"] if at == 0 else []
            facts = {"type": "nominal", "num_vals": target.outputs, **({"vals": vals} if len(vals) == target.outputs else {})}
            best = F.array_position(values, F.array_max(values)).cast("double") - 1.0
            self._put("predictionCol", at, best, facts, added, metadata)
        else:
            made = values[0].cast("double") if target.outputs == 1 else array_to_vector(values)
            self._put("predictionCol", at, made, {}, added, metadata)

    def _put(
        self,
        param: str,
        at: int,
        column: SparkColumn,
        facts: dict[str, Any],
        added: dict[str, SparkColumn],
        metadata: dict[str, dict[str, Any]],
    ) -> None:
        """Add an output column, unless its name is empty. Raises `ConfigError` when another output has that name."""
        name = str(self.getOrDefault(param))
        if not name:
            return
        if at:  # labels after the first have theirs at its end
            name = f"{name}_{self.targets()[at].column}"
        if name in added:
            raise ConfigError(f"two output columns are named {name!r}", hint=f"set {param} to another name, or to '' for none")
        added[name] = column
        if facts:
            metadata[name] = facts

    def write(self) -> MLWriter:
        return _Writer(self)


class Classifies(NetModel, HasProbabilityCol, HasRawPredictionCol):
    """Adds ``prediction`` (double, the class index), ``probability`` and ``rawPrediction`` (Vectors, one entry per class).

    ``rawPrediction`` is the logarithm of the probability: the score before the softmax, up to a constant per row. An output
    column whose name is set to "" is left out.
    """

    def _add(
        self, at: int, target: Target, values: SparkColumn, added: dict[str, SparkColumn], metadata: dict[str, dict[str, Any]]
    ) -> None:
        if target.task == "classification":
            raw = F.transform(values, lambda value: F.log(F.greatest(value, F.lit(1e-300))))
            for param, column in (("rawPredictionCol", raw), ("probabilityCol", values)):
                self._put(param, at, array_to_vector(column), {"num_attrs": target.outputs}, added, metadata)
        super()._add(at, target, values, added, metadata)


_nets: dict[str, Callable[[list[Any]], list[Any]]] = {}


class _Forward:
    """The forward pass as a function of Arrow columns; travels to the Python workers."""

    def __init__(
        self,
        body: bytes,
        columns: list[Column],
        inputs: list[Input],
        targets: tuple[Target, ...],
        logits: list[bool],
        load: Loader,
    ) -> None:
        self._body, self._columns, self._inputs, self._targets = body, columns, inputs, targets
        self._logits, self._load = logits, load
        self._digest = hashlib.sha256(body).hexdigest()

    def udf(self) -> Callable[..., Any]:
        if len(self._columns) == 1:

            def alone(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
                for batch in batches:
                    yield self._outputs([batch])

            alone.__annotations__ = {"batches": Iterator[pa.Array], "return": Iterator[pa.Array]}  # types, not their names
            return alone

        def several(batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
            for batch in batches:
                yield self._outputs(list(batch))

        several.__annotations__ = {"batches": Iterator[tuple[pa.Array, ...]], "return": Iterator[pa.Array]}
        return several

    def _outputs(self, arrays: list[pa.Array]) -> pa.Array:
        forward = self._loaded()
        stored = []
        for array, column in zip(arrays, self._columns, strict=True):
            if array.null_count:
                raise ValueError(f"column {column.name!r} has {array.null_count} null values: a net takes none")
            stored.append(to_arrow(array, column))
            check_finite(stored[-1], column)
        rows, found = len(arrays[0]), []
        for at in range(0, rows, _ROWS_AT_ONCE):
            tensors = []
            for array, column, item in zip(stored, self._columns, self._inputs, strict=True):
                values = to_numpy(array.slice(at, _ROWS_AT_ONCE), column).astype(item.dtype, copy=False)
                tensors.append(values.reshape(-1, *item.shape))
            found.append(self._side_by_side(forward(tensors)))
        width = sum(target.outputs for target in self._targets)
        flat = np.concatenate(found).astype(np.float64, copy=False) if found else np.zeros((0, width))
        return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * width, flat.ravel())

    def _loaded(self) -> Callable[[list[Any]], list[Any]]:
        """Return the forward pass, loaded once per Python worker process."""
        if self._digest not in _nets:
            forward = self._load(self._body)
            _nets.clear()  # workers are reused for as long as the application runs
            _nets[self._digest] = forward
        return _nets[self._digest]

    def _side_by_side(self, outputs: list[Any]) -> np.ndarray[Any, Any]:
        parts = []
        for output, target, logits in zip(outputs, self._targets, self._logits, strict=True):
            values = np.asarray(output, np.float64)
            parts.append(_probabilities(values, logits) if target.task == "classification" else values)
        return np.concatenate(parts, axis=1)


def _probabilities(values: np.ndarray[Any, Any], logits: bool) -> np.ndarray[Any, Any]:
    if values.shape[1] == 1:  # one sigmoid unit
        positive = 1.0 / (1.0 + np.exp(-values)) if logits else values
        return np.concatenate([1.0 - positive, positive], axis=1)
    if logits:
        scores = np.exp(values - values.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
    return values


class _Writer(MLWriter):
    def __init__(self, model: NetModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        extra = {
            "history": self._model.history,
            "signature": self._model.signature,
            "sha256": hashlib.sha256(self._model.body).hexdigest(),
        }
        Store(path).replace(self._model._file, self._model.body)
        DefaultParamsWriter.saveMetadata(self._model, path, self.sparkSession, extraMetadata=extra)


class NetReader(MLReader[NetModel]):
    """Reads what `NetModel.write` wrote."""

    def __init__(self, kind: type[NetModel]) -> None:
        super().__init__()
        self._kind = kind

    @abstractmethod
    def check(self, body: bytes, where: str) -> None:
        """Raise `StorageError` for a file that is damaged or not safe to load; `where` is its URL."""

    def make(self, body: bytes, metadata: dict[str, Any]) -> NetModel:
        return self._kind(body, metadata["history"], metadata["signature"])

    def load(self, path: str) -> NetModel:
        """Raise `StorageError` when the folder holds no safe file of a net, `ConfigError` when it is another kind of model."""
        body = Store(path).read(self._kind._file)
        self.check(body, f"{path}/{self._kind._file}")  # refused here rather than in a task
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        wanted = f"{self._kind.__module__}.{self._kind.__name__}"
        if metadata["class"] != wanted:
            raise ConfigError(f"{path} holds a {metadata['class']}, not a {wanted}")
        if hashlib.sha256(body).hexdigest() != metadata["sha256"]:
            raise StorageError(
                f"{path}/{self._kind._file} is not the file that was saved with this model", hint="save the model again"
            )
        model = self.make(body, metadata)
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
