"""A multilayer perceptron for rows of any shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sparkml.config import Options
from sparkml.learners.inputs import Input
from sparkml.learners.net import Net, embedded, head, tensor

if TYPE_CHECKING:
    import keras


class MlpOptions(Options):
    """``hidden`` are the units of each hidden layer, first to last; ``embedding`` the width of each id's vector."""

    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (128, 64)
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)
    embedding: int = Field(16, ge=1, le=4096)


class Mlp(Net):
    """All inputs side by side (ids by their embedding), then dense layers with dropout after each."""

    Options = MlpOptions

    def build(self, inputs: tuple[Input, ...], outputs: int, task: str) -> keras.Model:
        import keras

        symbols = [tensor(item) for item in inputs]
        parts = [flat(item, symbol, self.options.embedding) for item, symbol in zip(inputs, symbols, strict=True)]
        x = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
        for units in self.options.hidden:
            x = keras.layers.Dense(units, activation=self.options.activation)(x)
            if self.options.dropout:
                x = keras.layers.Dropout(self.options.dropout)(x)
        return keras.Model(symbols if len(symbols) > 1 else symbols[0], head(x, outputs, task))


def flat(item: Input, symbol: Any, width: int) -> Any:
    """Return one vector per row: ids by an embedding of `width` numbers, numbers as they are."""
    import keras

    if item.is_ids:
        return embedded(item, symbol, width)
    if len(item.shape) == 1:
        return symbol
    return keras.layers.Flatten()(symbol) if item.shape else keras.layers.Reshape((1,))(symbol)
