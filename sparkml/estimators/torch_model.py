"""Models that `sparkml.estimators.torch` trains; saved as `sparkml.learners.torch_file` says, and why so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparkml.estimators.keras_params import accessible
from sparkml.estimators.net_model import Classifies, Loader, NetModel, NetReader
from sparkml.learners import torch_file
from sparkml.plugins import need


class TorchModel(NetModel):
    """What both kinds of model share."""

    _file = "model.npz"

    def torch(self) -> torch_file.Graph:
        """Return the trained net as a function of one tensor per input; it gives logits, or numbers in the label's units."""
        need("torch", "torch", type(self).__name__)
        return torch_file.load(self.body, self.uid)

    def _layers(self) -> str:
        return f"{self.signature['layers']}\n{self.history['parameters']:,} parameters\n"

    def _loader(self) -> Loader:
        return _load

    @classmethod
    def read(cls) -> _Reader:
        return _Reader(cls)


@accessible
class TorchClassificationModel(TorchModel, Classifies):
    __doc__ = Classifies.__doc__


@accessible
class TorchRegressionModel(TorchModel):
    """Adds ``prediction``: a double, or a Vector for a label that is one."""


def _load(body: bytes) -> Callable[[list[Any]], list[Any]]:
    import torch

    torch.set_num_threads(1)  # Spark runs one Python worker per core: each computes on its own
    graph = torch_file.load(body, "the broadcast model")

    def forward(tensors: list[Any]) -> list[Any]:
        with torch.no_grad():
            return [graph(*(torch.tensor(values) for values in tensors)).numpy()]  # Arrow's own memory is read-only

    return forward


class _Reader(NetReader):
    def check(self, body: bytes, where: str) -> None:
        need("torch", "torch", self._kind.__name__)
        torch_file.load(body, where)
