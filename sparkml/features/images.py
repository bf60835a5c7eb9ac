"""`ImageToVector`: raw image bytes to a scaled vector, as a Spark ML transformer that saves its parameters and no code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from pyspark import keyword_only
from pyspark.ml import Transformer
from pyspark.ml.functions import array_to_vector
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf


class ImageToVector(Transformer, HasInputCol, HasOutputCol, DefaultParamsReadable["ImageToVector"], DefaultParamsWritable):
    """Binary column of uint8 pixels, row-major, to a dense vector of ``pixel * scale + offset``.

    Rows whose length is not the product of `shape` raise, naming the length.
    """

    shape: Param[list[int]] = Param(Params._dummy(), "shape", "height, width, channels", TypeConverters.toListInt)
    scale: Param[float] = Param(Params._dummy(), "scale", "factor per pixel", TypeConverters.toFloat)
    offset: Param[float] = Param(Params._dummy(), "offset", "added after scaling", TypeConverters.toFloat)

    @keyword_only
    def __init__(
        self,
        *,
        inputCol: str | None = None,
        outputCol: str | None = None,
        shape: list[int] | None = None,
        scale: float | None = None,
        offset: float | None = None,
    ) -> None:
        super().__init__()
        self._setDefault(scale=1 / 255, offset=0.0)
        self._set(**self._input_kwargs)  # type: ignore[attr-defined]

    def _transform(self, dataset: DataFrame) -> DataFrame:
        shape, scale, offset = self.getOrDefault(self.shape), self.getOrDefault(self.scale), self.getOrDefault(self.offset)

        @pandas_udf("array<float>")  # type: ignore[call-overload]
        def unpack(blocks: Iterator[pd.Series]) -> Iterator[pd.Series]:
            import numpy as np

            wanted = int(np.prod(shape))
            for block in blocks:
                sizes = block.str.len()
                if (sizes != wanted).any():
                    raise ValueError(f"an image has {sizes[sizes != wanted].iloc[0]} bytes, the shape {shape} needs {wanted}")
                pixels = np.frombuffer(b"".join(block), np.uint8).reshape(len(block), wanted)
                yield pd.Series(list(pixels.astype(np.float32) * np.float32(scale) + np.float32(offset)))

        vector: Any = array_to_vector(unpack(F.col(self.getInputCol())).cast("array<double>"))
        return dataset.withColumn(self.getOutputCol(), vector)
