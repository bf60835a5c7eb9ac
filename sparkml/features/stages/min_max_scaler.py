"""A vector to the range [low, high] of the training split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkml.config import Options
from sparkml.features.stage import FeatureStage

if TYPE_CHECKING:
    from pyspark.ml.base import Estimator


class MinMaxScalerOptions(Options):
    input: str
    output: str = "features"
    low: float = 0.0
    high: float = 1.0


class MinMaxScaler(FeatureStage):
    """MLlib's MinMaxScaler; a constant column becomes the middle of the range."""

    Options = MinMaxScalerOptions

    def inputs(self) -> list[str]:
        return [self.options.input]

    def outputs(self) -> list[str]:
        return [self.options.output]

    def build(self, columns: list[str]) -> Estimator[Any]:
        from pyspark.ml.feature import MinMaxScaler as SparkScaler

        return SparkScaler(inputCol=columns[0], outputCol=self.options.output, min=self.options.low, max=self.options.high)
