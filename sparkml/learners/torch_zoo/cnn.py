"""A small convolutional net for images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkml.learners.inputs import Input
from sparkml.learners.net import only
from sparkml.learners.torch_net import TorchNet
from sparkml.learners.zoo.cnn import CnnOptions

if TYPE_CHECKING:
    import torch


class Cnn(TorchNet):
    """Convolution blocks without padding, pooled, then a dense head; the Keras net of the same name, layer by layer."""

    Options = CnnOptions

    def build(self, inputs: tuple[Input, ...], outputs: int, task: str) -> torch.nn.Module:
        from torch import nn

        from sparkml.learners.torch_layers import ChannelsFirst

        image = only(inputs, "cnn", 3, "images of shape (height, width, channels)", "use the mlp, or set inputShape")
        height, width, channels = image.shape
        kernel = self.options.kernel
        layers: list[nn.Module] = [ChannelsFirst()]
        for filters in self.options.filters:
            # small images would lose most of themselves with their border
            bare = min(height, width) > 4 * kernel
            layers += [nn.Conv2d(channels, filters, kernel, padding="valid" if bare else "same"), nn.ReLU()]
            height, width, channels = (height - kernel + 1, width - kernel + 1, filters) if bare else (height, width, filters)
            if min(height, width) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        layers += [nn.Flatten(), nn.Linear(height * width * channels, self.options.dense), nn.ReLU()]
        if self.options.dropout:
            layers.append(nn.Dropout(self.options.dropout))
        return nn.Sequential(*layers, nn.Linear(self.options.dense, outputs))
