"""Models that `sparkml.estimators.keras` trains: prediction in Arrow batches, saved as ``.keras`` beside Spark's own metadata."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

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
from sparkml.estimators.keras_params import HasColumns, accessible
from sparkml.estimators.materialise import handed_over
from sparkml.learners import keras_file
from sparkml.learners.inputs import Input, Target
from sparkml.shards.schema import Column, check_finite, to_arrow, to_numpy
from sparkml.storage import Store

if TYPE_CHECKING:
    import keras

_FILE = "model.keras"
_ROWS_AT_ONCE = 512  # an Arrow batch of 10,000 images would need a gigabyte for the first convolution's output


class KerasModel(Model, HasColumns, HasPredictionCol, MLWritable, MLReadable[Any]):
    """What both kinds of model share.

    Attributes
    ----------
    body
        The ``.keras`` file.
    history
        What `sparkml.learners.loop.train` returned: ``epochs``, ``best_epoch``, ``resumed``, ``restarts``, ...
    signature
        The columns that go in and the targets that come out, as JSON.
    allow
        Layers beside Keras's own that the file may hold. Never saved: whoever loads a model says anew whom to trust.
    """

    def __init__(
        self,
        body: bytes = b"",
        history: dict[str, Any] | None = None,
        signature: dict[str, Any] | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.body, self.history, self.signature, self.allow = body, history or {}, signature or {}, allow

    def keras(self) -> keras.Model:
        """Return the trained Keras model."""
        return keras_file.load(self.body, self.uid, allow=self.allow)

    def summary(self) -> str:
        """Return the layers, and how the training went, as text."""
        out = io.StringIO()
        self.keras().summary(print_fn=lambda line: out.write(line + "\n"))
        epochs = self.history.get("epochs", [])
        if epochs:
            last = {name: value for name, value in epochs[-1].items() if isinstance(value, int | float)}
            shown = ", ".join(f"{name} {last[name]:.4g}" for name in last if not name.endswith("_share") and name != "epoch")
            out.write(f"trained for {len(epochs)} epochs on {len(self.history['ranks'])} ranks; the last: {shown}\n")
            out.write(f"best epoch {self.history['best_epoch']}; {len(self.history.get('restarts', []))} restarts\n")
        return out.getvalue()

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
        forward = _Forward(self.body, columns, inputs, self.targets(), self.signature["logits"], self.allow)
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

    @classmethod
    def read(cls) -> _Reader:
        return _Reader(cls)

    @classmethod
    def load(cls, path: str, allow: tuple[str, ...] = ()) -> Any:
        """Load a saved model. `allow` names layers other than Keras's own that it may hold: they can run their author's code."""
        return cls.read().allow(*allow).load(path)


@accessible
class KerasClassificationModel(KerasModel, HasProbabilityCol, HasRawPredictionCol):
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


@accessible
class KerasRegressionModel(KerasModel):
    """Adds ``prediction``: a double, or a Vector for a label that is one."""


class _Forward:
    """The forward pass as a function of Arrow columns; travels to the Python workers."""

    def __init__(
        self,
        body: bytes,
        columns: list[Column],
        inputs: list[Input],
        targets: tuple[Target, ...],
        logits: list[bool],
        allow: tuple[str, ...],
    ) -> None:
        self._body, self._columns, self._inputs, self._targets = body, columns, inputs, targets
        self._logits, self._allow = logits, allow
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
        model = _loaded(self._digest, lambda: keras_file.load(self._body, "the broadcast model", allow=self._allow))
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
            made = model(
                tensors[0] if len(tensors) == 1 else {item.name: one for item, one in zip(self._inputs, tensors, strict=True)}
            )
            found.append(self._side_by_side(made))
        width = sum(target.outputs for target in self._targets)
        flat = np.concatenate(found).astype(np.float64, copy=False) if found else np.zeros((0, width))
        return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * width, flat.ravel())

    def _side_by_side(self, made: Any) -> np.ndarray[Any, Any]:
        if isinstance(made, dict):
            made = [made[name] for name in sorted(made)]  # in the order in which training took them
        outputs = made if isinstance(made, list | tuple) else [made]
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


_models: dict[str, Any] = {}


def _loaded(digest: str, load: Callable[[], Any]) -> Any:
    """Return the compiled forward pass, loaded once per Python worker process."""
    if digest not in _models:
        # Spark runs one Python worker per core: each computes on its own
        os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")
        import tensorflow as tf

        model = load()
        _models.clear()  # workers are reused for as long as the application runs
        _models[digest] = tf.function(lambda x: model(x, training=False), reduce_retracing=True, autograph=False)
    return _models[digest]


class _Writer(MLWriter):
    def __init__(self, model: KerasModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        extra = {
            "history": self._model.history,
            "signature": self._model.signature,
            "sha256": hashlib.sha256(self._model.body).hexdigest(),
        }
        Store(path).replace(_FILE, self._model.body)
        DefaultParamsWriter.saveMetadata(self._model, path, self.sparkSession, extraMetadata=extra)


class _Reader(MLReader[KerasModel]):
    def __init__(self, kind: type[KerasModel]) -> None:
        super().__init__()
        self._kind = kind
        self._allow: tuple[str, ...] = ()

    def allow(self, *names: str) -> _Reader:
        """Trust these layers, though they can run their author's code (``"Lambda"``, ``"my_package.MyLayer"``)."""
        self._allow = names
        return self

    def load(self, path: str) -> KerasModel:
        """Raise `StorageError` when the folder holds no safe ``.keras`` file, `ConfigError` when it is another kind of model."""
        body = Store(path).read(_FILE)
        keras_file.check(body, f"{path}/{_FILE}", self._allow)  # refused here rather than in a task
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        wanted = f"{self._kind.__module__}.{self._kind.__name__}"
        if metadata["class"] != wanted:
            raise ConfigError(f"{path} holds a {metadata['class']}, not a {wanted}")
        if hashlib.sha256(body).hexdigest() != metadata["sha256"]:
            raise StorageError(f"{path}/{_FILE} is not the file that was saved with this model", hint="save the model again")
        model = self._kind(body, metadata["history"], metadata["signature"], self._allow)
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
