"""`KerasJob` and `train_keras`: what each rank of a gang runs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparkml.launch.worker import Worker
from sparkml.learners import keras_file, loop
from sparkml.learners.callbacks import described
from sparkml.learners.feed import Layout, Rows, Shards
from sparkml.learners.framework import quick_import
from sparkml.learners.keras import KerasLearner
from sparkml.learners.resume import Keeper
from sparkml.learners.source import ModelSource
from sparkml.learners.strategy import Strategy
from sparkml.learners.training import TrainingOptions
from sparkml.lineage.fingerprint import fingerprint
from sparkml.storage import Store


@dataclass(frozen=True)
class KerasJob:
    """Everything that a rank needs to train: travels with the function, by cloudpickle.

    Attributes
    ----------
    train, validation
        URLs of shard sets; the fingerprints of both are in `data_mark`.
    store, checkpoint
        The folder for checkpoints; a None store keeps none.
    class_weights
        One factor per class of the first label, or none.
    timeline
        Bring back Horovod's trace of all collectives.
    """

    source: ModelSource
    layout: Layout
    options: TrainingOptions
    seed: int
    train: str
    validation: str | None
    data_mark: str
    store: Store | None
    checkpoint: str = "checkpoints"
    callbacks: tuple[Any, ...] = ()
    class_weights: tuple[float, ...] | None = None
    shuffle_bytes: int = 256 << 20
    timeline: bool = False


def train_rows(worker: Worker, job: KerasJob, rows: Rows, validation: Rows | None) -> tuple[dict[str, Any], KerasLearner]:
    """Train on rows at hand; return the history (see `loop.train`) and the learner."""
    quick_import("keras", "horovod.tensorflow")
    import keras
    import tensorflow as tf

    worker.note("start", 0)
    keras.utils.clear_session()  # layer names count from the start, or a checkpoint's fingerprint would never match
    keras.utils.set_random_seed(job.seed)
    tf.config.experimental.enable_op_determinism()
    callbacks = described(job.callbacks)  # as they were given: they keep their state in the same attributes
    strategy = job.options.strategy
    assert isinstance(strategy, Strategy)
    with _trace(job.timeline and worker.rank == 0) as trace, strategy.connected(worker, trace):
        learner = KerasLearner(
            job.source,
            job.layout,
            job.options,
            strategy,
            (worker.rank, worker.size),
            callbacks=job.callbacks,
            class_weights=job.class_weights,
        )
        mark = _mark(job, learner, callbacks)
        keeper = Keeper(job.store, job.checkpoint, mark, job.options, job.shuffle_bytes)
        history = loop.train(worker, learner, loop.Data(rows, validation, job.layout), job.options, keeper)
    facts = {"parameters": learner.model.count_params(), "logits": learner.logits, "timeline": _text(trace)}
    return {**history, **facts}, learner


def _mark(job: KerasJob, learner: KerasLearner, callbacks: list[Any]) -> str:
    """Return the fingerprint that a checkpoint of this training carries."""
    return fingerprint(
        {
            "data": job.data_mark,
            "options": job.options.course(),
            "model": learner.model.get_config(),
            "compiled": learner.author_s_settings,
            "weights": keras_file.mark(job.source.body) if job.source.body is not None else "",
            "layout": repr(job.layout),
            "class_weights": job.class_weights,
            "callbacks": callbacks,
            "seed": job.seed,
        }
    )


@contextlib.contextmanager
def _trace(wanted: bool) -> Iterator[str | None]:
    if not wanted:
        yield None
        return
    with tempfile.NamedTemporaryFile(prefix="sparkml-timeline-", suffix=".json", delete=False) as file:
        pass
    yield file.name


def _text(trace: str | None) -> str:
    if trace is None:
        return ""
    with open(trace, encoding="utf-8") as file:
        text = file.read()
    os.remove(trace)
    if not text.strip():  # one rank needs no collectives
        return ""
    return text if text.rstrip().endswith("]") else text.rstrip().rstrip(",") + "\n]"  # Horovod leaves its list open


def train_keras(worker: Worker, job: KerasJob) -> bytes:
    """Train on this rank's shards. Rank 0 returns JSON: ``history``, and ``model``, the ``.keras`` file in base 64."""

    def rows(url: str, seed: int | None) -> Rows:
        return Shards(url, job.layout.columns, worker.rank, worker.size, seed, job.shuffle_bytes)

    held_out = None if job.validation is None else rows(job.validation, None)
    history, learner = train_rows(worker, job, rows(job.train, job.seed), held_out)
    if worker.rank != 0:
        return b""
    model = base64.b64encode(keras_file.dump(learner.saved())).decode()
    return json.dumps({"history": history, "model": model}).encode()
