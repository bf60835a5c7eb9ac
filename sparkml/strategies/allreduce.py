"""Synchronous data-parallel SGD: every step applies the gradient of the mean loss over all ranks' batches.

Sergeev & Del Balso, "Horovod: fast and easy distributed deep learning in TensorFlow", 2018 (arXiv:1802.05799).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sparkml.launch.horovod import horovod
from sparkml.launch.worker import Worker
from sparkml.learners.strategy import Strategy


class Allreduce(Strategy):
    """Ring all-reduce by Horovod. A gang of one rank needs no ring."""

    requires = {"horovod": "deep"}
    _alone = True

    @contextmanager
    def connected(self, worker: Worker) -> Iterator[None]:
        if worker.size == 1:
            yield
            return
        with horovod(worker):
            self._alone = False
            yield
        self._alone = True

    def total(self, tensors: Sequence[Any]) -> list[Any]:
        if self._alone:
            return list(tensors)
        import horovod.tensorflow as hvd

        return list(hvd.grouped_allreduce(list(tensors), op=hvd.Sum))

    def broadcast(self, variables: Sequence[Any]) -> None:
        if not self._alone:
            import horovod.tensorflow as hvd

            hvd.broadcast_variables([getattr(variable, "value", variable) for variable in variables], root_rank=0)
