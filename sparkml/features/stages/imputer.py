"""Fills gaps in numeric columns with the training split's mean, median or mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sparkml.config import Options
from sparkml.features.stage import FeatureStage

if TYPE_CHECKING:
    from pyspark.ml.base import Estimator


class ImputerOptions(Options):
    inputs: list[str] = Field(min_length=1)
    strategy: Literal["mean", "median", "mode"] = "median"


class Imputer(FeatureStage):
    """Null and NaN become the statistic of the column; the columns keep their names."""

    Options = ImputerOptions

    def inputs(self) -> list[str]:
        return list(self.options.inputs)

    def outputs(self) -> list[str]:
        return list(self.options.inputs)

    def build(self, columns: list[str]) -> Estimator[Any]:
        from pyspark.ml.feature import Imputer as SparkImputer

        return SparkImputer(inputCols=columns, outputCols=columns, strategy=self.options.strategy)
