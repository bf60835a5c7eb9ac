"""Where a PyTorch net comes from: `TorchNet`, one file each in `sparkml.learners.torch_zoo`, or a user's function."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sparkml import plugins
from sparkml.config import explain
from sparkml.errors import ConfigError
from sparkml.learners.inputs import Input, Target
from sparkml.learners.source import called
from sparkml.plugins import Plugin

if TYPE_CHECKING:
    import torch


class TorchNet(Plugin):
    """An architecture with typed options, which are those of the Keras net of the same name."""

    requires = {"torch": "torch"}

    @abstractmethod
    def build(self, inputs: tuple[Input, ...], outputs: int, task: str) -> torch.nn.Module:
        """Return a module that takes one tensor per input, in their order, and returns ``(rows, outputs)``: logits, or numbers.

        Raises `ConfigError` when the architecture cannot take these inputs.
        """


@dataclass(frozen=True)
class TorchSource:
    """Exactly one of `net` and `function` is given."""

    net: TorchNet | None = None
    function: Callable[..., Any] | None = None

    def make(self, inputs: tuple[Input, ...], target: Target) -> torch.nn.Module:
        """Return the module. Raises `ConfigError` for what is none."""
        import torch

        if self.net is not None:
            return self.net.build(inputs, target.outputs, target.task)
        assert self.function is not None
        module = called(self.function, inputs, target)
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(f"the model function must return a torch.nn.Module, it returned {type(module).__name__}")
        return module

    def described(self) -> dict[str, Any]:
        """Return the source as JSON, for a saved estimator. Raises `ConfigError` for a function, which is code."""
        if self.net is not None:
            return {"type": self.net.plugin_name(), **self.net.options.model_dump(mode="json", exclude_unset=True)}
        raise ConfigError(
            "an estimator whose model is a Python function cannot be saved: saved files hold no code",
            hint="give a name of the zoo, or save the fitted model",
        )


def torch_source_of(model: Any) -> TorchSource:
    """Return the source for what a user may give as ``model``; see `sparkml.estimators.torch.TorchEstimator`."""
    if isinstance(model, str):
        model = {"type": model}
    if isinstance(model, Mapping):
        plugin = plugins.load("learners.torch_zoo", str(model.get("type")))
        try:
            model = plugin(plugin.Options(**{key: value for key, value in model.items() if key != "type"}))
        except ValidationError as error:
            raise ConfigError(f"model {plugin.plugin_name()}: {explain(error)}") from None
    if isinstance(model, TorchNet):
        return TorchSource(net=model)
    if not callable(model) or any(kind.__module__.startswith("torch.nn.") for kind in type(model).__mro__):
        raise ConfigError(
            f"model must be a name, a mapping, or a function that returns a torch.nn.Module, it is a {type(model).__name__}",
            hint="every rank builds the module anew: model=lambda input_shape, outputs, task: Module(...)",
        )
    return TorchSource(function=model)
