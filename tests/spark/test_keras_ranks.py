"""Training on two real Horovod ranks (child processes, no Spark). One gang runs most cases: a rank takes seconds to start."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkml.errors import LaunchError
from sparkml.launch.processes import ProcessGang
from sparkml.launch.worker import Worker
from sparkml.learners.keras_job import KerasJob, train_rows
from sparkml.storage import Store
from tests.spark.keras_rows import Alone, Memory, a_job, blobs, softmax_regression

Case = tuple[KerasJob, list[Memory], list[Memory] | None]
LONG = {"epochs": 5, "schedule": "cosine", "warmup_epochs": 1, "patience": 3}


def normalised(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    import keras

    layers = [keras.layers.BatchNormalization(), keras.layers.Dense(outputs, activation="softmax")]
    return keras.Sequential([keras.Input(shape), *layers])


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
        history, learner = train_rows(worker, job, mine(shares, worker), None if validation is None else mine(validation, worker))
        found[name] = {**history, "weights": [weight.tolist() for weight in learner.weights().values()]}
    return found


def long_case(store: Store) -> Case:
    return a_job(store, **LONG), [blobs(60, 1), blobs(50, 2)], [blobs(30, 3), blobs(30, 4)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks found in every case."""
    cases: dict[str, Case] = {
        "uneven": uneven(),
        "idle": (a_job(build=softmax_regression), [in_order(blobs(40), slice(None)), blobs(0)], None),
        "normalised": (a_job(build=normalised), [blobs(40, 1), blobs(9, 2)], [blobs(8, 3), blobs(0)]),
        "whole": long_case(Store(str(tmp_path_factory.mktemp("whole")))),
    }

    def fn(worker: Worker) -> bytes:
        return json.dumps(run(cases, worker)).encode()

    return [json.loads(result) for result in ProcessGang().run(fn, 2)]


@pytest.mark.parametrize("case", ["uneven", "idle", "normalised", "whole"])
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


def test_killed_and_resumed_ends_with_the_weights_of_an_uninterrupted_run(ranks: list[dict[str, Any]], tmp_path: Path) -> None:
    """Dropout, shuffling, Adam's moments, the schedule and the best weights so far all have to come back, on both ranks."""
    job, shares, held_out = long_case(Store(str(tmp_path)))

    def dies(worker: Worker) -> bytes:
        class Dying(Memory):
            def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Iterator[dict[str, Any]]:
                for number, batch in enumerate(super().batches(batch_size, epoch=epoch, skip=skip)):
                    if epoch == 2 and number == 3:
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield batch

        rows = mine(shares, worker)
        train_rows(worker, job, Dying(**vars(rows)) if worker.rank == 1 else rows, mine(held_out or [], worker))
        return b""

    with pytest.raises(LaunchError, match=r"rank 1 on \S+ was killed by signal 9"):
        ProcessGang().run(dies, 2)

    def again(worker: Worker) -> bytes:
        return json.dumps(run({"whole": (job, shares, held_out)}, worker)).encode()

    resumed = json.loads(ProcessGang().run(again, 2)[0])["whole"]
    whole = ranks[0]["whole"]
    assert resumed["resumed"] == "went on after epoch 2" and whole["resumed"] == ""
    assert resumed["digest"] == whole["digest"]
    assert [epoch["val_loss"] for epoch in resumed["epochs"]] == [epoch["val_loss"] for epoch in whole["epochs"]]
