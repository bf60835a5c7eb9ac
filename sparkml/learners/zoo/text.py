"""A convolutional net for texts, given as sequences of token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sparkml.config import Options
from sparkml.errors import ConfigError
from sparkml.learners.inputs import Input
from sparkml.learners.net import Net, head, known, tensor

if TYPE_CHECKING:
    import keras


class TextOptions(Options):
    """``kernels``: widths of the convolutions in tokens, each with ``filters`` outputs; ``vocabulary``: by default the data's."""

    embedding: int = Field(64, ge=1, le=4096)
    kernels: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field((3, 4, 5), min_length=1)
    filters: int = Field(64, ge=1, le=4096)
    dropout: float = Field(0.5, ge=0, lt=1)
    vocabulary: int | None = Field(None, ge=2)


class Text(Net):
    """Embedding, convolutions of several widths, maximum over time, softmax.

    Kim, "Convolutional Neural Networks for Sentence Classification", 2014 (arXiv:1408.5882).
    """

    Options = TextOptions

    def build(self, inputs: tuple[Input, ...], outputs: int, task: str) -> keras.Model:
        import keras

        if len(inputs) != 1 or not inputs[0].is_ids or len(inputs[0].shape) != 1:
            found = ", ".join(f"{item.name} {item.dtype}{item.shape}" for item in inputs)
            raise ConfigError(
                f"the text net takes one column of token ids, the features are {found}",
                hint="give an array<int> column: 0 is padding, tokens count from 1",
            )
        tokens = tensor(inputs[0])
        size = self.options.vocabulary or max(2, inputs[0].vocabulary)
        x = keras.layers.Embedding(size, self.options.embedding)(known(tokens, size))
        convolved = [
            keras.layers.Conv1D(self.options.filters, width, padding="same", activation="relu")(x)
            for width in self.options.kernels
        ]
        pooled = [keras.layers.GlobalMaxPooling1D()(part) for part in convolved]
        y = keras.layers.Concatenate()(pooled) if len(pooled) > 1 else pooled[0]
        if self.options.dropout:
            y = keras.layers.Dropout(self.options.dropout)(y)
        return keras.Model(tokens, head(y, outputs, task))
