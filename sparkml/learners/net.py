"""`Net`: a ready-made Keras architecture, one file each in `sparkml.learners.zoo`."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from sparkml.errors import ConfigError
from sparkml.learners.inputs import Input
from sparkml.plugins import Plugin

if TYPE_CHECKING:
    import keras


class Net(Plugin):
    """An architecture with typed options."""

    @abstractmethod
    def build(self, inputs: tuple[Input, ...], outputs: int, task: str) -> keras.Model:
        """Return an uncompiled model of the named inputs, with ``(batch, outputs)`` as its output.

        For ``classification`` the last layer is a softmax over the `outputs` classes, for ``regression`` it is linear.
        Raises `ConfigError` when the architecture cannot take these inputs.
        """


def tensor(item: Input) -> Any:
    """Return the symbolic tensor of an input, under its own name."""
    import keras

    return keras.Input(item.shape, name=item.name, dtype=item.dtype)


def head(features: Any, outputs: int, task: str) -> Any:
    """Return the last layer's output: class probabilities, or numbers. Always float32, whatever the precision before it."""
    import keras

    last = "softmax" if task == "classification" else "linear"
    return keras.layers.Dense(outputs, activation=last, dtype="float32")(features)


def only(inputs: tuple[Input, ...], who: str, dims: int, what: str, hint: str) -> Input:
    """Return the one input of numbers with `dims` dimensions that the architecture takes, or raise `ConfigError`."""
    if len(inputs) == 1 and not inputs[0].is_ids and len(inputs[0].shape) == dims:
        return inputs[0]
    found = ", ".join(f"{item.name} {item.dtype}{item.shape}" for item in inputs)
    raise ConfigError(f"the {who} takes {what}, the features are {found}", hint=hint)


def embedded(item: Input, symbol: Any, width: int) -> Any:
    """Return one vector of `width` numbers per row of ids: their embedding, averaged over a sequence without its padding."""
    import keras

    found = keras.layers.Embedding(max(1, item.vocabulary), width, mask_zero=bool(item.shape))(known(symbol, item.vocabulary))
    return keras.layers.GlobalAveragePooling1D()(found) if item.shape else found


def known(ids: Any, vocabulary: int) -> Any:
    """Return the ids, those outside the vocabulary as 0: what no training row had is padding, not an error."""
    import keras

    return keras.ops.where(keras.ops.logical_and(ids >= 0, ids < max(1, vocabulary)), ids, 0)
