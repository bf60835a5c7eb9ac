"""Raw image bytes to a tensor of scaled pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparkml.config import Options
from sparkml.features.stage import FeatureStage

if TYPE_CHECKING:
    from pyspark.ml.base import Transformer


class ImageOptions(Options):
    input: str = "image"
    output: str = "features"
    shape: list[int] = Field(min_length=2, max_length=3, description="height, width[, channels]")
    scale: float = 1 / 255
    offset: float = 0.0


class Image(FeatureStage):
    """Pixels ``* scale + offset``, flattened row-major; nets get the shape back."""

    Options = ImageOptions

    def inputs(self) -> list[str]:
        return [self.options.input]

    def outputs(self) -> list[str]:
        return [self.options.output]

    def build(self, columns: list[str]) -> Transformer:
        from sparkml.features.images import ImageToVector

        options = self.options
        return ImageToVector(
            inputCol=columns[0], outputCol=options.output, shape=options.shape, scale=options.scale, offset=options.offset
        )
