"""Training on two real Horovod ranks (child processes, no Spark). One gang runs most cases: a rank takes seconds to start."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkml.errors import LaunchError
from sparkml.launch.processes import ProcessGang
from sparkml.launch.worker import Worker
from sparkml.learners import keras as learner
from sparkml.learners.feed import Layout
from sparkml.learners.inputs import Input, Target
from sparkml.learners.keras_job import KerasJob, train_rows
from sparkml.storage import Store
from tests.spark.keras_rows import Alone, Memory, a_job, blobs, softmax_regression

Case = tuple[KerasJob, list[Memory], list[Memory] | None]
LONG = {"epochs": 5, "schedule": "cosine", "warmup_epochs": 1, "patience": 3}


def normalised(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    import keras

    layers = [keras.layers.BatchNormalization(), keras.layers.Dense(outputs, activation="softmax")]
    return keras.Sequential([keras.Input(shape), *layers])


def half_frozen(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    """A frozen layer, frozen statistics, and a weight of a trainable layer that no step changes."""
    import keras

    values = keras.initializers.RandomUniform(seed=5)
    frozen = [
        keras.layers.Dense(5, kernel_initializer=values, bias_initializer=values, trainable=False),
        keras.layers.BatchNormalization(moving_mean_initializer=values, trainable=False),
    ]
    scaled = keras.layers.Normalization()
    scaled.adapt(np.random.default_rng(3).normal(size=(50, 5)))
    return keras.Sequential([keras.Input(shape), *frozen, scaled, keras.layers.Dense(outputs, activation="softmax")])


def in_order(rows: Memory, chosen: Any) -> Memory:
    return Memory(rows.x[chosen], rows.y[chosen], shuffled=False)


def uneven() -> Case:
    """32 + 20 rows in batches of 16: global batches of (16 + 16) and (16 + 4) rows, in the order in which one rank reads them."""
    rows = blobs(52)
    shares = [in_order(rows, np.r_[0:16, 32:48]), in_order(rows, np.r_[16:32, 48:52])]
    return a_job(build=softmax_regression, optimizer="sgd"), shares, None


def mine(shares: list[Memory], worker: Worker) -> Memory:
    return replace(shares[worker.rank], sizes=tuple(len(share.x) for share in shares))


def run(cases: dict[str, Case], worker: Worker) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (job, shares, validation) in cases.items():
        history, net = train_rows(worker, job, mine(shares, worker), None if validation is None else mine(validation, worker))
        kept = sum(part.startswith("kept/") for part in net.own_state())
        found[name] = {**history, "kept": kept, "weights": [weight.tolist() for weight in net.weights().values()]}
    return found


def restless(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    """Batch statistics and dropout: both differ between ranks in the middle of an epoch."""
    import keras

    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    return keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(outputs, activation="softmax")])


def long_case(store: Store) -> Case:
    return a_job(store, build=restless, **LONG), [blobs(60, 1), blobs(50, 2)], [blobs(30, 3), blobs(30, 4)]


def many_words(inputs: Any, outputs: int, task: str) -> Any:
    """Its embedding is so large that ranks exchange only the rows that they touched."""
    import keras

    words = keras.Input((3,), name="features", dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(70_000, 16)(words))
    return keras.Model(words, keras.layers.Dense(outputs, activation="softmax")(x))


def words_case(size: int) -> Case:
    """52 rows of word ids, dealt so that two ranks see the global batches of one."""
    rng = np.random.default_rng(8)
    ids = rng.integers(0, 70_000, (52, 3)).astype(np.int32)
    ids[::3, 0] = 7  # a word that both ranks touch in one step
    rows = Memory(ids, rng.integers(0, 3, 52).astype(np.float64))
    layout = Layout((Input("features", (3,), "int32", 70_000),), (Target("label", "classification", 3),))
    job = replace(a_job(build=many_words, optimizer="adam", batch_size=32 // size), layout=layout)
    orders = [np.r_[0:16, 32:48], np.r_[16:32, 48:52]] if size == 2 else [slice(None)]
    return job, [in_order(rows, order) for order in orders], None


def accumulated() -> Case:
    """Micro-batches of 8, two at a time on each of two ranks: the global batches of `uneven`."""
    _, shares, _ = uneven()
    return a_job(build=softmax_regression, optimizer="sgd", batch_size=8, gradient_accumulation=2), shares, None


def by_ring() -> Case:
    """The same without the shortcut through the host's memory."""
    _, shares, _ = uneven()
    return a_job(build=softmax_regression, optimizer="sgd", strategy={"type": "allreduce", "same_host": "horovod"}), shares, None


def compressed() -> Case:
    _, shares, _ = uneven()
    return a_job(build=softmax_regression, optimizer="sgd", strategy={"type": "allreduce", "compression": "fp16"}), shares, None


SEEN: list[str] = []


def watched(path: str) -> Case:
    """Early stopping must stop both ranks; a callback that writes runs on the first alone."""
    import keras

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            with open(path, "a") as file:
                file.write(f"{epoch} {logs['val_loss']:.9f}\n")

    class Everywhere(Watch): ...

    Watch.first_rank_only = True
    Everywhere.first_rank_only = False
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2)
    job = replace(a_job(epochs=100, learning_rate=0.3, build=softmax_regression), callbacks=(stop, Watch(), Everywhere()))
    return job, [blobs(20, 1), blobs(9, 2)], [blobs(50, 3), blobs(30, 4)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks found in every case."""
    seen = str(tmp_path_factory.mktemp("watched") / "seen")
    SEEN.append(seen)
    cases: dict[str, Case] = {
        "uneven": uneven(),
        "idle": (a_job(build=softmax_regression), [in_order(blobs(40), slice(None)), blobs(0)], None),
        "normalised": (a_job(build=normalised), [blobs(40, 1), blobs(9, 2)], [blobs(8, 3), blobs(0)]),
        "statistics": (
            a_job(build=normalised, epochs=1, batch_size=64),
            [in_order(blobs(*each), slice(None)) for each in ((40, 1), (9, 2))],
            None,
        ),
        "whole": long_case(Store(str(tmp_path_factory.mktemp("whole")))),
        "words": words_case(2),
        "accumulated": accumulated(),
        "ring": by_ring(),
        "compressed": compressed(),
        "frozen": (a_job(build=half_frozen), [blobs(20, 1), blobs(9, 2)], None),
        "watched": watched(seen),
    }

    def fn(worker: Worker) -> bytes:
        return json.dumps(run(cases, worker)).encode()

    return [json.loads(result) for result in ProcessGang().run(fn, 2)]


@pytest.mark.parametrize(
    "case", ["uneven", "idle", "normalised", "whole", "words", "accumulated", "ring", "compressed", "watched"]
)
def test_ranks_end_with_equal_weights(ranks: list[dict[str, Any]], case: str) -> None:
    assert ranks[0][case]["weights"] == ranks[1][case]["weights"]
    assert ranks[0][case]["digest"] == ranks[1][case]["digest"]


def test_two_ranks_take_the_steps_of_one_with_the_same_global_batch(ranks: list[dict[str, Any]]) -> None:
    job, _, _ = uneven()
    alone = replace(job, options=job.options.model_copy(update={"batch_size": 32}))
    one = run({"uneven": (alone, [in_order(blobs(52), slice(None))], None)}, Alone())["uneven"]
    two = ranks[0]["uneven"]
    for mine, theirs in zip(two["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(two["epochs"], one["epochs"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["accuracy"] == pytest.approx(theirs["accuracy"])


def test_a_rank_without_rows_changes_nothing(ranks: list[dict[str, Any]]) -> None:
    job = a_job(build=softmax_regression)
    alone = run({"idle": (job, [in_order(blobs(40), slice(None))], None)}, Alone())["idle"]
    assert [share["rows"] for share in ranks[0]["idle"]["ranks"]] == [40, 0]
    for mine, theirs in zip(ranks[1]["idle"]["weights"], alone["weights"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_rows_of_a_large_embedding_are_learnt_as_its_whole_gradient_would_be(
    ranks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "_SPARSE_ELEMENTS", 1 << 40)
    dense = run({"words": words_case(1)}, Alone())["words"]
    for mine, theirs in zip(ranks[1]["words"]["weights"], dense["weights"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_batch_statistics_are_averaged_by_rows(ranks: list[dict[str, Any]]) -> None:
    batches = [blobs(count, seed).x[np.arange(64) % count] for count, seed in ((40, 1), (9, 2))]  # filled up with own rows
    means, variances = ((40 * of(batches[0]) + 9 * of(batches[1])) / 49 for of in (lambda x: x.mean(0), lambda x: x.var(0)))
    _, _, found, spread, *_ = ranks[1]["statistics"]["weights"]
    np.testing.assert_allclose(found, 0.01 * means, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(spread, 0.99 + 0.01 * variances, rtol=1e-5)


def test_what_is_frozen_keeps_its_very_bits(ranks: list[dict[str, Any]]) -> None:
    found = ranks[0]["frozen"]["weights"]
    for mine, theirs in zip(found[:-2], half_frozen((3,), 3, "").get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(np.asarray(mine, theirs.dtype), theirs)
    assert ranks[0]["frozen"]["kept"] == 2  # mean and variance of the normalisation; of frozen layers nothing travels


def test_accumulated_micro_batches_are_the_large_batch_on_ranks_too(ranks: list[dict[str, Any]]) -> None:
    for mine, theirs in zip(ranks[0]["accumulated"]["weights"], ranks[0]["uneven"]["weights"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_sums_through_memory_are_those_of_the_ring(ranks: list[dict[str, Any]]) -> None:
    for mine, theirs in zip(ranks[0]["ring"]["weights"], ranks[0]["uneven"]["weights"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)


def test_half_precision_on_the_wire_is_right_to_three_digits(ranks: list[dict[str, Any]]) -> None:
    for mine, theirs in zip(ranks[0]["compressed"]["weights"], ranks[0]["uneven"]["weights"], strict=True):
        assert mine != theirs
        np.testing.assert_allclose(mine, theirs, rtol=5e-3, atol=5e-3)


def test_callbacks_run_where_they_belong_and_stop_all_ranks(ranks: list[dict[str, Any]]) -> None:
    epochs = ranks[0]["watched"]["epochs"]
    assert 3 < len(epochs) < 100 and len(ranks[1]["watched"]["epochs"]) == len(epochs)
    losses = [epoch["val_loss"] for epoch in epochs]
    assert int(np.argmin(losses)) + 3 == len(losses)
    seen = Path(SEEN[0]).read_text().splitlines()
    assert sorted(seen) == sorted(
        f"{at} {loss:.9f}" for at, loss in enumerate(losses) for _ in range(3)
    )  # rank 0 twice, rank 1 once


def dying(worker: Worker, case: Case, wait_for: str) -> bytes:
    """Rank 1 is killed in epoch 2, once the checkpoint whose name begins with `wait_for` is there."""
    job, shares, held_out = case

    class Dying(Memory):
        def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Iterator[dict[str, Any]]:
            for number, batch in enumerate(super().batches(batch_size, epoch=epoch, skip=skip)):
                if epoch == 2 and number == 3:
                    assert job.store is not None
                    while not any(wait_for in path for path in job.store.files("checkpoints")):
                        time.sleep(0.02)
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

    rows = mine(shares, worker)
    train_rows(worker, job, Dying(**vars(rows)) if worker.rank == 1 else rows, mine(held_out or [], worker))
    return b""


def again(worker: Worker, case: Case) -> bytes:
    return json.dumps(run({"whole": case}, worker)).encode()


@pytest.mark.parametrize(
    ("steps", "name", "told"), [(None, "e000002-s000000000", "epoch 2"), (1, "e000002-s000000002", "epoch 2, step")]
)
def test_killed_and_resumed_ends_with_the_weights_of_an_uninterrupted_run(
    ranks: list[dict[str, Any]], tmp_path: Path, steps: int | None, name: str, told: str
) -> None:
    """Dropout, shuffling, batch statistics, moments, the schedule and the best weights so far all come back, on both ranks."""
    job, shares, held_out = long_case(Store(str(tmp_path)))
    case = (replace(job, options=job.options.model_copy(update={"checkpoint_steps": steps})), shares, held_out)
    with pytest.raises(LaunchError, match=r"rank 1 on \S+ was killed by signal 9"):
        ProcessGang().run(partial(dying, case=case, wait_for=name), 2)
    resumed = json.loads(ProcessGang().run(partial(again, case=case), 2)[0])["whole"]
    whole = ranks[0]["whole"]
    assert told in resumed["resumed"] and whole["resumed"] == ""
    assert resumed["digest"] == whole["digest"]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert [epoch[name] for epoch in resumed["epochs"]] == [epoch[name] for epoch in whole["epochs"]]


def test_another_number_of_ranks_goes_on_and_says_so(tmp_path: Path) -> None:
    case = long_case(Store(str(tmp_path)))
    with pytest.raises(LaunchError):
        ProcessGang().run(partial(dying, case=case, wait_for="e000002-s000000000"), 2)
    job, shares, held_out = case
    rows = Memory(np.concatenate([share.x for share in shares]), np.concatenate([share.y for share in shares]))
    found = run({"whole": (job, [rows], held_out)}, Alone())["whole"]
    assert found["resumed"].startswith("went on after epoch 2, with 1 rank instead of 2: the weights will not be those")
    assert len(found["epochs"]) == 5
