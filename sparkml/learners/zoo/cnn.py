"""A small convolutional net for images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sparkml.config import Options
from sparkml.learners.inputs import Input
from sparkml.learners.net import Net, head, only, tensor

if TYPE_CHECKING:
    import keras


class CnnOptions(Options):
    """``filters`` of each block (convolution, ReLU, 2 x 2 max-pooling), then one hidden layer of ``dense`` units."""

    filters: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field((32, 64), min_length=1)
    kernel: int = Field(3, ge=1, le=11)
    dense: int = Field(128, ge=1, le=65536)
    dropout: float = Field(0.25, ge=0, lt=1)


class Cnn(Net):
    """Convolution blocks without padding, pooled, then a dense head. 225,034 parameters for 28 x 28 x 1 and ten classes."""

    Options = CnnOptions

    def build(self, inputs: tuple[Input, ...], outputs: int, task: str) -> keras.Model:
        import keras

        image = only(
            inputs, "cnn", 3, "images of shape (height, width, channels)", "use the mlp, or add the image stage to features"
        )
        first = x = tensor(image)
        for filters in self.options.filters:
            # small images would lose most of themselves with their border
            padding = "valid" if min(x.shape[1], x.shape[2]) > 4 * self.options.kernel else "same"
            x = keras.layers.Conv2D(filters, self.options.kernel, padding=padding, activation="relu")(x)
            x = keras.layers.MaxPooling2D(2)(x) if min(x.shape[1], x.shape[2]) >= 2 else x
        x = keras.layers.Flatten()(x)
        x = keras.layers.Dense(self.options.dense, activation="relu")(x)
        if self.options.dropout:
            x = keras.layers.Dropout(self.options.dropout)(x)
        return keras.Model(first, head(x, outputs, task))
