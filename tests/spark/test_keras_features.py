"""What a net may take and how it may be trained, by one rank in this process, against Keras's own `fit` and hand-made arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkml.errors import ConfigError, StorageError
from sparkml.learners import keras_file
from sparkml.learners.feed import Layout
from sparkml.learners.inputs import Input, Target
from sparkml.learners.keras_job import KerasJob, train_rows
from sparkml.learners.source import source_of
from sparkml.storage import Store
from tests.spark.keras_rows import LAYOUT, Alone, a_job, assert_same, blobs, plain_fit, softmax_regression


class Table:
    """Rows of any columns, in order."""

    def __init__(self, **columns: Any) -> None:
        self.columns = {name: np.asarray(values) for name, values in columns.items()}

    def counts(self, epoch: int) -> list[int]:
        return [len(next(iter(self.columns.values())))]

    def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Iterator[dict[str, Any]]:
        for start in range(skip, self.counts(epoch)[0], batch_size):
            yield {name: values[start : start + batch_size] for name, values in self.columns.items()}


def run(job: KerasJob, rows: Any, validation: Any = None) -> tuple[dict[str, Any], Any]:
    return train_rows(Alone(), job, rows, validation)


def two_in_two_out() -> Any:
    import keras

    number, word = keras.Input((3,), name="numbers"), keras.Input((4,), name="words", dtype="int32")
    text = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 5)(word))
    x = keras.layers.Dense(6, activation="tanh")(keras.layers.Concatenate()([number, text]))
    kind, size = keras.layers.Dense(3, activation="softmax", name="kind")(x), keras.layers.Dense(1, name="size")(x)
    model = keras.Model([number, word], [kind, size])
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),  # Adam treats an embedding's gradient of some rows in another way
        loss=["sparse_categorical_crossentropy", "mse"],
        loss_weights=[1.0, 0.5],
        metrics=[["accuracy"], ["mae"]],
    )
    return model


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(4)
    words = rng.integers(0, 20, (64, 4)).astype(np.int32)
    numbers = rng.normal(size=(64, 3)).astype(np.float32)
    kind = (numbers[:, 0] > 0).astype(np.float64) + (words[:, 0] > 10)
    return Table(
        numbers=numbers, words=words, kind=kind, size=numbers.sum(1) + words.mean(1) / 10, weight=rng.uniform(0.5, 2, 64)
    )


def test_several_inputs_and_outputs_train_as_keras_itself_trains_them(table: Table) -> None:
    layout = Layout(
        (Input("numbers", (3,)), Input("words", (4,), "int32", 20)),
        (Target("kind", "classification", 3), Target("size", "regression", 1)),
    )
    job = replace(a_job(build=two_in_two_out, epochs=3), layout=layout)
    history, learner = run(job, table, table)
    x = {name: table.columns[name] for name in ("numbers", "words")}
    y = [table.columns["kind"], table.columns["size"]]
    assert_same(learner, plain_fit(two_in_two_out, x, y, 16, 3))
    last = history["epochs"][-1]
    output = learner.model.predict(x, verbose=0)
    assert last["val_kind_accuracy"] == pytest.approx((output[0].argmax(1) == y[0]).mean())
    assert last["val_size_mae"] == pytest.approx(abs(output[1][:, 0] - y[1]).mean(), rel=1e-4)


def test_inputs_and_labels_must_be_those_of_the_model(table: Table) -> None:
    inputs = (Input("numbers", (3,)), Input("tokens", (4,), "int32", 20))
    targets = (Target("kind", "classification", 3), Target("size", "regression", 1))
    job = a_job(build=two_in_two_out)
    with pytest.raises(ConfigError, match="the model's inputs are numbers, words, the columns are numbers, tokens"):
        run(replace(job, layout=Layout(inputs, targets)), table)
    right = (inputs[0], Input("words", (4,), "int32", 20))
    with pytest.raises(ConfigError, match="has 2 outputs, there are 1 label columns"):
        run(replace(job, layout=Layout(right, targets[:1])), table)
    with pytest.raises(ConfigError, match=r"does not take the features \(numbers float32\(4,\)"):
        run(replace(a_job(build=softmax_of(3)), layout=Layout((Input("numbers", (4,)),), targets[:1])), table)


def softmax_of(width: int, **compiled: Any) -> Any:
    def build() -> Any:
        import keras

        model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(3, activation="softmax")])
        if compiled:
            model.compile(keras.optimizers.SGD(0.1), **compiled)
        return model

    return build


def test_row_weights_and_class_weights_weigh_the_loss_as_in_keras(table: Table) -> None:
    build = softmax_of(3, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    layout = Layout((Input("numbers", (3,)),), (Target("kind", "classification", 3),), "weight")
    x, y, weight = (table.columns[name] for name in ("numbers", "kind", "weight"))
    _, weighted = run(replace(a_job(build=build, epochs=4), layout=layout), table)
    assert_same(weighted, plain_fit(build, x, y, 16, 4, sample_weight=weight))
    _, both = run(replace(a_job(build=build, epochs=4), layout=layout, class_weights=(2.0, 1.0, 0.25)), table)
    factor = np.array([2.0, 1.0, 0.25])[y.astype(int)]
    assert_same(both, plain_fit(build, x, y, 16, 4, sample_weight=weight * factor))


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "kl_divergence"])
def test_losses_of_one_hot_labels_get_them(table: Table, loss: str) -> None:
    x, y = table.columns["numbers"], table.columns["kind"].astype(int)
    layout = Layout((Input("numbers", (3,)),), (Target("kind", "classification", 3),))
    _, learner = run(replace(a_job(build=softmax_of(3, loss=loss), epochs=2), layout=layout), table)
    assert_same(learner, plain_fit(softmax_of(3, loss=loss), x, np.eye(3)[y], 16, 2))


@pytest.mark.parametrize(
    "loss",
    [["categorical_crossentropy", "mae"], {"amount": "mae", "kind": "categorical_crossentropy"}],
    ids=["in a list", "by name"],
)
def test_an_author_s_losses_of_several_outputs_are_keras_s(table: Table, loss: Any) -> None:
    """The model's order is neither that of the dict nor the alphabet's; only the first loss wants one-hot labels."""

    def build(loss: Any) -> Any:
        import keras

        x = keras.Input((3,), name="numbers")
        outputs = [keras.layers.Dense(3, activation="softmax", name="kind")(x), keras.layers.Dense(1, name="amount")(x)]
        model = keras.Model(x, outputs)
        model.compile(keras.optimizers.SGD(0.1), loss=loss)
        return model

    layout = Layout((Input("numbers", (3,)),), (Target("kind", "classification", 3), Target("size", "regression", 1)))
    _, learner = run(replace(a_job(build=partial(build, loss), epochs=2), layout=layout), table)
    x, kind, size = (table.columns[name] for name in ("numbers", "kind", "size"))
    assert_same(learner, plain_fit(partial(build, loss), x, [np.eye(3)[kind.astype(int)], size], 16, 2))


def test_an_author_s_losses_of_named_outputs_are_keras_s(table: Table) -> None:
    def build() -> Any:
        import keras

        x = keras.Input((3,), name="numbers")
        kind, size = keras.layers.Dense(3, activation="softmax", name="one")(x), keras.layers.Dense(1, name="two")(x)
        model = keras.Model(x, {"z": kind, "a": size})
        model.compile(keras.optimizers.SGD(0.1), loss={"z": "categorical_crossentropy", "a": "mae"})
        return model

    layout = Layout((Input("numbers", (3,)),), (Target("size", "regression", 1), Target("kind", "classification", 3)))
    _, learner = run(replace(a_job(build=build, epochs=2), layout=layout), table)
    x, kind, size = (table.columns[name] for name in ("numbers", "kind", "size"))
    assert_same(learner, plain_fit(build, x, {"z": np.eye(3)[kind.astype(int)], "a": size}, 16, 2))


def test_an_author_s_losses_are_as_many_as_the_outputs(table: Table) -> None:
    with pytest.raises(ConfigError, match="compiled with 2 losses, it has 1 outputs"):
        build = softmax_of(3, loss=["sparse_categorical_crossentropy", "mse"])
        layout = Layout((Input("numbers", (3,)),), (Target("kind", "classification", 3),))
        run(replace(a_job(build=build), layout=layout), table)


def test_any_optimizer_loss_and_metric_by_name(table: Table) -> None:
    layout = Layout((Input("numbers", (3,)),), (Target("size", "regression", 1, 2.0, 3.0),))
    options: dict[str, Any] = {"optimizer": "adagrad", "loss": "huber", "metrics": ["mae", "r2_score"], "epochs": 40}
    history, learner = run(replace(a_job(build={"type": "mlp"}, **options, learning_rate=0.1), layout=layout), table, table)
    predicted = np.asarray(learner.model(table.columns["numbers"]))[:, 0]
    wanted = table.columns["size"]
    last = history["epochs"][-1]
    found = {name: last[f"val_{name}"] for name in ("mean_absolute_error", "mae") if f"val_{name}" in last}
    assert list(found.values()) == [pytest.approx(abs(predicted - wanted).mean(), rel=1e-4)]
    assert last["val_r2_score"] == pytest.approx(
        1 - ((predicted - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum(), rel=1e-4
    )
    with pytest.raises(ConfigError, match="Keras has no loss 'hubber'"):
        run(replace(a_job(build={"type": "mlp"}, loss="hubber"), layout=layout), table)
    with pytest.raises(ConfigError, match="optimizer_options do not fit adagrad"):
        run(replace(a_job(build={"type": "mlp"}, optimizer="adagrad", optimizer_options={"momentum": 0.5}), layout=layout), table)


def test_a_sigmoid_or_a_model_of_scores_will_do(table: Table) -> None:
    def sigmoid() -> Any:
        import keras

        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])

    def scores() -> Any:
        import keras

        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        return model

    rows = Table(features=table.columns["numbers"], label=(table.columns["numbers"][:, 1] > 0).astype(float))
    two = Layout((Input("features", (3,)),), (Target("label", "classification", 2),))
    history, learner = run(replace(a_job(build=sigmoid, epochs=30), layout=two), rows)
    assert history["epochs"][-1]["accuracy"] > 0.9 and learner.logits == [False]
    history, learner = run(a_job(build=scores), blobs(60))
    assert learner.logits == [True] and history["epochs"][-1]["loss"] < 1.3


def test_accumulated_gradients_are_those_of_the_large_batch() -> None:
    """40 rows: five micro-batches of 8, two at a time, against batches of 16, 16 and 8."""
    rows = replace(blobs(40), shuffled=False)
    options: dict[str, Any] = {"optimizer": "sgd", "epochs": 3, "learning_rate": 0.1}
    _, micro = run(a_job(build=softmax_regression, batch_size=8, gradient_accumulation=2, **options), rows)
    _, large = run(a_job(build=softmax_regression, batch_size=16, **options), rows)
    assert_same(micro, list(large.weights().values()))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_in_sixteen_bits_and_keeps_float32_weights(precision: str) -> None:
    history, learner = run(a_job(epochs=10, precision=precision), blobs(200), blobs(100, 1))
    assert history["epochs"][-1]["val_accuracy"] > 0.8
    assert {weight.dtype for weight in learner.model.trainable_variables} == {"float32"}
    assert precision.removeprefix("mixed_") in {layer.compute_dtype for layer in learner.model.layers}
    assert np.asarray(learner.model(blobs(4).x)).dtype == np.float32
    run(a_job(epochs=1), blobs(20))  # the precision is a global setting of Keras: the next training must not inherit it
    import keras

    assert keras.mixed_precision.dtype_policy().name == "float32"


def test_the_rate_grows_with_the_ranks_only_if_asked() -> None:
    assert run(a_job(epochs=1, scale_learning_rate=True), blobs(20))[0]["epochs"][0]["learning_rate"] == pytest.approx(0.05)

    from sparkml.learners.keras_compile import optimizer

    options = a_job(scale_learning_rate=True).options
    assert float(np.asarray(optimizer(options, 10, 4).learning_rate)) == pytest.approx(0.2)


class Fitted:
    """Stands in for a fitted `KerasModel`."""

    def __init__(self, body: bytes) -> None:
        self.body = body


def test_training_starts_from_a_model_s_weights(tmp_path: Path) -> None:
    _, first = run(a_job(epochs=8), blobs(100))
    path = str(tmp_path / "m.keras")
    (tmp_path / "m.keras").write_bytes(keras_file.dump(first.saved()))
    for source in (source_of(path), source_of(Fitted((tmp_path / "m.keras").read_bytes()))):
        _, second = run(replace(a_job(epochs=1, learning_rate=1e-9), source=source), blobs(100))
        for mine, theirs in zip(second.weights().values(), first.weights().values(), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)


def keras_callbacks(folder: Path) -> tuple[Any, ...]:
    import keras

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        first_rank_only = True

        def __init__(self, path: str) -> None:
            super().__init__()
            self.path, self.batches = path, 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.batches += 1

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            with open(self.path, "a") as file:
                file.write(f"{epoch} {self.batches} {sorted(logs)}\n")

    return (
        keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1),
        keras.callbacks.CSVLogger(str(folder / "log.csv")),
        keras.callbacks.TensorBoard(str(folder / "board")),
        Watch(str(folder / "seen")),
    )


def test_callbacks_see_the_epochs_and_may_stop_or_slow_the_training(tmp_path: Path) -> None:
    job = replace(a_job(epochs=200, learning_rate=0.3, build=softmax_regression), callbacks=keras_callbacks(tmp_path))
    history, learner = run(job, blobs(12, 1), blobs(200, 2))
    losses = [epoch["val_loss"] for epoch in history["epochs"]]
    assert 3 < len(losses) < 200 and int(np.argmin(losses)) + 3 == len(losses)
    rates = [epoch["learning_rate"] for epoch in history["epochs"]]
    assert rates[0] == pytest.approx(0.3) and rates[-1] < 0.3
    held_out = blobs(200, 2)
    probability = np.asarray(learner.model(held_out.x))
    assert -np.log(probability[np.arange(200), held_out.y.astype(int)]).mean() == pytest.approx(min(losses), rel=1e-5)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == len(losses) + 1
    seen = (tmp_path / "seen").read_text().splitlines()
    assert len(seen) == len(losses) and seen[1].startswith("1 2 ") and "val_accuracy" in seen[0]
    assert list((tmp_path / "board").rglob("events.*"))


def test_callbacks_remember_where_they_were(tmp_path: Path) -> None:
    """Early stopping with patience 2 that was resumed after each epoch stops where the uninterrupted one does."""
    import keras

    def stop() -> tuple[Any, ...]:
        return (keras.callbacks.EarlyStopping("val_loss", patience=2), keras.callbacks.ReduceLROnPlateau("val_loss", patience=1))

    def train(epochs: int, store: Store | None) -> dict[str, Any]:
        job = a_job(store, epochs=epochs, learning_rate=0.3, build=softmax_regression)
        return run(replace(job, callbacks=stop()), blobs(12, 1), blobs(200, 2))[0]

    whole = train(200, None)
    store = Store(str(tmp_path))
    for epochs in range(1, len(whole["epochs"]) + 3):
        found = train(epochs, store)
    assert found["digest"] == whole["digest"] and len(found["epochs"]) == len(whole["epochs"])


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be keras\.callbacks\.Callback objects, one is a str"):
        run(replace(a_job(), callbacks=("early",)), blobs(20))


def test_a_callback_that_restores_one_rank_alone_is_refused(tmp_path: Path) -> None:
    import keras

    job = replace(a_job(), callbacks=(keras.callbacks.BackupAndRestore(str(tmp_path)),))
    with pytest.raises(ConfigError, match="BackupAndRestore restores one rank alone") as caught:
        run(job, blobs(20))
    assert "set checkpointDir" in str(caught.value.hint)


def lambda_model(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    import keras

    layers = [keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(outputs, activation="softmax")]
    return keras.Sequential([keras.Input(shape), *layers])


def test_code_in_a_model_is_allowed_by_name_only() -> None:
    job = a_job()
    _, learner = run(replace(job, source=source_of(lambda_model, ("Lambda",))), blobs(20))
    body = keras_file.dump(learner.saved())
    with pytest.raises(StorageError, match=r"it holds keras\.layers\.Lambda") as caught:
        keras_file.load(body, "it")
    assert "allow=['keras.layers.Lambda'" in str(caught.value.hint)
    x = blobs(5).x
    np.testing.assert_allclose(keras_file.load(body, "it", allow=("Lambda",))(x), learner.model(x), rtol=1e-6)


ZOO: dict[str, tuple[Any, tuple[Input, ...]]] = {
    "mlp": ({"type": "mlp"}, (Input("a", (2, 2)), Input("b", ()), Input("c", (), "int32", 5), Input("d", (6,), "int32", 9))),
    "wide_and_deep": (
        {"type": "wide_and_deep", "l2": 0.01},
        (Input("a", (4,)), Input("c", (), "int32", 5), Input("d", (6,), "int32", 9)),
    ),
    "wide_and_deep alone": ({"type": "wide_and_deep"}, (Input("a", (4,)),)),
    "resnet": ({"type": "resnet", "filters": [4, 8], "blocks": 1}, (Input("a", (9, 9, 3)),)),
    "cnn": ({"type": "cnn"}, (Input("a", (9, 9, 3)),)),
    "text": ({"type": "text", "filters": 8}, (Input("d", (6,), "int32", 9),)),
}


@pytest.mark.parametrize(("net", "inputs"), ZOO.values(), ids=ZOO.keys())
def test_every_net_of_the_zoo_learns_and_is_saved(net: Any, inputs: tuple[Input, ...]) -> None:
    """The label is a function of the first input: 40 epochs on 48 rows must find most of it."""
    rng = np.random.default_rng(2)
    columns = {
        item.name: rng.integers(0, item.vocabulary, (48, *item.shape)).astype(np.int32)
        if item.is_ids
        else rng.normal(size=(48, *item.shape)).astype(np.float32)
        for item in inputs
    }
    first = columns[inputs[0].name].reshape(48, -1)
    label = (first[:, 0] > np.median(first[:, 0])).astype(float)
    job = replace(a_job(build=net, epochs=40, learning_rate=0.01), layout=Layout(inputs, (Target("label", "classification", 2),)))
    history, learner = run(job, Table(**columns, label=label))
    assert history["epochs"][-1]["accuracy"] > 0.85
    loaded = keras_file.load(keras_file.dump(learner.saved()), "it")
    x: Any = columns if len(inputs) > 1 else columns[inputs[0].name]
    np.testing.assert_allclose(loaded(x), learner.model(x), rtol=1e-5, atol=1e-6)
    if any(item.is_ids for item in inputs):  # ids that no training row had are like padding
        unseen = {
            item.name: np.where(values == 1, 999, values) if item.is_ids else values
            for item, (_, values) in zip(inputs, columns.items(), strict=True)
        }
        assert np.isfinite(np.asarray(loaded(unseen if len(inputs) > 1 else unseen[inputs[0].name]))).all()


@pytest.mark.parametrize("name", ["concatenate", "a/b"])
def test_column_names_that_keras_cannot_have_are_told(name: str) -> None:
    import keras

    keras.utils.clear_session()  # as before every training
    inputs = (Input(name, (4,)), Input("kind", (), "int32", 5))
    with pytest.raises(ConfigError, match=f"cannot be made of columns {name}, kind: ") as caught:
        source_of("mlp").make(inputs, (Target("label", "classification", 2),))
    assert caught.value.hint == "give them other names"


def test_a_net_that_cannot_take_the_columns_says_what_it_takes() -> None:
    ids = replace(LAYOUT, inputs=(Input("words", (4,), "int32", 9),))
    with pytest.raises(ConfigError, match=r"the resnet takes images .* the features are words int32\(4,\)"):
        run(replace(a_job(build={"type": "resnet"}), layout=ids), blobs(10))
    with pytest.raises(ConfigError, match=r"the text net takes one column of token ids, the features are features float32\(3,\)"):
        run(a_job(build={"type": "text"}), blobs(10))
