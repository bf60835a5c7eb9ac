"""How fitted linear models are saved: as JSON like MLlib's metadata, many coefficients in Parquet beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWriter

from sparkml.errors import ConfigError
from sparkml.learners.linear.methods import MOST_COEFFICIENTS

if TYPE_CHECKING:
    from sparkml.estimators.linear_model import LinearModel

_PIECE = 1 << 16  # coefficients of one row of Parquet


class LinearWriter(MLWriter):
    """Writes a model, up to `MOST_COEFFICIENTS` into its metadata, more into ``data``."""

    def __init__(self, model: LinearModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        model, spark = self._model, self.sparkSession
        each = model.coefficientMatrix.toArray()
        few = each.size <= MOST_COEFFICIENTS
        extra = {
            "coefficients": each.tolist() if few else list(each.shape),
            "intercept": model.interceptVector.toArray().tolist(),
            "names": model.names,
            "history": model.history,
        }
        DefaultParamsWriter.saveMetadata(model, path, spark, extraMetadata=extra)
        if not few:
            flat = each.ravel()
            pieces = [flat[start : start + _PIECE] for start in range(0, len(flat), _PIECE)]
            table = pa.table(
                {"piece": pa.array(range(len(pieces)), pa.int32()), "values": pa.array(pieces, pa.list_(pa.float64()))}
            )
            spark.createDataFrame(table).coalesce(1).write.parquet(f"{path}/data")


class LinearReader(MLReader["LinearModel"]):
    """Reads what `LinearWriter` wrote."""

    def __init__(self, kind: type[LinearModel]) -> None:
        super().__init__()
        self._kind = kind

    def load(self, path: str) -> LinearModel:
        """Raise `ConfigError` when the folder holds another kind of model."""
        metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        wanted = f"{self._kind.__module__}.{self._kind.__name__}"
        if metadata["class"] != wanted:
            raise ConfigError(f"{path} holds a {metadata['class']}, not a {wanted}")
        coefficients: Any = np.array(metadata["coefficients"])
        if coefficients.ndim == 1:  # their shape
            pieces = self.sparkSession.read.parquet(f"{path}/data").toArrow().sort_by("piece")
            coefficients = pieces["values"].combine_chunks().flatten().to_numpy().reshape(coefficients)
        model = self._kind(coefficients, *(metadata[name] for name in ("intercept", "names", "history")))
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
