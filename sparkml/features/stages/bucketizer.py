"""A number to the index of the range it falls into."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from sparkml.config import Options
from sparkml.features.stage import FeatureStage

if TYPE_CHECKING:
    from pyspark.ml.base import Transformer


class BucketizerOptions(Options):
    input: str
    output: str
    edges: list[float] = Field(min_length=1, description="inner edges, ascending; the outer ones are infinite")

    @field_validator("edges")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if any(low >= high for low, high in pairwise(value)):
            raise ValueError("must be ascending")
        return value


class Bucketizer(FeatureStage):
    """MLlib's Bucketizer; a missing value gets a bucket of its own."""

    Options = BucketizerOptions

    def inputs(self) -> list[str]:
        return [self.options.input]

    def outputs(self) -> list[str]:
        return [self.options.output]

    def build(self, columns: list[str]) -> Transformer:
        from pyspark.ml.feature import Bucketizer as SparkBucketizer

        splits = [float("-inf"), *self.options.edges, float("inf")]
        return SparkBucketizer(splits=splits, inputCol=columns[0], outputCol=self.options.output, handleInvalid="keep")
