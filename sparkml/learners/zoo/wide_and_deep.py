"""Wide and deep learning for tables with ids: a linear model that memorises beside a net that generalises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sparkml.config import Options
from sparkml.learners.inputs import Input
from sparkml.learners.net import Net, embedded, tensor
from sparkml.learners.zoo.mlp import flat

if TYPE_CHECKING:
    import keras


class WideAndDeepOptions(Options):
    """``hidden`` units of the deep side's layers, ``embedding`` the width of each id's vector there, ``l2`` on the wide side."""

    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field((128, 64), min_length=1)
    embedding: int = Field(16, ge=1, le=4096)
    dropout: float = Field(0.0, ge=0, lt=1)
    l2: float = Field(0.0, ge=0)


class WideAndDeep(Net):
    """Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016 (arXiv:1606.07792).

    The wide side is linear in the numbers and has one weight per id and output; its sum with the deep side's last layer goes
    into the softmax.
    """

    Options = WideAndDeepOptions

    def build(self, inputs: tuple[Input, ...], outputs: int, task: str) -> keras.Model:
        import keras

        symbols = [tensor(item) for item in inputs]
        pairs = list(zip(inputs, symbols, strict=True))
        deep = [flat(item, symbol, self.options.embedding) for item, symbol in pairs]
        x = keras.layers.Concatenate()(deep) if len(deep) > 1 else deep[0]
        for units in self.options.hidden:
            x = keras.layers.Dense(units, activation="relu")(x)
            if self.options.dropout:
                x = keras.layers.Dropout(self.options.dropout)(x)
        sides = [keras.layers.Dense(outputs)(x)]
        penalty = keras.regularizers.L2(self.options.l2) if self.options.l2 else None
        numbers = [flat(item, symbol, 0) for item, symbol in pairs if not item.is_ids]
        if numbers:
            wide = keras.layers.Concatenate()(numbers) if len(numbers) > 1 else numbers[0]
            sides.append(keras.layers.Dense(outputs, use_bias=False, kernel_regularizer=penalty)(wide))
        sides += [embedded(item, symbol, outputs) for item, symbol in pairs if item.is_ids]
        scores = keras.layers.Add()(sides) if len(sides) > 1 else sides[0]
        last = keras.layers.Activation("softmax" if task == "classification" else "linear", dtype="float32")
        return keras.Model(symbols if len(symbols) > 1 else symbols[0], last(scores))
