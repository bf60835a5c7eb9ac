"""Which checkpoint a training goes on from, and where, by one rank in this process: an interrupted run is a store cut short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkml.learners.checkpoint import Checkpoint
from sparkml.learners.keras_job import KerasJob, train_rows
from sparkml.storage import Store
from tests.spark.keras_rows import Alone, Memory, Unread, a_job, blobs, softmax_regression

WITHIN: dict[str, Any] = {"checkpoint_steps": 2, "keep_checkpoints": 99}  # 80 rows are five steps: after 2, 4 and the epoch


def run(job: KerasJob, rows: Memory, validation: Memory | None = None) -> dict[str, Any]:
    return train_rows(Alone(), job, rows, validation)[0]


def names(store: Store) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in store.files("checkpoints") if path.endswith(".npz"))


def at(epoch: int, step: int = 0) -> str:
    return f"e{epoch:06d}-s{step:09d}.npz"


def keep_only(store: Store, *kept: str) -> str:
    """Remove all other checkpoints; return the path of the last that stays."""
    paths = sorted(path for path in store.files("checkpoints") if path.endswith(".npz"))
    for path in paths:
        if path.rpartition("/")[2] not in kept:
            store.remove(f"checkpoints/{path}")
    assert names(store) == sorted(kept)
    return "checkpoints/" + next(path for path in reversed(paths) if path.endswith(kept[-1]))


def others(count: int) -> str:
    return f"the checkpoints of {count} other trainings are not used: they have other data or settings"


def compiled(optimizer: str, rate: float, loss: str) -> Any:
    def build() -> Any:
        import keras

        model = softmax_regression((3,), 3, "classification")
        model.compile(getattr(keras.optimizers, optimizer)(rate), loss)
        return model

    return build


def test_a_checkpoint_belongs_to_the_author_s_optimizer_rate_and_loss(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    settings = ("SGD", 0.1, "sparse_categorical_crossentropy")
    run(a_job(store, compiled(*settings), epochs=1), blobs(20))
    changes = [("SGD", 0.2, settings[2]), ("Adam", 0.1, settings[2]), ("SGD", 0.1, "kl_divergence")]
    for count, changed in enumerate(changes, 1):
        found = run(a_job(store, compiled(*changed), epochs=1), blobs(20))
        assert found["resumed"] == others(count)
        assert found["digest"] == run(a_job(None, compiled(*changed), epochs=1), blobs(20))["digest"]
    assert run(a_job(store, compiled(*settings), epochs=1), Unread(**vars(blobs(20))))["resumed"] == "went on after epoch 1"


def test_a_checkpoint_belongs_to_the_callbacks_that_may_change_the_course(tmp_path: Path) -> None:
    from keras.callbacks import CSVLogger, EarlyStopping, ReduceLROnPlateau

    store = Store(str(tmp_path))

    def resumed(*callbacks: Any) -> str:
        return str(run(replace(a_job(store, epochs=1), callbacks=callbacks), blobs(20))["resumed"])

    assert resumed(EarlyStopping("loss", patience=3)) == ""
    assert resumed(EarlyStopping("loss", patience=5)) == others(1)
    assert resumed(EarlyStopping("loss", patience=3), ReduceLROnPlateau("loss")) == others(2)
    assert resumed() == others(3)
    assert resumed(EarlyStopping("loss", patience=3)) == "went on after epoch 1"
    assert resumed(EarlyStopping("loss", patience=3), CSVLogger(str(tmp_path / "log.csv"))) == "went on after epoch 1"


def noting(seen: list[str]) -> tuple[Any, ...]:
    import keras

    class Note(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            seen.append("training")

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append(f"epoch {epoch}")

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            seen.append(f"batch {batch}")

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(f"batch {batch} ends")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(f"epoch {epoch} ends")

        def on_train_end(self, logs: Any = None) -> None:
            seen.append("training ends")

    return (Note(),)


def test_callbacks_of_an_epoch_that_goes_on_are_begun_once_and_its_batches_counted_on(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    whole, seen = list[str](), list[str]()
    first = run(replace(a_job(store, epochs=2, **WITHIN), callbacks=noting(whole)), blobs(80))
    keep_only(store, at(1), at(1, 2))
    again = run(replace(a_job(store, epochs=2, **WITHIN), callbacks=noting(seen)), blobs(80))
    assert again["resumed"] == "went on after epoch 1, step 2" and again["digest"] == first["digest"]
    rest = [text for number in (2, 3, 4) for text in (f"batch {number}", f"batch {number} ends")]
    assert seen == ["training", "epoch 1", *rest, "epoch 1 ends", "training ends"]
    assert whole.count("epoch 1") == 1 and whole[-8:] == seen[-8:]


def of_two_ranks(store: Store) -> None:
    """Leave one checkpoint, within the second of three epochs, that says it were two ranks'."""
    run(a_job(store, epochs=3, **WITHIN), blobs(80))
    path = keep_only(store, at(1, 2))
    store.replace(path, replace(Checkpoint.decode(store.read(path)), size=2).encode())


def test_another_number_of_ranks_begins_its_epoch_anew_and_a_second_kill_goes_on_from_there(tmp_path: Path) -> None:
    store, undisturbed = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    of_two_ranks(store)
    within = Checkpoint.decode(store.read(keep_only(store, at(1, 2))))
    with pytest.raises(AssertionError, match="rows of epoch 1 are read"):  # killed before its first step
        run(a_job(store, epochs=3, **WITHIN), Unread(**vars(blobs(80))))
    assert names(store) == [at(1)]
    begun = Checkpoint.decode(store.read(keep_only(store, at(1))))
    assert (begun.size, begun.epoch, begun.step) == (1, 1, 0)
    weights = [name for name in begun.arrays if name.startswith("weights/")]
    assert weights and all(np.array_equal(begun.arrays[name], within.arrays[name]) for name in weights)
    again = run(a_job(store, epochs=3, **WITHIN), blobs(80))
    assert again["resumed"] == "went on after epoch 1" and len(again["epochs"]) == 3
    of_two_ranks(undisturbed)
    found = run(a_job(undisturbed, epochs=3, **WITHIN), blobs(80))
    assert found["resumed"].startswith("went on after epoch 1, step 2, with 1 rank instead of 2")
    assert found["digest"] == again["digest"]


def test_another_shuffle_buffer_brings_rows_in_another_order(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(a_job(store, epochs=3, **WITHIN), blobs(80))
    keep_only(store, at(1, 2))
    found = run(replace(a_job(store, epochs=3, **WITHIN), shuffle_bytes=1 << 20), blobs(80))
    assert found["resumed"] == (
        "went on after epoch 1, step 2, with a shuffle buffer of 1,048,576 bytes instead of 268,435,456: "
        "the weights will not be those of an uninterrupted run; rows of epoch 2 before the step are seen again"
    )
    assert at(1) in names(store) and at(1, 2) in names(store)  # written anew, as the epoch began again


def test_a_checkpoint_beyond_the_epochs_asked_for_is_not_used_but_the_one_before_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(a_job(store, epochs=3, **WITHIN), blobs(80))
    keep_only(store, at(0, 4), at(1, 2), at(2), at(2, 2))
    two = run(a_job(store, epochs=2, **WITHIN), Unread(**vars(blobs(80))))
    assert two["resumed"] == "went on after epoch 2"
    assert two["digest"] == run(a_job(epochs=2), blobs(80))["digest"]
    one = run(a_job(store, epochs=1, **WITHIN), blobs(80))
    assert one["resumed"] == "went on after epoch 0, step 4"
    assert one["digest"] == run(a_job(epochs=1), blobs(80))["digest"]


@pytest.mark.parametrize("stopped_by", ["epochs", "patience", "a callback"])
def test_a_finished_training_asked_for_again_reads_no_row_and_is_the_same(tmp_path: Path, stopped_by: str) -> None:
    def job() -> KerasJob:
        from keras.callbacks import EarlyStopping

        options: dict[str, Any] = {"epochs": 2 if stopped_by == "epochs" else 200, "learning_rate": 0.3}
        made = a_job(Store(str(tmp_path)), softmax_regression, patience=2 if stopped_by == "patience" else None, **options)
        stop = EarlyStopping("val_loss", patience=2, restore_best_weights=True)
        return replace(made, callbacks=(stop,) if stopped_by == "a callback" else ())

    rows, held_out = blobs(12, 1), blobs(200, 2)
    first = run(job(), rows, held_out)
    assert len(first["epochs"]) < 200 and first["resumed"] == ""
    again = run(job(), Unread(**vars(rows)), Unread(**vars(held_out)))
    assert again["resumed"] == f"went on after epoch {len(first['epochs'])}"
    assert (again["digest"], again["epochs"], again["best_epoch"]) == (first["digest"], first["epochs"], first["best_epoch"])


@pytest.mark.parametrize("keep", [1, 2])
def test_begin_anew_keeps_its_own_checkpoint(tmp_path: Path, keep: int) -> None:
    """`_write` prunes by name: the one just written is older by name than those within the epoch, so it goes first."""
    store = Store(str(tmp_path))
    options: dict[str, Any] = {"epochs": 3, "checkpoint_steps": 2}
    run(a_job(store, keep_checkpoints=99, **options), blobs(80))
    left = (at(1, 4),) if keep == 1 else (at(1, 2), at(1, 4))
    keep_only(store, *left)
    for path in [path for path in store.files("checkpoints") if path.endswith(".npz")]:
        path = f"checkpoints/{path}"
        store.replace(path, replace(Checkpoint.decode(store.read(path)), size=2).encode())
    with pytest.raises(AssertionError, match="rows of epoch 1"):
        run(a_job(store, keep_checkpoints=keep, **options), Unread(**vars(blobs(80))))
    assert names(store) == [at(1)]


def test_fewer_epochs_asked_for_keep_their_own_checkpoints(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(a_job(store, epochs=5), blobs(20))  # keeps 4 and 5
    run(a_job(store, epochs=3), blobs(20))  # nothing usable: trained from the start
    again = run(a_job(store, epochs=3), blobs(20))
    assert again["resumed"].endswith("went on after epoch 3")


def test_another_schedule_is_another_callback(tmp_path: Path) -> None:
    import keras

    store = Store(str(tmp_path))

    def resumed(rate: float) -> str:
        callback = keras.callbacks.LearningRateScheduler(lambda epoch, now: rate)
        return str(run(replace(a_job(store, softmax_regression, epochs=1), callbacks=(callback,)), blobs(20))["resumed"])

    resumed(0.1)
    assert not resumed(0.001).startswith("went on")


def test_another_loss_function_of_the_same_name_is_another_training(tmp_path: Path) -> None:
    store = Store(str(tmp_path))

    def build(power: int) -> Any:
        def made() -> Any:
            import keras

            def own(y: Any, p: Any) -> Any:
                return keras.losses.sparse_categorical_crossentropy(y, p) ** power

            model = softmax_regression((3,), 3, "classification")
            model.compile(keras.optimizers.SGD(0.1), own)
            return model

        return made

    run(a_job(store, build(1), epochs=1), blobs(20))
    assert not run(a_job(store, build(2), epochs=1), blobs(20))["resumed"].startswith("went on")


def test_a_callable_rate_is_told_apart(tmp_path: Path) -> None:
    store = Store(str(tmp_path))

    def build(rate: float) -> Any:
        def made() -> Any:
            import keras

            model = softmax_regression((3,), 3, "classification")
            schedule = keras.optimizers.schedules.ExponentialDecay(rate, 10, 0.9)
            model.compile(keras.optimizers.SGD(schedule), keras.losses.SparseCategoricalCrossentropy())
            return model

        return made

    run(a_job(store, build(0.1), epochs=1), blobs(20))
    assert not run(a_job(store, build(0.2), epochs=1), blobs(20))["resumed"].startswith("went on")
