"""A vector to zero mean and unit standard deviation of the training split; a constant column becomes 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkml.config import Options
from sparkml.features.stage import FeatureStage

if TYPE_CHECKING:
    from pyspark.ml.base import Estimator


class StandardScalerOptions(Options):
    input: str
    output: str = "features"
    with_mean: bool = True
    with_std: bool = True


class StandardScaler(FeatureStage):
    """MLlib's StandardScaler."""

    Options = StandardScalerOptions

    def inputs(self) -> list[str]:
        return [self.options.input]

    def outputs(self) -> list[str]:
        return [self.options.output]

    def build(self, columns: list[str]) -> Estimator[Any]:
        from pyspark.ml.feature import StandardScaler as SparkScaler

        return SparkScaler(
            inputCol=columns[0], outputCol=self.options.output, withMean=self.options.with_mean, withStd=self.options.with_std
        )
