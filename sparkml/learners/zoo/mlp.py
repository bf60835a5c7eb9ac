"""A multilayer perceptron for rows of any shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sparkml.config import Options
from sparkml.learners.net import Net

if TYPE_CHECKING:
    import keras


class MlpOptions(Options):
    """``hidden`` are the units of each hidden layer, first to last."""

    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (128, 64)
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)


class Mlp(Net):
    """Dense layers with dropout after each."""

    Options = MlpOptions

    def build(self, input_shape: tuple[int, ...], outputs: int, task: str) -> keras.Model:
        import keras

        inputs = keras.Input(input_shape)
        x = keras.layers.Flatten()(inputs) if len(input_shape) > 1 else inputs
        for units in self.options.hidden:
            x = keras.layers.Dense(units, activation=self.options.activation)(x)
            if self.options.dropout:
                x = keras.layers.Dropout(self.options.dropout)(x)
        last = "softmax" if task == "classification" else "linear"
        return keras.Model(inputs, keras.layers.Dense(outputs, activation=last)(x))
