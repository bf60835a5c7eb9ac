"""Small jobs on rows in memory, and ranks as processes of this machine: what the tests of PyTorch nets share."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle

from sparkml.launch.torch_worker import TorchWorker, run_rank
from sparkml.learners.torch_job import TorchJob
from sparkml.learners.torch_net import torch_source_of
from sparkml.learners.torch_options import TorchOptions
from sparkml.storage import Store
from tests.spark.keras_rows import LAYOUT, Alone


class AloneTorch(Alone):
    """A gang of one, in this process."""

    def total(self, tensor: Any) -> None: ...
    def broadcast(self, tensor: Any) -> None: ...


def a_job(store: Store | None = None, build: Any = None, layout: Any = LAYOUT, **options: Any) -> TorchJob:
    settings = TorchOptions(**{"epochs": 3, "batch_size": 16, "learning_rate": 0.05, **options})
    return TorchJob(
        source=torch_source_of(build or {"type": "mlp", "hidden": (8,), "dropout": 0.2}),
        layout=layout,
        options=settings,
        seed=5,
        train="",
        validation=None,
        data_mark="d",
        store=store,
    )


def normalised(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    import torch

    return torch.nn.Sequential(
        torch.nn.Linear(shape[0], 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, outputs)
    )


def on_ranks(fn: Callable[[TorchWorker], bytes], size: int) -> list[bytes]:
    """Run `fn` on ranks as TorchDistributor would start them, and return what each returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    code = cloudpickle.dumps(fn)
    ranks = [context.Process(target=partial(_rank, code, rank, size, port, sender)) for rank in range(size)]
    try:
        for rank in ranks:
            rank.start()
        sender.close()  # now a rank that ends without an answer ends the pipe
        assert receiver.poll(120), "the ranks do not answer"
        found = receiver.recv()  # before they are joined: a pipe holds 64 KB
        for rank in ranks:
            rank.join(60)
            assert rank.exitcode == 0
    finally:
        for rank in ranks:
            rank.kill()
    return found  # type: ignore[no-any-return]


def _rank(code: bytes, rank: int, size: int, port: int, sender: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    found = run_rank(code, size, 60.0, False, True, {})
    if rank == 0:
        sender.send(found)
