"""Columns and vectors side by side in one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparkml.config import Options
from sparkml.features.stage import FeatureStage

if TYPE_CHECKING:
    from pyspark.ml.base import Transformer


class AssemblerOptions(Options):
    inputs: list[str] = Field(min_length=1, description="columns, or patterns such as pixel_*")
    output: str = "features"


class Assembler(FeatureStage):
    """MLlib's VectorAssembler; a null or NaN that no stage before filled is an error, never a silent row less."""

    Options = AssemblerOptions

    def inputs(self) -> list[str]:
        return list(self.options.inputs)

    def outputs(self) -> list[str]:
        return [self.options.output]

    def build(self, columns: list[str]) -> Transformer:
        from pyspark.ml.feature import VectorAssembler

        return VectorAssembler(inputCols=columns, outputCol=self.options.output, handleInvalid="error")
