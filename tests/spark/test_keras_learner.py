"""Training by one rank in this process. Not in unit/: importing TensorFlow takes longer than all of unit/."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkml.errors import ConfigError, DataError, StorageError, TrainingError
from sparkml.learners import keras as learner_module
from sparkml.learners import keras_file
from sparkml.learners.feed import Layout
from sparkml.learners.inputs import Input, Target
from sparkml.learners.keras_job import KerasJob, train_rows
from sparkml.learners.zoo.cnn import Cnn
from sparkml.learners.zoo.mlp import Mlp, MlpOptions
from sparkml.storage import Store
from tests.spark.keras_rows import LAYOUT, Alone, Memory, Unread, a_job, assert_same, blobs, plain_fit, softmax_regression


def run(job: KerasJob, rows: Memory, validation: Memory | None = None) -> dict[str, Any]:
    history, learner = train_rows(Alone(), job, rows, validation)
    history["weights"] = list(learner.weights().values())
    return history


def test_no_rows_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no training rows"):
        run(a_job(), blobs(0))


def test_a_step_of_gradient_descent_is_the_one_computed_by_hand() -> None:
    """21 rows in batches of 16: two steps of softmax regression by SGD with Nesterov momentum 0.9, the second on 5 rows."""
    rows = replace(blobs(21), shuffled=False)
    begin = run(a_job(build=softmax_regression, optimizer="sgd", epochs=1, learning_rate=1e-12), rows)["weights"]
    found = run(a_job(build=softmax_regression, optimizer="sgd", epochs=1, learning_rate=0.1), rows)["weights"]

    kernel, bias = (weight.astype(float) for weight in begin)
    speed = [np.zeros_like(kernel), np.zeros_like(bias)]
    for x, y in ((rows.x[:16], rows.y[:16]), (rows.x[16:], rows.y[16:])):
        scores = np.exp(x @ kernel + bias)
        error = (scores / scores.sum(1, keepdims=True) - np.eye(3)[y.astype(int)]) / len(x)
        gradients = [x.T @ error, error.sum(0)]
        speed = [0.9 * old - 0.1 * gradient for old, gradient in zip(speed, gradients, strict=True)]
        kernel = kernel + 0.9 * speed[0] - 0.1 * gradients[0]
        bias = bias + 0.9 * speed[1] - 0.1 * gradients[1]
    np.testing.assert_allclose(found[0], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], bias, rtol=1e-4, atol=1e-5)


def test_metrics_are_means_over_the_rows() -> None:
    held_out = blobs(41, 3)
    history = run(a_job(epochs=8), blobs(60, 1), held_out)
    kernel1, bias1, kernel2, bias2 = history["weights"]
    scores = np.maximum(held_out.x @ kernel1 + bias1, 0) @ kernel2 + bias2
    truth = held_out.y.astype(int)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    last = history["epochs"][-1]
    assert last["val_accuracy"] == pytest.approx((scores.argmax(1) == truth).mean())
    assert last["val_loss"] == pytest.approx(-logs[np.arange(41), truth].mean(), rel=1e-5)
    assert last["val_accuracy"] > 0.8


def test_the_same_seed_gives_the_same_weights() -> None:
    assert run(a_job(), blobs(30))["digest"] == run(a_job(), blobs(30))["digest"]
    assert run(replace(a_job(), seed=6), blobs(30))["digest"] != run(a_job(), blobs(30))["digest"]


def checkpoints(store: Store) -> list[str]:
    return sorted(path for path in store.files("checkpoints") if path.endswith(".npz"))


def test_a_finished_training_is_gone_on_with_when_more_epochs_are_asked_for(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(a_job(store, epochs=2), blobs(20))
    longer = run(a_job(store, epochs=4), blobs(20))
    assert longer["resumed"] == "went on after epoch 2" and len(longer["epochs"]) == 4
    assert longer["digest"] == run(a_job(epochs=4), blobs(20))["digest"]
    shorter = run(a_job(store, epochs=1), blobs(20))
    assert shorter["digest"] == run(a_job(epochs=1), blobs(20))["digest"]


def test_checkpoints_of_other_settings_are_left_alone_with_a_reason(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(a_job(store, epochs=1), blobs(20))
    other = run(a_job(store, epochs=1, learning_rate=0.06), blobs(20))
    assert other["resumed"] == "the checkpoints of 1 other trainings are not used: they have other data or settings"
    assert run(a_job(store, epochs=1), blobs(20))["resumed"] == "went on after epoch 1"


def test_a_torn_altered_or_foreign_checkpoint_is_refused_and_the_one_before_it_used(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    whole = run(a_job(store, epochs=3, keep_checkpoints=3), blobs(20))
    first, second, third = checkpoints(store)
    body = store.read(f"checkpoints/{third}")
    store.replace(f"checkpoints/{third}", body[:-50])
    torn = run(a_job(store, epochs=3, keep_checkpoints=3), blobs(20))
    assert "e000003-s000000000.npz is not used: the checkpoint is torn" in torn["resumed"]
    assert torn["resumed"].endswith("went on after epoch 2") and torn["digest"] == whole["digest"]
    run(a_job(Store(str(tmp_path / "b")), epochs=3, learning_rate=0.06), blobs(20))
    foreign = Store(str(tmp_path / "b"))
    store.replace(f"checkpoints/{third}", foreign.read(f"checkpoints/{checkpoints(foreign)[-1]}"))
    store.replace(f"checkpoints/{second}", store.read(f"checkpoints/{second}")[:100])
    found = run(a_job(store, epochs=3, keep_checkpoints=3), blobs(20))
    assert "other data or settings" in found["resumed"] and found["resumed"].endswith("went on after epoch 1")
    assert found["digest"] == whole["digest"] and first


def test_old_checkpoints_are_pruned(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(a_job(store, epochs=4, checkpoint_steps=1), blobs(40))
    assert [path.rpartition("/")[2] for path in checkpoints(store)] == ["e000003-s000000002.npz", "e000004-s000000000.npz"]


def test_checkpoints_within_an_epoch_come_at_the_next_step_of_the_optimizer(tmp_path: Path) -> None:
    """80 rows are ten micro-batches of 8; every fourth is a step of the optimizer, and every third was asked for."""
    store = Store(str(tmp_path))
    options: dict[str, Any] = {"batch_size": 8, "gradient_accumulation": 4, "checkpoint_steps": 3, "keep_checkpoints": 9}
    run(a_job(store, epochs=1, **options), blobs(80))
    assert [path.rpartition("s0")[2] for path in checkpoints(store)] == ["00000004.npz", "00000008.npz", "00000000.npz"]


def test_patience_keeps_the_best_epoch() -> None:
    held_out = blobs(200, 2)
    history = run(a_job(epochs=200, patience=2, learning_rate=0.3, build=softmax_regression), blobs(12, 1), held_out)
    losses = [epoch["val_loss"] for epoch in history["epochs"]]
    assert len(losses) == history["best_epoch"] + 2 < 200
    assert losses[history["best_epoch"] - 1] == min(losses)
    kernel, bias = history["weights"]
    scores = held_out.x @ kernel + bias
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    assert -logs[np.arange(200), held_out.y.astype(int)].mean() == pytest.approx(min(losses), rel=1e-5)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    history = run(a_job(epochs=4, schedule="cosine", warmup_epochs=1, learning_rate=0.1), blobs(32))
    rates = [epoch["learning_rate"] for epoch in history["epochs"]]
    assert rates == pytest.approx([0.1, 0.1 * (1 + np.cos(np.pi / 3)) / 2, 0.1 * (1 + np.cos(np.pi * 2 / 3)) / 2, 0], abs=1e-7)
    constant = run(a_job(epochs=3, warmup_epochs=1.5, learning_rate=0.1), blobs(32))
    assert [epoch["learning_rate"] for epoch in constant["epochs"]] == pytest.approx([0.1 * 2 / 3, 0.1, 0.1])


def test_regression_learns_in_the_label_s_own_units() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    y = 5000 + 300 * (x @ np.array([1.0, -2.0, 0.5]))
    layout = Layout((Input("features", (3,)),), (Target("label", "regression", 1, float(y.mean()), float(y.std())),))
    job = replace(a_job(epochs=30, build=Mlp(MlpOptions(hidden=(16,)))), layout=layout)
    history, learner = train_rows(Alone(), job, Memory(x, y), Memory(x, y))
    assert history["epochs"][-1]["rmse"] < 0.1 * y.std()
    predicted = np.asarray(keras_file.load(keras_file.dump(learner.saved()), "it")(x))[:, 0]
    assert np.sqrt(np.mean((predicted - y) ** 2)) == pytest.approx(history["epochs"][-1]["val_rmse"], rel=1e-3)


@pytest.mark.parametrize(
    ("activation", "author_s", "asked", "in_keras"),
    [
        ("sigmoid", {}, None, {"loss": "mse", "loss_weights": [25.0]}),  # errors count in standard deviations, of 1/5
        ("linear", {}, "poisson", {"loss": "poisson"}),
        ("linear", {"loss": "poisson"}, None, {"loss": "poisson"}),
        ("linear", {"loss": "mse"}, None, {"loss": "mse"}),
    ],
)
def test_an_output_with_bounds_and_a_loss_of_ratios_are_in_the_label_s_own_units(
    activation: str, author_s: dict[str, Any], asked: str | None, in_keras: dict[str, Any]
) -> None:
    def build(compiled: dict[str, Any]) -> Any:
        import keras

        layer = keras.layers.Dense(1, activation=activation, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((3,)), layer])
        if compiled:
            model.compile(keras.optimizers.SGD(0.05), **compiled)
        return model

    x, y = np.random.default_rng(3).uniform(0.1, 0.9, (48, 3)).astype(np.float32), np.linspace(0.1, 0.9, 48)
    layout = replace(LAYOUT, targets=(Target("label", "regression", 1, 0.5, 0.2),))
    job = a_job(build=partial(build, author_s), optimizer="sgd", optimizer_options={"momentum": 0.0}, loss=asked)
    _, learner = train_rows(Alone(), replace(job, layout=layout), Memory(x, y, shuffled=False), None)
    kernel, bias = wanted = plain_fit(partial(build, in_keras), x, y, 16, 3)
    assert_same(learner, wanted)
    by_hand = (x @ kernel + bias)[:, 0]
    if activation == "sigmoid":
        by_hand = 1 / (1 + np.exp(-by_hand))
    np.testing.assert_allclose(np.asarray(learner.saved()(x))[:, 0], by_hand, rtol=1e-3)


def test_a_mask_of_infinities_stays_one() -> None:
    import tensorflow as tf

    found = learner_module._apart(tf.constant([-np.inf, 1.0, 3.0]), tf.constant([-np.inf, 3.0, 3.0]))
    assert found.numpy().tolist() == [0.0, -2.0, 0.0]


def relu_layer() -> Any:
    import keras

    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones"), keras.layers.ReLU()])


def sigmoid_op() -> Any:
    import keras

    x = keras.Input((3,))
    return keras.Model(x, keras.ops.sigmoid(keras.layers.Dense(1)(x)))


def nested() -> Any:
    import keras

    head = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    return keras.Sequential([keras.Input((3,)), head])


@pytest.mark.parametrize("build", [relu_layer, sigmoid_op, nested])
def test_a_bounded_output_is_not_rescaled(build: Any) -> None:
    layout = replace(LAYOUT, targets=(Target("label", "regression", 1, 0.5, 0.2),))
    x, y = np.random.default_rng(3).uniform(0.1, 0.9, (48, 3)).astype(np.float32), np.linspace(0.1, 0.9, 48)
    _, learner = train_rows(Alone(), replace(a_job(build=build, epochs=1), layout=layout), Memory(x, y), None)
    assert "Rescaling" not in {type(layer).__name__ for layer in learner.model.layers}


def test_a_loss_that_is_not_finite_ends_training() -> None:
    rows = blobs(20)
    rows.x[3, 1] = np.inf
    with pytest.raises(TrainingError, match="loss of epoch 1 is nan"):
        run(a_job(), rows)


@pytest.mark.parametrize(
    ("activation", "units", "message"),
    [("linear", 3, "does not sum to one"), ("softmax", 4, r"shape \(4,\) per row.*needs \(3,\)")],
)
def test_a_model_of_the_wrong_kind_is_refused(activation: str, units: int, message: str) -> None:
    def build(shape: tuple[int, ...], outputs: int, task: str) -> Any:
        import keras

        return keras.Sequential([keras.Input(shape), keras.layers.Dense(units, activation=activation)])

    with pytest.raises(ConfigError, match=message):
        run(a_job(build=build), blobs(20))


def test_probabilities_for_zeros_alone_are_refused_before_a_row_is_read() -> None:
    def build(shape: tuple[int, ...], outputs: int, task: str) -> Any:
        import keras

        third = keras.initializers.Constant(1 / 3)  # zeros give (1/3, 1/3, 1/3); every x more by the sum of x
        layer = keras.layers.Dense(outputs, kernel_initializer="ones", bias_initializer=third)
        return keras.Sequential([keras.Input(shape), layer])

    with pytest.raises(ConfigError, match="does not sum to one"):
        run(a_job(build=build), Unread(**vars(blobs(20))))


def test_a_function_that_is_called_wrongly_or_makes_no_model_is_refused() -> None:
    def two(shape: tuple[int, ...], outputs: int) -> Any: ...

    def nothing() -> Any:
        return "a net"

    with pytest.raises(ConfigError, match=r"takes \(shape, outputs\); it must take nothing, or \(input_shape, outputs, task\)"):
        run(a_job(build=two), blobs(20))
    with pytest.raises(ConfigError, match=r"must return a keras\.Model, it returned str"):
        run(a_job(build=nothing), blobs(20))


def test_a_lambda_layer_is_refused_before_training_and_when_loading(tmp_path: Path) -> None:
    import keras

    def build(shape: tuple[int, ...], outputs: int, task: str) -> Any:
        layers = [keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(outputs, activation="softmax")]
        return keras.Sequential([keras.Input(shape), *layers])

    with pytest.raises(ConfigError, match=r"Lambda.*Keras's own layers only"):
        run(a_job(build=build), blobs(20))
    build((3,), 3, "classification").save(tmp_path / "m.keras")
    with pytest.raises(StorageError, match=r"a\.keras holds keras\.layers\.Lambda"):
        keras_file.load((tmp_path / "m.keras").read_bytes(), "a.keras")
    build((3,), 3, "classification").save(tmp_path / "m.h5")
    with pytest.raises(StorageError, match=r"is not a \.keras file.*\.h5 .* refused"):
        keras_file.load((tmp_path / "m.h5").read_bytes(), "m.h5")


def test_the_cnn_has_the_size_it_promises_and_takes_small_images() -> None:
    def image(*shape: int) -> tuple[Input, ...]:
        return (Input("x", shape),)

    assert Cnn().build(image(28, 28, 1), 10, "classification").count_params() == 225_034
    assert Cnn().build(image(8, 8, 1), 10, "classification").output_shape == (None, 10)
    assert Cnn().build(image(1, 3, 1), 1, "regression").output_shape == (None, 1)
    with pytest.raises(ConfigError, match=r"\(height, width, channels\).*features are x float32\(64,\)"):
        Cnn().build(image(64), 10, "classification")
