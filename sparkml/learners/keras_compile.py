"""What a model is trained with: its author's loss, metrics and optimizer if it comes compiled, else those of the settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml.errors import ConfigError
from sparkml.learners import keras_file
from sparkml.learners.feed import Layout
from sparkml.learners.inputs import Input, Target
from sparkml.learners.net import tensor
from sparkml.learners.source import ModelSource
from sparkml.learners.training import TrainingOptions
from sparkml.lineage.fingerprint import function_fingerprint, is_function

if TYPE_CHECKING:
    import keras

_LOCATION = frozenset({"mse", "mean_squared_error", "mae", "mean_absolute_error", "huber", "log_cosh", "logcosh"})
_PROBES = 16  # rows that a model is tried on
_ONE_HOT = frozenset(
    {"categorical_crossentropy", "categorical_focal_crossentropy", "categorical_hinge", "kl_divergence"}
    | {"CategoricalCrossentropy", "CategoricalFocalCrossentropy", "CategoricalHinge", "KLDivergence"}
)


class Compiled:
    """A model with its loss and metrics.

    Attributes
    ----------
    model
        Takes the layout's inputs; its outputs are in the labels' own units.
    one_hot
        For each label, whether the loss wants it as one-hot vectors.
    logits
        For each output, whether the model ends there before its softmax or sigmoid, because its loss has it.
    """

    def __init__(
        self,
        model: keras.Model,
        layout: Layout,
        options: TrainingOptions,
        own: dict[str, Any] | None,
        logits: list[bool],
        units: list[int],
    ) -> None:
        self.model, self._layout, self._options, self._own, self.logits = model, layout, options, own, logits
        self.described = "" if own is None else json.dumps([model.get_compile_config(), _functions(own)], default=_name)
        self._losses = [] if own is not None else _losses(layout.targets, options, units, logits)
        wanted = self._losses if own is None else _by_output(own["loss"], model, len(layout.targets))
        self.one_hot = [_wants_one_hot(loss) for loss in wanted]
        self._scaled = own is None and all(
            _is_location(loss, target) for loss, target in zip(wanted, layout.targets, strict=True)
        )

    def start(self, updates_per_epoch: int, size: int) -> None:
        """Compile, once the number of optimizer steps in an epoch is known."""
        if self._own is not None:
            settings = {**self._own, "metrics": None, "weighted_metrics": _joined(self._own)}
        else:
            loss: Any = self._losses if len(self._losses) > 1 else self._losses[0]
            metrics: Any = [_metrics(target, self._options) for target in self._layout.targets]
            settings = {
                "optimizer": optimizer(self._options, updates_per_epoch, size),
                "loss": loss,
                "weighted_metrics": metrics if len(metrics) > 1 else metrics[0],
            }
        # as "weighted" metrics, so that padding has weight zero; rows of the data have weight one
        self.model.compile(**{**settings, "jit_compile": False, "run_eagerly": False})

    def build_metrics(self) -> list[Any]:
        """Create the metrics' variables, which compiled steps may not, and return those that add up over rows and ranks."""
        batch = self._layout.nothing(2)
        output = self.model(self.inputs(batch.inputs), training=False)
        self.loss(output, batch.labels, batch.weights)
        self.model.compute_metrics(None, as_labels(output, batch.labels, self.one_hot), output, batch.counts)
        self.model.reset_metrics()
        return [variable for metric in self.model.metrics for variable in metric.variables if metric.name != "loss"]

    def inputs(self, tensors: Sequence[Any]) -> Any:
        """Return the tensors as the model takes them: one alone, several by name."""
        if len(tensors) == 1:
            return tensors[0]
        return {item.name: tensor for item, tensor in zip(self._layout.inputs, tensors, strict=True)}

    def loss(self, output: Any, labels: Sequence[Any], weights: Any) -> Any:
        """Return the mean over the batch of the weighted loss, without the penalties on the model's weights."""
        import tensorflow as tf

        if self._scaled:
            outputs = [
                (value - target.mean) / target.std for value, target in zip(_flat(output), self._layout.targets, strict=True)
            ]
            labels = [(value - target.mean) / target.std for value, target in zip(labels, self._layout.targets, strict=True)]
            output = tf.nest.pack_sequence_as(output, outputs) if len(outputs) > 1 else outputs[0]
        penalties = self.model.losses
        total = self.model.compute_loss(None, as_labels(output, labels, self.one_hot), output, weights, training=True)
        total = tf.cast(total, tf.float32)
        return total - tf.add_n([tf.cast(tf.reduce_sum(loss), tf.float32) for loss in penalties]) if penalties else total

    def saved(self) -> keras.Model:
        return self.model


def compiled(source: ModelSource, layout: Layout, options: TrainingOptions) -> Compiled:
    """Make the model and check it against the layout. Raises `ConfigError` when they do not fit."""
    model = source.make(layout.inputs, layout.targets)
    keras_file.check_savable(model, source.allow)
    own = dict(model._compile_config.config) if model.compiled else None
    model = _named(model, layout.inputs)
    outputs = _run(model, layout)
    if len(outputs) != len(layout.targets):
        raise ConfigError(
            f"the model has {len(outputs)} outputs, there are {len(layout.targets)} label columns",
            hint="name one label column per output, in the model's order, in labelCols",
        )
    logits = list(source.logits) or [False] * len(outputs)
    if own is not None:
        losses = _by_output(own["loss"], model, len(outputs))
        logits = [known or _has_logits(loss) for known, loss in zip(logits, losses, strict=True)]
    if own is None and not source.trained and _learns_in_units(source, model, layout, options):
        model = _in_units(model, layout.inputs, layout.targets[0])
    for output, target, before in zip(outputs, layout.targets, logits, strict=True):
        _check(output, target, before)
    return Compiled(model, layout, options, own, logits, [output.shape[-1] for output in outputs])


def _named(model: Any, inputs: tuple[Input, ...]) -> Any:
    if len(inputs) == 1 or not getattr(model, "inputs", None):
        return model
    names = [symbol.name for symbol in model.inputs]
    wanted = [item.name for item in inputs]
    if sorted(names) != sorted(wanted):
        raise ConfigError(
            f"the model's inputs are {', '.join(names)}, the columns are {', '.join(wanted)}",
            hint="name them alike: keras.Input(..., name='the column')",
        )
    return model


def _run(model: Any, layout: Layout) -> list[Any]:
    random = np.random.default_rng(0)
    probes = [
        np.zeros((_PROBES, *item.shape), np.int32) if item.is_ids else random.random((_PROBES, *item.shape), np.float32)
        for item in layout.inputs
    ]
    tensors: Any = probes[0]
    if len(probes) > 1:
        tensors = {item.name: value for item, value in zip(layout.inputs, probes, strict=True)}
    try:
        return [np.asarray(value, np.float32) for value in _flat(model(tensors, training=False))]
    except (ValueError, TypeError) as error:
        shapes = ", ".join(f"{item.name} {item.dtype}{item.shape}" for item in layout.inputs)
        raise ConfigError(
            f"the model does not take the features ({shapes} per row): {str(error).strip().splitlines()[0]}",
            hint="set inputShape if rows are flattened tensors",
        ) from None


def _check(output: Any, target: Target, logits: bool) -> None:
    binary = target.task == "classification" and target.outputs == 2 and output.shape == (_PROBES, 1)
    if output.shape != (_PROBES, target.outputs) and not binary:
        raise ConfigError(
            f"the model's output has shape {output.shape[1:]} per row, {target.task} needs ({target.outputs},)",
            hint="the model function is called with (input_shape, outputs, task): use `outputs` for the last layer",
        )
    if target.task != "classification" or logits:
        return
    if binary and (output.min() < 0 or output.max() > 1):
        raise ConfigError("the model's one output is not between 0 and 1", hint="end with a sigmoid, or with one unit per class")
    if not binary and (output.min() < 0 or abs(output.sum(1) - 1).max() > 1e-2):
        raise ConfigError(
            "the model's output does not sum to one per row",
            hint="end with a softmax over the classes, or compile it with a loss that says from_logits=True",
        )


def _learns_in_units(source: ModelSource, model: Any, layout: Layout, options: TrainingOptions) -> bool:
    """Whether the net may learn a standardised label: one number, a loss of differences, and nothing that bounds its output."""
    location = _is_location(options.loss[0] if options.loss else "mse", layout.targets[0])
    return len(layout.targets) == 1 and location and (source.net is not None or _ends_linear(model))


def _ends_linear(model: Any) -> bool:
    """Whether the model's last operation is known to be a dense layer without an activation."""
    import keras

    made = getattr(model, "outputs", None)
    if not made:
        return False
    last = made[0]._keras_history.operation
    if isinstance(last, keras.Model):
        return _ends_linear(last)
    return isinstance(last, keras.layers.Dense) and last.activation is keras.activations.linear


def _in_units(model: Any, inputs: tuple[Input, ...], target: Target) -> Any:
    import keras

    symbols = [tensor(item) for item in inputs]
    output = model(symbols[0] if len(symbols) == 1 else {item.name: symbol for item, symbol in zip(inputs, symbols, strict=True)})
    scaled = keras.layers.Rescaling(target.std, target.mean, dtype="float32")(output)
    return keras.Model(symbols if len(symbols) > 1 else symbols[0], scaled)


def _by_output(loss: Any, model: Any, outputs: int) -> list[Any]:
    """Return an author's losses in the order of the model's outputs."""
    if isinstance(loss, dict):
        made = getattr(model, "output", None)
        return [loss.get(name) for name in (sorted(made) if isinstance(made, dict) else model.output_names)]
    found = list(loss) if isinstance(loss, list | tuple) else [loss] * outputs
    if len(found) != outputs:
        raise ConfigError(f"the model is compiled with {len(found)} losses, it has {outputs} outputs")
    return found


def _functions(value: Any) -> list[str]:
    """Return the fingerprints of an author's own functions (Keras writes down their names alone)."""
    if isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        return [found for item in items for found in _functions(item)]
    return [function_fingerprint(value)] if is_function(value) else []


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", type(value).__name__))


def _losses(targets: Sequence[Target], options: TrainingOptions, units: list[int], logits: list[bool]) -> list[Any]:
    names = options.loss or (None,) * len(targets)
    if len(names) != len(targets):
        raise ConfigError(f"there are {len(names)} losses for {len(targets)} label columns: name one for each, in their order")
    return [
        _default_loss(target, options, unit, before) if name is None else name
        for name, target, unit, before in zip(names, targets, units, logits, strict=True)
    ]


def _default_loss(target: Target, options: TrainingOptions, units: int, logits: bool) -> Any:
    import keras

    if target.task != "classification":
        return "mean_squared_error"
    if units == 1:
        return keras.losses.BinaryCrossentropy(from_logits=logits, label_smoothing=options.label_smoothing)
    if options.label_smoothing:
        return keras.losses.CategoricalCrossentropy(from_logits=logits, label_smoothing=options.label_smoothing)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)


def _metrics(target: Target, options: TrainingOptions) -> list[Any]:
    import keras

    if options.metrics is not None:
        return list(options.metrics)
    return ["accuracy"] if target.task == "classification" else [keras.metrics.RootMeanSquaredError(name="rmse")]


def as_labels(output: Any, labels: Sequence[Any], one_hot: Sequence[bool]) -> Any:
    """Return the labels in the structure of the model's output, shaped and coded as losses and metrics want them."""
    import tensorflow as tf

    shaped = []
    for value, label, hot in zip(_flat(output), labels, one_hot, strict=True):
        if hot:
            label = tf.one_hot(tf.cast(label, tf.int32), value.shape[-1])
        elif len(label.shape) == 1:
            label = tf.expand_dims(label, 1)
        shaped.append(label)
    return shaped[0] if not tf.nest.is_nested(output) else tf.nest.pack_sequence_as(output, shaped)


def _wants_one_hot(loss: Any) -> bool:
    """Return whether a loss compares with one-hot vectors. Raises `ConfigError` for a name that Keras does not know."""
    import keras

    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            raise ConfigError(f"Keras has no loss {loss!r}", hint="see https://keras.io/api/losses/") from None
    return str(getattr(loss, "__name__", type(loss).__name__)) in _ONE_HOT


def _is_location(loss: Any, target: Target) -> bool:
    return target.task == "regression" and isinstance(loss, str) and loss in _LOCATION and target.outputs == 1


def _has_logits(loss: Any) -> bool:
    settings = loss.get_config() if hasattr(loss, "get_config") else {}
    return bool(settings.get("from_logits") or getattr(loss, "_fn_kwargs", {}).get("from_logits"))


def _joined(own: dict[str, Any]) -> Any:
    metrics, weighted = own.get("metrics"), own.get("weighted_metrics")
    if isinstance(metrics, list) and isinstance(weighted, list):
        return [*metrics, *weighted]
    return metrics or weighted


def _flat(value: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(value)) if isinstance(value, list | tuple | dict) else [value]


def optimizer(options: TrainingOptions, updates_per_epoch: int, size: int) -> keras.optimizers.Optimizer:
    """Return the optimizer with its schedule; see `TrainingOptions`."""
    import keras

    rate: Any = options.learning_rate * (size if options.scale_learning_rate else 1)
    warmup = round(options.warmup_epochs * updates_per_epoch)
    if options.schedule == "cosine" or warmup:
        decay = max(1, options.epochs * updates_per_epoch - warmup)
        floor = 0.0 if options.schedule == "cosine" else 1.0  # a decay to 100 % of the peak is a constant
        start = 0.0 if warmup else rate
        rate = keras.optimizers.schedules.CosineDecay(
            start, decay, alpha=floor, warmup_target=rate if warmup else None, warmup_steps=warmup
        )
    extra = dict(options.optimizer_options)
    if options.optimizer == "sgd" and not extra:
        extra = {"momentum": 0.9, "nesterov": True}
    kinds = {name.lower(): kind for name, kind in vars(keras.optimizers).items() if isinstance(kind, type)}
    try:
        return kinds[options.optimizer](rate, **extra)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer_options do not fit {options.optimizer}: {error}") from None
