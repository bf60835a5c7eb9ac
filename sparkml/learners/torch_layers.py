"""Layers of the PyTorch nets of `sparkml.learners.torch_zoo`. Imports PyTorch: import it where a net is built."""

from __future__ import annotations

from typing import Any

import torch

from sparkml.learners.inputs import Input


class SideBySide(torch.nn.Module):
    """All inputs as one vector per row: numbers as they are, ids by the mean of their embeddings (0 pads and does not count)."""

    def __init__(self, inputs: tuple[Input, ...], width: int) -> None:
        super().__init__()
        self._inputs = inputs
        ids = [item for item in inputs if item.is_ids]
        self.embeddings = torch.nn.ModuleList(
            torch.nn.Embedding(max(1, item.vocabulary), width, padding_idx=0 if item.shape else None) for item in ids
        )
        self.width = len(ids) * width
        for item in inputs:
            if not item.is_ids:
                self.width += int(torch.Size(item.shape).numel())

    def forward(self, *tensors: Any) -> Any:
        parts, embeddings = [], iter(self.embeddings)
        for item, tensor in zip(self._inputs, tensors, strict=True):
            parts.append(_embedded(item, tensor, next(embeddings)) if item.is_ids else tensor.reshape(tensor.shape[0], -1))
        return torch.cat(parts, 1)


def _embedded(item: Input, ids: Any, embedding: Any) -> Any:
    known = torch.where((ids >= 0) & (ids < embedding.num_embeddings), ids, 0)  # what no training row had is padding
    found = embedding(known)
    if not item.shape:
        return found
    counts = (known != 0).sum(1, keepdim=True).clamp(min=1)
    return found.sum(1) / counts  # the vector of padding is zero and stays so


class Then(torch.nn.Module):
    """A module of several inputs, then one of its output."""

    def __init__(self, first: torch.nn.Module, rest: torch.nn.Module) -> None:
        super().__init__()
        self.first, self.rest = first, rest

    def forward(self, *tensors: Any) -> Any:
        return self.rest(self.first(*tensors))


class ChannelsFirst(torch.nn.Module):
    """Images (rows, height, width, channels), as tables have them, to (rows, channels, height, width)."""

    def forward(self, images: Any) -> Any:
        return images.permute(0, 3, 1, 2)
