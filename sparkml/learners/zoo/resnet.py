"""A residual net for images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from sparkml.config import Options
from sparkml.learners.inputs import Input
from sparkml.learners.net import Net, head, only, tensor

if TYPE_CHECKING:
    import keras


class ResnetOptions(Options):
    """``filters`` of each stage, ``blocks`` residual blocks per stage; every stage after the first halves the image."""

    filters: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field((16, 32, 64), min_length=1)
    blocks: int = Field(3, ge=1, le=64)
    dropout: float = Field(0.0, ge=0, lt=1)


class Resnet(Net):
    """Pre-activation residual blocks of two 3 x 3 convolutions, global average pooling, one dense layer.

    He et al., "Identity Mappings in Deep Residual Networks", 2016 (arXiv:1603.05027); three stages of three blocks are their
    20-layer net for small images.
    """

    Options = ResnetOptions

    def build(self, inputs: tuple[Input, ...], outputs: int, task: str) -> keras.Model:
        import keras

        image = only(
            inputs, "resnet", 3, "images of shape (height, width, channels)", "use the mlp, or add the image stage to features"
        )
        first = tensor(image)
        x: Any = keras.layers.Conv2D(self.options.filters[0], 3, padding="same", use_bias=False)(first)
        for stage, filters in enumerate(self.options.filters):
            for block in range(self.options.blocks):
                x = _block(x, filters, stride=2 if stage and not block else 1)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.GlobalAveragePooling2D()(x)
        if self.options.dropout:
            x = keras.layers.Dropout(self.options.dropout)(x)
        return keras.Model(first, head(x, outputs, task))


def _block(x: Any, filters: int, stride: int) -> Any:
    from keras import layers

    before = layers.ReLU()(layers.BatchNormalization()(x))
    same = stride == 1 and x.shape[-1] == filters
    shortcut = x if same else layers.Conv2D(filters, 1, strides=stride, padding="same", use_bias=False)(before)
    y = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(before)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
    return layers.Add()([y, shortcut])
