"""Strings to indices, in alphabetical order of the training split; an unseen or missing value gets an index of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from sparkml.config import Options
from sparkml.features.stage import FeatureStage

if TYPE_CHECKING:
    from pyspark.ml.base import Estimator


class IndexerOptions(Options):
    inputs: list[str] = Field(min_length=1)
    suffix: str = "_index"


class Indexer(FeatureStage):
    """MLlib's StringIndexer with ``handleInvalid=keep``: scoring never stops at a category that training did not see."""

    Options = IndexerOptions

    def inputs(self) -> list[str]:
        return list(self.options.inputs)

    def outputs(self) -> list[str]:
        return [f"{name}{self.options.suffix}" for name in self.options.inputs]

    def build(self, columns: list[str]) -> Estimator[Any]:
        from pyspark.ml.feature import StringIndexer

        outputs = [f"{name}{self.options.suffix}" for name in columns]
        return StringIndexer(inputCols=columns, outputCols=outputs, handleInvalid="keep", stringOrderType="alphabetAsc")
