"""`Net`: a ready-made Keras architecture, one file each in `sparkml.learners.zoo`."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from sparkml.plugins import Plugin

if TYPE_CHECKING:
    import keras


class Net(Plugin):
    """An architecture with typed options."""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], outputs: int, task: str) -> keras.Model:
        """Return an uncompiled model from ``(batch, *input_shape)`` float32 to ``(batch, outputs)``.

        For ``classification`` the last layer is a softmax over the `outputs` classes, for ``regression`` it is linear.
        Raises `ConfigError` when the architecture cannot take `input_shape`.
        """
