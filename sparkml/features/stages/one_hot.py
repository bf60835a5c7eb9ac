"""Indices to indicator vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from sparkml.config import Options
from sparkml.features.stage import FeatureStage

if TYPE_CHECKING:
    from pyspark.ml.base import Estimator


class OneHotOptions(Options):
    inputs: list[str] = Field(min_length=1)
    suffix: str = Field("_onehot", description="replaces the indexer's _index")
    drop_last: bool = False


class OneHot(FeatureStage):
    """MLlib's OneHotEncoder; ``city_index`` becomes ``city_onehot``."""

    Options = OneHotOptions

    def inputs(self) -> list[str]:
        return list(self.options.inputs)

    def outputs(self) -> list[str]:
        return [self._name(column) for column in self.options.inputs]

    def build(self, columns: list[str]) -> Estimator[Any]:
        from pyspark.ml.feature import OneHotEncoder

        outputs = [self._name(column) for column in columns]
        return OneHotEncoder(inputCols=columns, outputCols=outputs, handleInvalid="keep", dropLast=self.options.drop_last)

    def _name(self, column: str) -> str:
        return f"{column.removesuffix('_index')}{self.options.suffix}"
