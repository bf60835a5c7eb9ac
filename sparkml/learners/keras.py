"""`KerasLearner`: a Keras 3 model trained by compiled steps, whatever its inputs, outputs, loss and metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml.learners.callbacks import Callbacks
from sparkml.learners.checkpoint import Arrays
from sparkml.learners.feed import Batch, Layout
from sparkml.learners.keras_compile import Compiled, as_labels, compiled
from sparkml.learners.source import ModelSource
from sparkml.learners.strategy import Strategy
from sparkml.learners.training import TrainingOptions

if TYPE_CHECKING:
    import keras

_SPARSE_ELEMENTS = 1 << 20
_RANK_STRIDE = 7919  # ranks draw different dropout masks; a prime, so that no two ranks of two seeds meet


class KerasLearner:
    """`sparkml.learners.loop.Learner` around a Keras model.

    A step's gradient is that of the mean loss over the real rows of all ranks, whatever each has: the gradient of the *sum* is
    totalled over ranks and divided by the totalled number of rows.

    Parameters
    ----------
    class_weights
        Factor of each class in the loss, one per class of the first label; None weighs all alike.
    """

    def __init__(
        self,
        source: ModelSource,
        layout: Layout,
        options: TrainingOptions,
        strategy: Strategy,
        place: tuple[int, int],
        *,
        callbacks: Sequence[Any] = (),
        class_weights: Sequence[float] | None = None,
    ) -> None:
        import keras
        import tensorflow as tf

        keras.mixed_precision.set_dtype_policy(options.precision)
        self.layout, self.options, self.strategy = layout, options, strategy
        self._rank, self._size = place
        self._compiled: Compiled = compiled(source, layout, options)
        self.model = self._compiled.model
        self._class_weights = None if class_weights is None else tf.constant(class_weights, tf.float32)
        self._callbacks = Callbacks(callbacks, self._rank)

    def start(self, steps_per_epoch: int) -> None:
        import tensorflow as tf

        accumulate = self.options.gradient_accumulation
        self._compiled.start(-(-steps_per_epoch // accumulate), self._size)
        self.optimizer = self.model.optimizer
        self.optimizer.build(self.model.trainable_variables)
        self._metrics = self._compiled.build_metrics()
        weights = {id(weight) for weight in self.model.weights}
        self._random = [variable for variable in self.model.variables if id(variable) not in weights and _is_random(variable)]
        self._sums = tf.Variable(np.zeros(2), dtype=tf.float64)  # rows, loss
        self._waited = tf.Variable(0.0, dtype=tf.float64)
        kept = [] if accumulate == 1 else self.model.trainable_variables
        self._held = [tf.Variable(tf.zeros_like(variable.value)) for variable in kept]
        self._held_rows = tf.Variable(0.0)
        self.strategy.broadcast([*self.model.weights, *self.optimizer.variables])
        self._spread()
        self._step = self._traced(self._train_step)
        self._hold = self._traced(self._hold_gradients)
        self._apply = tf.function(self._apply_held, input_signature=[tf.TensorSpec([], tf.float32)], autograph=False)
        self._evaluate = self._traced(self._count)
        self._callbacks.attach(self.model, self.options.epochs, steps_per_epoch)

    def _traced(self, function: Any) -> Any:
        import tensorflow as tf

        batch = self.layout.nothing(self.options.batch_size)
        specs = [tf.TensorSpec(value.shape, value.dtype) for value in (*batch.inputs, *batch.labels, batch.counts, batch.weights)]
        return tf.function(function, input_signature=[*specs, tf.TensorSpec([], tf.float32)], autograph=False)

    def _spread(self) -> None:
        """Give this rank its own stream of random numbers; rank 0 keeps the one that checkpoints save."""
        for variable in self._random:
            variable.assign(np.asarray(variable.value) + np.array([self._rank * _RANK_STRIDE, 0], np.uint32))

    # --- compiled ---

    def _gradients(self, tensors: Sequence[Any]) -> tuple[list[Any], Any]:
        """Return the gradients of the loss summed over this rank's rows, and the number of rows."""
        import tensorflow as tf

        x, y, counts, weights = self._unpacked(tensors)
        variables = [variable.value for variable in self.model.trainable_variables]
        with tf.GradientTape() as tape:
            output = self.model(x, training=True)
            objective = self._objective(output, y, counts, self._weighted(y, weights))
            scaled = self.optimizer.scale_loss(objective)  # mixed_float16 only; itself otherwise
        sums = tape.gradient(scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        self._add(output, y, counts, objective)
        keep = self.options.gradient_accumulation == 1
        return [value if keep and _is_sparse(value) else tf.convert_to_tensor(value) for value in sums], tf.reduce_sum(counts)

    def _train_step(self, *tensors: Any) -> Any:
        sums, rows = self._gradients(tensors[:-1])
        return self._combine(sums, rows, due=tensors[-1])

    def _combine(self, sums: list[Any], rows: Any, due: Any) -> Any:
        """Total the gradients over ranks, step the optimizer, and return how many ranks want a checkpoint now."""
        import tensorflow as tf

        expected = float(self.options.batch_size * self.options.gradient_accumulation)
        with tf.control_dependencies(_tensors(sums)):
            computed = _now()
        *means, facts = self.strategy.total([_scaled(value, 1.0 / expected) for value in sums], [tf.stack([rows, due])])
        with tf.control_dependencies([*_tensors(means), facts, computed]):
            self._waited.assign_add(_now() - computed)
        share = expected / tf.maximum(facts[0], 1.0)
        self.optimizer.apply([_scaled(_once(value), share) for value in means], self.model.trainable_variables)
        return facts[1]

    def _hold_gradients(self, *tensors: Any) -> None:
        sums, rows = self._gradients(tensors[:-1])
        for held, value in zip(self._held, sums, strict=True):
            held.assign_add(value)
        self._held_rows.assign_add(rows)

    def _apply_held(self, due: Any) -> Any:
        import tensorflow as tf

        wanted = self._combine([held.read_value() for held in self._held], self._held_rows.read_value(), due)
        with tf.control_dependencies([wanted]):
            for held in (*self._held, self._held_rows):
                held.assign(tf.zeros_like(held))
        return wanted

    def _count(self, *tensors: Any) -> None:
        x, y, counts, weights = self._unpacked(tensors[:-1])
        output = self.model(x, training=False)
        self._add(output, y, counts, self._objective(output, y, counts, self._weighted(y, weights)))

    def _unpacked(self, tensors: Sequence[Any]) -> tuple[Any, list[Any], Any, Any]:
        many = len(self.layout.inputs)
        inputs, labels, (counts, weights) = tensors[:many], tensors[many:-2], tensors[-2:]
        return self._compiled.inputs(inputs), list(labels), counts, weights

    def _weighted(self, labels: Sequence[Any], weights: Any) -> Any:
        import tensorflow as tf

        return weights if self._class_weights is None else weights * tf.gather(self._class_weights, tf.cast(labels[0], tf.int32))

    def _objective(self, output: Any, labels: Sequence[Any], counts: Any, weights: Any) -> Any:
        """Return the sum over rows of the weighted loss, each row with its share of the penalties on the model's weights."""
        import tensorflow as tf

        mean = self._compiled.loss(output, labels, weights)  # over the batch, padding of weight zero included
        objective = mean * float(self.options.batch_size)
        if self.model.losses:
            objective += tf.add_n([tf.cast(tf.reduce_sum(loss), tf.float32) for loss in self.model.losses]) * tf.reduce_sum(
                counts
            )
        return objective

    def _add(self, output: Any, labels: Sequence[Any], counts: Any, objective: Any) -> None:
        import tensorflow as tf

        self._sums.assign_add(tf.cast(tf.stack([tf.reduce_sum(counts), objective]), tf.float64))
        self.model.compute_metrics(None, as_labels(output, labels, self._compiled.one_hot), output, counts)

    # --- the loop's view ---

    def step(self, batch: Batch, number: int, *, last: bool, due: bool) -> bool:
        self._callbacks.call("on_train_batch_begin", number)
        tensors = (*batch.inputs, *batch.labels, batch.counts, batch.weights)
        flag = np.float32(due)
        wanted: Any = 0.0
        if self.options.gradient_accumulation == 1:
            wanted = self._step(*tensors, flag)
        else:
            self._hold(*tensors, flag)
            if last or (number + 1) % self.options.gradient_accumulation == 0:
                wanted = self._apply(flag)
        self._callbacks.call("on_train_batch_end", number, {})
        return bool(wanted > 0)

    def evaluate(self, batch: Batch) -> None:
        self._evaluate(*batch.inputs, *batch.labels, batch.counts, batch.weights, np.float32(0))

    def take_wait(self) -> float:
        """Return the seconds since the last call that steps spent between their own gradients and everybody's."""
        seconds = float(self._waited.numpy())
        self._waited.assign(0.0)
        return seconds

    def totals(self) -> Arrays:
        return {"sums": self._sums.numpy().copy()} | {
            f"{at:04d}": np.array(variable.value, np.float64) for at, variable in enumerate(self._metrics)
        }

    def set_totals(self, totals: Arrays) -> None:
        self._sums.assign(totals["sums"] if totals else np.zeros(2))
        for at, variable in enumerate(self._metrics):
            value = totals[f"{at:04d}"] if totals else np.zeros(variable.shape)
            variable.assign(value.astype(variable.dtype))

    def metrics(self) -> dict[str, float]:
        rows, loss = (float(value) for value in self._sums.numpy())
        own = {f"{name}_loss" for name in getattr(self.model, "output_names", ())}  # Keras's means over batches, padding included
        found = {name: np.asarray(value) for name, value in self.model.get_metrics_result().items() if name not in own}
        single = {name: float(value) for name, value in found.items() if value.ndim == 0}
        several = {
            f"{name}_{at}": float(item) for name, value in found.items() for at, item in enumerate(value.ravel()) if value.ndim
        }
        return {**single, **several, "loss": loss / max(rows, 1.0)}

    def begin(self) -> None:
        self._callbacks.call("on_train_begin")

    def begin_epoch(self, epoch: int) -> None:
        self._callbacks.call("on_epoch_begin", epoch)

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> bool:
        self._callbacks.call("on_epoch_end", epoch, dict(logs))
        return bool(getattr(self.model, "stop_training", False))

    def end(self) -> None:
        self._callbacks.call("on_train_end")

    def average(self, rows: int) -> None:
        """Average the statistics that each rank collected from its own batches (batch normalisation), weighted by its rows.

        What is averaged is the distance to rank 0's: a weight that no step changes keeps its very bits.
        """
        import tensorflow as tf

        kept = self._collected()
        if kept:
            share = tf.constant([float(rows)])
            mine = [tf.identity(weight.value) for weight in kept]
            self.strategy.broadcast(kept)
            apart = [_apart(own, weight.value) * share[0] for own, weight in zip(mine, kept, strict=True)]
            *sums, total = self.strategy.total([], [*apart, share])
            for weight, value in zip(kept, sums, strict=True):
                weight.assign_add(tf.cast(value / total[0], weight.dtype))

    def _collected(self) -> list[Any]:
        """Return the weights that steps may change without a gradient; those of frozen layers, a whole backbone, are none."""
        layers = self.model._flatten_layers()
        frozen = {id(weight) for layer in layers if not layer.trainable for weight in layer.weights}
        return [
            weight for weight in self.model.non_trainable_weights if "float" in str(weight.dtype) and id(weight) not in frozen
        ]

    def learning_rate(self) -> float:
        return float(np.asarray(self.optimizer.learning_rate))

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        notes, arrays = self._callbacks.state()
        return {**_values(self._named()), **{f"callback/{name}": value for name, value in arrays.items()}}, notes

    def restore(self, arrays: Arrays, notes: dict[str, Any]) -> None:
        for name, variable in self._named().items():
            variable.assign(arrays[name])
        self._spread()
        own = {name.removeprefix("callback/"): value for name, value in arrays.items() if name.startswith("callback/")}
        self._callbacks.restore(notes, own)

    def own_state(self) -> Arrays:
        """Return what differs between ranks in the middle of an epoch."""
        kept = {f"kept/{at:04d}": np.array(weight.value) for at, weight in enumerate(self._collected())}
        return kept | {f"total/{name}": value for name, value in self.totals().items()}

    def restore_own(self, state: Arrays) -> None:
        for at, weight in enumerate(self._collected()):
            weight.assign(state[f"kept/{at:04d}"])
        self.set_totals({name.removeprefix("total/"): value for name, value in state.items() if name.startswith("total/")})

    def _named(self) -> dict[str, Any]:
        random = {id(variable) for variable in self._random}
        model = [variable for variable in self.model.variables if id(variable) in random]
        found = {"weights": self.model.weights, "random": model, "optimizer": self._optimizer_variables()}
        return {f"{kind}/{at:04d}": variable for kind, variables in found.items() for at, variable in enumerate(variables)}

    def _optimizer_variables(self) -> list[Any]:
        known = {id(variable) for variable in self.optimizer.variables}
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        rate = getattr(inner, "_learning_rate", None)  # a callback may have changed it; not among the variables, nor if scheduled
        return [*self.optimizer.variables, *([rate] if hasattr(rate, "assign") and id(rate) not in known else [])]

    def weights(self) -> Arrays:
        return {f"{index:04d}": np.array(weight.value) for index, weight in enumerate(self.model.weights)}

    def set_weights(self, weights: Arrays) -> None:
        self.model.set_weights([weights[name] for name in sorted(weights)])

    @property
    def author_s_settings(self) -> str:
        """What the model's author compiled it with, as text; empty if the settings of the training decide."""
        return self._compiled.described

    @property
    def logits(self) -> list[bool]:
        """For each output, whether the model ends there before its softmax or sigmoid, because its loss has it."""
        return self._compiled.logits

    def saved(self) -> keras.Model:
        """Return the model that predicts in the label's own units."""
        return self._compiled.saved()


def _apart(value: Any, other: Any) -> Any:
    """Return the difference, 0 where both are the same infinity (a mask)."""
    import tensorflow as tf

    return tf.cast(tf.where(value == other, tf.zeros_like(value), value - other), tf.float32)


def _is_sparse(gradient: Any) -> bool:
    """Whether to leave the gradient of an embedding as the few rows that it touches: dense, it would be large."""
    import tensorflow as tf

    shape = gradient.shape if isinstance(gradient, tf.IndexedSlices) else ()
    return int(np.prod([dim or 1 for dim in shape])) > _SPARSE_ELEMENTS


def _scaled(gradient: Any, factor: Any) -> Any:
    import tensorflow as tf

    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values * factor, gradient.indices, gradient.dense_shape)
    return gradient * factor


def _once(gradient: Any) -> Any:
    """Add up rows that stand several times in the gradient of an embedding: optimizers square row by row."""
    import tensorflow as tf

    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def _tensors(gradients: Sequence[Any]) -> list[Any]:
    return [getattr(gradient, "values", gradient) for gradient in gradients]


def _now() -> Any:
    """Return the seconds of a clock as a tensor; TensorFlow's own clock is refused where results shall be deterministic."""
    import tensorflow as tf

    seconds = tf.numpy_function(lambda: np.float64(time.monotonic()), [], tf.float64)
    seconds.set_shape([])
    return seconds


def _values(variables: dict[str, Any]) -> Arrays:
    return {name: np.array(variable.value) for name, variable in variables.items()}


def _is_random(variable: Any) -> bool:
    return str(variable.name) == "seed_generator_state"
