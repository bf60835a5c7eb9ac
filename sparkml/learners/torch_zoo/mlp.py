"""A multilayer perceptron for rows of any shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkml.learners.inputs import Input
from sparkml.learners.torch_net import TorchNet
from sparkml.learners.zoo.mlp import MlpOptions

if TYPE_CHECKING:
    import torch

_ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh"}


class Mlp(TorchNet):
    """All inputs side by side (ids by their embedding), then dense layers with dropout after each."""

    Options = MlpOptions

    def build(self, inputs: tuple[Input, ...], outputs: int, task: str) -> torch.nn.Module:
        from torch import nn

        from sparkml.learners.torch_layers import SideBySide, Then

        first = SideBySide(inputs, self.options.embedding)
        layers: list[nn.Module] = []
        width = first.width
        for units in self.options.hidden:
            layers += [nn.Linear(width, units), getattr(nn, _ACTIVATIONS[self.options.activation])()]
            if self.options.dropout:
                layers.append(nn.Dropout(self.options.dropout))
            width = units
        return Then(first, nn.Sequential(*layers, nn.Linear(width, outputs)))
