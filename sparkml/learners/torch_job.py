"""`TorchJob` and `train_torch`: what each rank of a ``TorchDistributor`` runs."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any, Protocol

from sparkml.errors import TrainingError
from sparkml.launch.worker import Worker
from sparkml.learners import agree, loop, torch_file
from sparkml.learners.feed import Layout, Rows, Shards
from sparkml.learners.resume import Keeper
from sparkml.learners.torch import Exchange, TorchLearner
from sparkml.learners.torch_net import TorchSource
from sparkml.learners.torch_options import TorchOptions
from sparkml.lineage.fingerprint import fingerprint
from sparkml.storage import Store


class TorchRank(Worker, Exchange, Protocol):
    """A `Worker` whose ranks can add up tensors."""


@dataclass(frozen=True)
class TorchJob:
    """Everything that a rank needs to train: travels with the function, by cloudpickle.

    Attributes
    ----------
    train, validation
        URLs of shard sets; the fingerprints of both are in `data_mark`.
    store, checkpoint
        The folder for checkpoints; a None store keeps none.
    class_weights
        One factor per class, or none.
    """

    source: TorchSource
    layout: Layout
    options: TorchOptions
    seed: int
    train: str
    validation: str | None
    data_mark: str
    store: Store | None
    checkpoint: str = "checkpoints"
    class_weights: tuple[float, ...] | None = None
    shuffle_bytes: int = 256 << 20


def train_rows(worker: TorchRank, job: TorchJob, rows: Rows, validation: Rows | None) -> tuple[dict[str, Any], TorchLearner]:
    """Train on rows at hand; return the history (see `loop.train`) and the learner."""
    import torch

    worker.note("start", 0)
    torch.use_deterministic_algorithms(True)
    learner = TorchLearner(job.source, job.layout, job.options, worker, job.seed, class_weights=job.class_weights)
    mark = _mark(job, learner, _agreed(worker, learner))
    keeper = Keeper(job.store, job.checkpoint, mark, job.options, job.shuffle_bytes)
    history = loop.train(worker, learner, loop.Data(rows, validation, job.layout), job.options, keeper)
    facts = {"parameters": sum(item.numel() for item in learner.module.parameters()), "layers": str(learner.module)}
    return {**history, **facts}, learner


def _agreed(worker: TorchRank, learner: TorchLearner) -> list[str]:
    """Return the hashes of the graph that rank 0 has traced and of the names and shapes that the module holds.

    Raises `TrainingError` if ranks have built different modules.
    """
    shapes = {name: [list(value.shape), value.dtype.str] for name, value in learner.weights().items()}
    ranks = agree.gathered(worker, [learner.graph, fingerprint(shapes)])
    different = [rank for rank, (_, mark) in enumerate(ranks) if mark != ranks[0][1]]
    if different:
        raise TrainingError(
            f"the modules of ranks {different} have other parameters or buffers than that of rank 0",
            hint="the model function must build the same module on every rank, whatever the rank, the host and the time",
        )
    return [str(mark) for mark in ranks[0]]


def _mark(job: TorchJob, learner: TorchLearner, module: list[str]) -> str:
    """Return the fingerprint that a checkpoint of this training carries.

    The graph is that of predictions: of what happens in training only (dropout), the text of the module tells.
    """
    return fingerprint(
        {
            "kind": "torch",
            "data": job.data_mark,
            "options": job.options.course(),
            "model": [*module, re.sub(r"\bat 0x[0-9a-f]+", "", str(learner.module))],  # an address is another in every process
            "layout": repr(job.layout),
            "class_weights": job.class_weights,
            "seed": job.seed,
        }
    )


def train_torch(worker: TorchRank, job: TorchJob) -> bytes:
    """Train on this rank's shards. Rank 0 returns JSON: ``history``, and ``model``, the net's file in base 64."""

    def rows(url: str, seed: int | None) -> Rows:
        return Shards(url, job.layout.columns, worker.rank, worker.size, seed, job.shuffle_bytes)

    held_out = None if job.validation is None else rows(job.validation, None)
    history, learner = train_rows(worker, job, rows(job.train, job.seed), held_out)
    if worker.rank != 0:
        return b""
    model = base64.b64encode(torch_file.dump(learner.saved(), job.layout.inputs)).decode()
    return json.dumps({"history": history, "model": model}).encode()
