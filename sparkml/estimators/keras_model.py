"""Models that `sparkml.estimators.keras` trains: prediction in Arrow batches, saved as ``.keras`` beside Spark's own metadata."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.ml import Model
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.ml.param.shared import HasFeaturesCol, HasPredictionCol, HasProbabilityCol
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import DoubleType

from sparkml.errors import ConfigError, DataError
from sparkml.estimators.keras_params import HasInputShape
from sparkml.learners import keras_file
from sparkml.storage import Store

if TYPE_CHECKING:
    import keras

_FILE = "model.keras"
_ROWS_AT_ONCE = 512  # an Arrow batch of 10,000 images would need a gigabyte for the first convolution's output


class KerasModel(Model, HasFeaturesCol, HasPredictionCol, HasInputShape, MLWritable, MLReadable[Any]):
    """What both kinds of model share. `body` is the ``.keras`` file, `history` what `sparkml.learners.loop.train` returned."""

    def __init__(self, body: bytes = b"", history: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.body = body
        self.history = history or {}

    def keras(self) -> keras.Model:
        """Return the trained Keras model."""
        return keras_file.load(self.body, self.uid)

    def _outputs(self, dataset: DataFrame) -> tuple[Any, Any]:
        """Return the UDF that runs the model and the column of flat arrays that it takes."""
        features = self.getFeaturesCol()
        if features not in dataset.columns:
            raise DataError(f"there is no column {features!r}, only {', '.join(dataset.columns)}", hint="set featuresCol")
        kind = dataset.schema[features].dataType
        column = F.col(f"`{features}`")
        flat = vector_to_array(column, "float32") if isinstance(kind, VectorUDT) else column.cast("array<float>")
        predict = arrow_udf(_predictor(self.body, self.getInputShape()), "array<double>")  # type: ignore[call-overload]
        return predict, flat

    def write(self) -> MLWriter:
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[Any]:
        return _Reader(cls)


class KerasClassificationModel(KerasModel, HasProbabilityCol):
    """Adds ``prediction`` (double, the class index) and ``probability`` (Vector, one entry per class)."""

    def _transform(self, dataset: DataFrame) -> DataFrame:
        predict, flat = self._outputs(dataset)
        made = dataset.withColumn("__outputs", predict(flat))
        best = F.array_position("__outputs", F.array_max("__outputs")).cast("double") - 1.0
        added = {self.getProbabilityCol(): array_to_vector(F.col("__outputs")), self.getPredictionCol(): best}
        return made.withColumns(added).drop("__outputs")


class KerasRegressionModel(KerasModel):
    """Adds ``prediction`` (double, in the label's units)."""

    def _transform(self, dataset: DataFrame) -> DataFrame:
        predict, flat = self._outputs(dataset)
        return dataset.withColumn(self.getPredictionCol(), predict(flat)[0].cast(DoubleType()))


def _predictor(body: bytes, shape: tuple[int, ...]) -> Callable[[Iterator[pa.Array]], Iterator[pa.Array]]:
    digest = hashlib.sha256(body).hexdigest()
    length = int(np.prod(shape))

    def predict(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        model = _loaded(digest, lambda: body)
        for batch in batches:
            flat = batch.flatten().to_numpy(zero_copy_only=False)
            if batch.null_count or len(flat) != len(batch) * length:
                raise ValueError(f"features must be {length} numbers per row (shape {shape}), never null")
            rows = flat.reshape(-1, *shape)
            found = [np.asarray(model(rows[at : at + _ROWS_AT_ONCE])) for at in range(0, len(rows), _ROWS_AT_ONCE)]
            output = np.concatenate(found).astype(np.float64) if found else np.zeros((0, 1))
            offsets = np.arange(len(rows) + 1, dtype=np.int32) * output.shape[1]
            yield pa.ListArray.from_arrays(offsets, output.ravel())

    predict.__annotations__ = {"batches": Iterator[pa.Array], "return": Iterator[pa.Array]}  # arrow_udf wants types, not strings
    return predict


_models: dict[str, Any] = {}


def _loaded(digest: str, body: Callable[[], bytes]) -> Any:
    """Return the compiled forward pass, loaded once per Python worker process."""
    if digest not in _models:
        # Spark runs one Python worker per core: each computes on its own
        os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")
        import tensorflow as tf

        model = keras_file.load(body(), "the broadcast model")
        signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)]
        _models.clear()  # workers are reused for as long as the application runs
        _models[digest] = tf.function(lambda x: model(x, training=False), input_signature=signature)
    return _models[digest]


class _Writer(MLWriter):
    def __init__(self, model: KerasModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        extra = {"history": self._model.history, "sha256": hashlib.sha256(self._model.body).hexdigest()}
        Store(path).replace(_FILE, self._model.body)
        DefaultParamsWriter.saveMetadata(self._model, path, self.sparkSession, extraMetadata=extra)


class _Reader(MLReader[KerasModel]):
    def __init__(self, kind: type[KerasModel]) -> None:
        super().__init__()
        self._kind = kind

    def load(self, path: str) -> KerasModel:
        """Raise `StorageError` when the folder holds no safe ``.keras`` file, `ConfigError` when it is another kind of model."""
        body = Store(path).read(_FILE)
        keras_file.check(body, f"{path}/{_FILE}")  # refused here rather than in a task
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        wanted = f"{self._kind.__module__}.{self._kind.__name__}"
        if metadata["class"] != wanted:
            raise ConfigError(f"{path} holds a {metadata['class']}, not a {wanted}")
        model = self._kind(body, metadata["history"])
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
