"""`ModelSource`: where a net comes from - the zoo, a user's function, or a ``.keras`` file with its weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sparkml import plugins
from sparkml.config import explain
from sparkml.errors import ConfigError
from sparkml.learners import keras_file
from sparkml.learners.inputs import Input, Target
from sparkml.learners.net import Net
from sparkml.storage import Store

if TYPE_CHECKING:
    import keras

Build = Callable[..., Any]


@dataclass(frozen=True)
class ModelSource:
    """Exactly one of `net`, `function` and `body` (the bytes of a ``.keras`` file) is given.

    Attributes
    ----------
    allow
        Names of classes outside Keras's own layers, or of ``Lambda``, that the model may hold.
    logits
        For each output, whether the file's model ends there before its softmax or sigmoid; empty: nowhere.
    """

    net: Net | None = None
    function: Build | None = None
    body: bytes | None = None
    allow: tuple[str, ...] = ()
    logits: tuple[bool, ...] = ()

    def make(self, inputs: tuple[Input, ...], targets: tuple[Target, ...]) -> keras.Model:
        """Return the model, compiled if its author compiled it. Raises `ConfigError` for what is no Keras model."""
        import keras

        first = targets[0]
        if self.net is not None:
            if len(targets) > 1:
                raise ConfigError("a net of the zoo has one output", hint="give a function or a .keras file for several labels")
            try:
                model: Any = self.net.build(inputs, first.outputs, first.task)
            except ValueError as error:  # Keras names inputs and layers in one space, and some characters are its own
                names = ", ".join(item.name for item in inputs)
                raise ConfigError(f"the net cannot be made of columns {names}: {error}", hint="give them other names") from None
        elif self.function is not None:
            model = called(self.function, inputs, first)
        else:
            assert self.body is not None
            model = keras_file.load(self.body, "the model's file", allow=self.allow, compile=True)
        if not isinstance(model, keras.Model):
            raise ConfigError(f"the model function must return a keras.Model, it returned {type(model).__name__}")
        return model

    @property
    def trained(self) -> bool:
        """Whether the model brings weights, in the units of its label."""
        return self.body is not None

    def described(self) -> dict[str, Any]:
        """Return the source as JSON, for a saved estimator. Raises `ConfigError` for a function, which is code."""
        if self.net is not None:
            return {"type": self.net.plugin_name(), **self.net.options.model_dump(mode="json", exclude_unset=True)}
        raise ConfigError(
            "an estimator whose model is a Python function cannot be saved: saved files hold no code",
            hint="give a name of the zoo or a .keras file, or save the fitted model",
        )


def source_of(model: Any, allow: tuple[str, ...] = ()) -> ModelSource:
    """Return the source for what a user may give as ``model``; see `sparkml.estimators.keras.KerasEstimator`."""
    if isinstance(model, ModelSource):
        return model
    if isinstance(model, str) and model.endswith((".keras", ".h5", ".hdf5")):
        folder, _, name = model.rpartition("/")
        body = Store(folder or ".").read(name)
        keras_file.check(body, model, allow)
        return ModelSource(body=body, allow=allow)
    if isinstance(model, str):
        model = {"type": model}
    if isinstance(model, Mapping):
        plugin = plugins.load("learners.zoo", str(model.get("type")))
        try:
            model = plugin(plugin.Options(**{key: value for key, value in model.items() if key != "type"}))
        except ValidationError as error:
            raise ConfigError(f"model {plugin.plugin_name()}: {explain(error)}") from None
    if isinstance(model, Net):
        return ModelSource(net=model)
    fitted = getattr(model, "body", None)  # a model that an estimator of ours has fitted
    if isinstance(fitted, bytes):
        logits = tuple(getattr(model, "signature", {}).get("logits", ()))
        return ModelSource(body=fitted, allow=tuple({*allow, *getattr(model, "allow", ())}), logits=logits)
    if _is_keras_model(model):
        keras_file.check_savable(model, allow)
        return ModelSource(body=keras_file.dump(model, compiled=True), allow=allow)
    if not callable(model):
        raise ConfigError(
            f"model must be a name, a mapping, a .keras file, a model or a function, it is a {type(model).__name__}"
        )
    return ModelSource(function=model, allow=allow)


def _is_keras_model(value: Any) -> bool:
    return any(kind.__module__.startswith("keras.") and kind.__name__ == "Model" for kind in type(value).__mro__)


def called(function: Build, inputs: tuple[Input, ...], target: Target) -> Any:
    """Call a user's function with (input_shape, outputs, task), or without arguments if it takes none."""
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if not needed:
        return function()
    if len(needed) != 3:
        names = ", ".join(parameter.name for parameter in needed)
        raise ConfigError(f"the model function takes ({names}); it must take nothing, or (input_shape, outputs, task)")
    alone = len(inputs) == 1 and not inputs[0].is_ids
    return function(inputs[0].shape if alone else inputs, target.outputs, target.task)
