"""`KerasLearner`: a Keras 3 model trained by compiled steps, and `train_keras`, what each rank of a gang runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml import plugins
from sparkml.errors import ConfigError
from sparkml.launch.worker import Worker
from sparkml.learners import keras_file, loop
from sparkml.learners.checkpoint import Arrays
from sparkml.learners.feed import Batch, Rows
from sparkml.learners.strategy import Strategy
from sparkml.learners.training import TrainingOptions
from sparkml.lineage.fingerprint import fingerprint
from sparkml.storage import Store

if TYPE_CHECKING:
    import keras

Build = Callable[[tuple[int, ...], int, str], Any]
_RANK_STRIDE = 7919  # ranks draw different dropout masks; a prime, so that no two ranks of two seeds meet


@dataclass(frozen=True)
class Target:
    """What is learnt: classes by index, or a value, learnt in units of its training mean and standard deviation."""

    task: str
    outputs: int
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class KerasJob:
    """Everything that a rank needs to train: travels with the function, by cloudpickle.

    Attributes
    ----------
    build
        ``(input_shape, outputs, task) -> keras.Model``, softmax or linear at its end.
    train, validation
        URLs of shard sets; the fingerprints of both are in `data_mark`.
    columns
        Names of the features and of the label in the shards.
    store, checkpoint
        Where the checkpoint of each epoch goes; a None store keeps none.
    """

    build: Build
    target: Target
    shape: tuple[int, ...]
    options: TrainingOptions
    seed: int
    train: str
    validation: str | None
    data_mark: str
    columns: tuple[str, str]
    store: Store | None
    checkpoint: str = "checkpoint.npz"


class KerasLearner:
    """`sparkml.learners.loop.Learner` around a Keras model.

    A step's gradient is that of the mean loss over the real rows of all ranks, whatever each has: the gradient of the *sum* is
    totalled over ranks and divided by the totalled number of rows.
    """

    def __init__(
        self, build: Build, target: Target, shape: tuple[int, ...], options: TrainingOptions, strategy: Strategy, rank: int
    ) -> None:
        import tensorflow as tf

        self.target, self.options, self.strategy = target, options, strategy
        self.model = _checked(build(shape, target.outputs, target.task), target, shape)
        self._totals = tf.Variable(np.zeros(3), dtype=tf.float64)
        self._shape, self._rank = shape, rank

    def start(self, steps_per_epoch: int) -> None:
        import tensorflow as tf

        self.optimizer = _optimizer(self.options, steps_per_epoch)
        self.optimizer.build(self.model.trainable_variables)
        weights = {id(weight) for weight in self.model.weights}
        self._random = [variable for variable in self.model.variables if id(variable) not in weights]
        self.strategy.broadcast([*self.model.weights, *self.optimizer.variables])
        self._spread()
        size = self.options.batch_size
        signature = [tf.TensorSpec(dims, tf.float32) for dims in ([size, *self._shape], [size], [size])]
        self._step = tf.function(self._train_step, input_signature=signature, autograph=False)
        self._evaluate = tf.function(self._count, input_signature=signature, autograph=False)

    def _spread(self) -> None:
        """Give this rank its own stream of random numbers; rank 0 keeps the one that checkpoints save."""
        for variable in self._random:
            variable.assign(np.asarray(variable.value) + np.array([self._rank * _RANK_STRIDE, 0], np.uint32))

    # --- compiled ---

    def _train_step(self, x: Any, y: Any, weight: Any) -> None:
        import tensorflow as tf

        variables = [variable.value for variable in self.model.trainable_variables]
        with tf.GradientTape() as tape:
            output = self.model(x, training=True)
            rows = tf.reduce_sum(weight)
            loss = tf.reduce_sum(self._losses(output, y, smooth=True) * weight)
            penalty = tf.add_n(self.model.losses) * rows if self.model.losses else 0.0
            objective = loss + penalty
        sums = tape.gradient(objective, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        *sums, all_rows = self.strategy.total([*sums, tf.reshape(rows, [1])])
        self.optimizer.apply([value / all_rows[0] for value in sums], self.model.trainable_variables)
        self._add(output, y, weight)

    def _count(self, x: Any, y: Any, weight: Any) -> None:
        self._add(self.model(x, training=False), y, weight)

    def _add(self, output: Any, y: Any, weight: Any) -> None:
        import tensorflow as tf

        if self.target.task == "classification":
            metric = tf.cast(tf.equal(tf.argmax(output, 1), tf.cast(y, tf.int64)), tf.float32)
        else:
            metric = tf.square(output[:, 0] - y)
        losses = self._losses(output, y, smooth=False)
        sums = [tf.reduce_sum(weight), tf.reduce_sum(losses * weight), tf.reduce_sum(metric * weight)]
        self._totals.assign_add(tf.cast(tf.stack(sums), tf.float64))

    def _losses(self, output: Any, y: Any, *, smooth: bool) -> Any:
        """Loss of every row, shape (rows,): cross-entropy in nats, or the squared error in units of the target's variance."""
        import keras
        import tensorflow as tf

        if self.target.task != "classification":
            return tf.square((output[:, 0] - y) / self.target.std)
        if smooth and self.options.label_smoothing:
            wanted = tf.one_hot(tf.cast(y, tf.int32), self.target.outputs)
            return keras.losses.categorical_crossentropy(wanted, output, label_smoothing=self.options.label_smoothing)
        return keras.losses.sparse_categorical_crossentropy(tf.cast(y, tf.int32), output)

    # --- the loop's view ---

    def step(self, batch: Batch) -> None:
        self._step(*batch)

    def evaluate(self, batch: Batch) -> None:
        self._evaluate(*batch)

    def take_totals(self) -> loop.Totals:
        totals: loop.Totals = self._totals.numpy().copy()
        self._totals.assign(np.zeros(3))
        return totals

    def metrics(self, totals: loop.Totals) -> dict[str, float]:
        rows, loss, metric = (float(value) for value in totals)
        if self.target.task == "classification":
            return {"loss": loss / rows, "accuracy": metric / rows}
        return {"loss": loss / rows, "rmse": float(np.sqrt(metric / rows))}

    def end_epoch(self, rows: int) -> None:
        """Average the statistics that each rank collected from its own batches (batch normalisation), weighted by its rows."""
        import tensorflow as tf

        kept = [weight for weight in self.model.non_trainable_variables if "float" in str(weight.dtype)]
        if kept:
            share = tf.constant([float(rows)])
            *sums, total = self.strategy.total([*(weight.value * share[0] for weight in kept), share])
            for weight, value in zip(kept, sums, strict=True):
                weight.assign(value / total[0])

    def learning_rate(self) -> float:
        return float(np.asarray(self.optimizer.learning_rate))

    def state(self) -> Arrays:
        named = {"model": self.model.variables, "optimizer": self.optimizer.variables}
        return {
            f"{kind}/{index:04d}": np.array(variable.value)
            for kind, variables in named.items()
            for index, variable in enumerate(variables)
        }

    def restore(self, state: Arrays) -> None:
        named = {"model": self.model.variables, "optimizer": self.optimizer.variables}
        for kind, variables in named.items():
            for index, variable in enumerate(variables):
                variable.assign(state[f"{kind}/{index:04d}"])
        self._spread()

    def weights(self) -> Arrays:
        return {f"{index:04d}": np.array(weight.value) for index, weight in enumerate(self.model.weights)}

    def set_weights(self, weights: Arrays) -> None:
        self.model.set_weights([weights[name] for name in sorted(weights)])


def _checked(model: Any, target: Target, shape: tuple[int, ...]) -> keras.Model:
    """Return the model, its output in the label's own units, or raise `ConfigError`: see `KerasJob.build`."""
    import keras

    if not isinstance(model, keras.Model):
        raise ConfigError(f"the model function must return a keras.Model, it returned {type(model).__name__}")
    keras_file.check_savable(model)
    output = np.asarray(model(np.zeros((2, *shape), np.float32), training=False))
    if output.shape != (2, target.outputs):
        raise ConfigError(
            f"the model's output has shape {output.shape[1:]} per row, {target.task} needs ({target.outputs},)",
            hint="the model function is called with (input_shape, outputs, task): use `outputs` for the last layer",
        )
    if target.task == "classification":
        if output.min() < 0 or abs(output.sum(1) - 1).max() > 1e-3:
            raise ConfigError("the model's output does not sum to one per row", hint="end with a softmax over the classes")
        return model
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Rescaling(target.std, target.mean)(model(inputs)))


def _optimizer(options: TrainingOptions, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    import keras

    rate: Any = options.learning_rate
    warmup = round(options.warmup_epochs * steps_per_epoch)
    if options.schedule == "cosine" or warmup:
        decay = max(1, options.epochs * steps_per_epoch - warmup)
        floor = 0.0 if options.schedule == "cosine" else 1.0  # a decay to 100 % of the peak is a constant
        start = 0.0 if warmup else rate
        rate = keras.optimizers.schedules.CosineDecay(
            start, decay, alpha=floor, warmup_target=rate if warmup else None, warmup_steps=warmup
        )
    kinds = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": lambda chosen: keras.optimizers.SGD(chosen, momentum=0.9, nesterov=True),
        "rmsprop": keras.optimizers.RMSprop,
    }
    return kinds[options.optimizer](rate)


def train_rows(worker: Worker, job: KerasJob, rows: Rows, validation: Rows | None) -> tuple[dict[str, Any], KerasLearner]:
    """Train on rows at hand; return the history (see `loop.train`) and the learner."""
    import keras
    import tensorflow as tf

    keras.utils.clear_session()  # layer names count from the start, or a checkpoint's fingerprint would never match
    keras.utils.set_random_seed(job.seed)
    tf.config.experimental.enable_op_determinism()
    strategy = plugins.load("strategies", job.options.strategy)()
    assert isinstance(strategy, Strategy)
    with strategy.connected(worker):
        learner = KerasLearner(job.build, job.target, job.shape, job.options, strategy, worker.rank)
        mark = fingerprint(
            {
                "data": job.data_mark,
                "options": job.options.model_dump(mode="json"),
                "model": learner.model.get_config(),
                "target": [job.target.mean, job.target.std],
                "seed": job.seed,
            }
        )
        course = loop.Course(job.options, job.seed, job.store, job.checkpoint, mark)
        history = loop.train(worker, learner, loop.Data(rows, validation, job.shape, job.columns), course)
    return {**history, "parameters": learner.model.count_params()}, learner


def train_keras(worker: Worker, job: KerasJob) -> bytes:
    """Train on this rank's shards. Rank 0 returns JSON: ``history``, and ``model``, the ``.keras`` file in base 64."""
    from sparkml.shards.reader import ShardReader, ShardSet

    def rows(url: str) -> Rows:
        return ShardReader(url, ShardSet.open(url).assign(worker.rank, worker.size), list(job.columns))

    history, learner = train_rows(worker, job, rows(job.train), None if job.validation is None else rows(job.validation))
    if worker.rank != 0:
        return b""
    model = base64.b64encode(keras_file.dump(learner.model)).decode()
    return json.dumps({"history": history, "model": model}).encode()
