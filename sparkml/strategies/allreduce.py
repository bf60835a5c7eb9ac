"""Synchronous data-parallel SGD: every step applies the gradient of the mean loss over all ranks' batches.

Sergeev & Del Balso, "Horovod: fast and easy distributed deep learning in TensorFlow", 2018 (arXiv:1802.05799).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sparkml.config import Options
from sparkml.launch.horovod import CYCLE_MS, horovod
from sparkml.launch.shared_memory import HostSum, meet
from sparkml.launch.worker import Worker
from sparkml.learners.strategy import Strategy

_LARGE = 1 << 15  # elements: worth a collective of its own, which runs while smaller gradients are still being computed
_IDLE_CYCLE_MS = 10.0  # where Horovod has next to nothing to do
_SPARE = 1 << 12  # numbers beside the model's own that are totalled now and then


class AllreduceOptions(Options):
    """How gradients travel.

    Attributes
    ----------
    compression
        ``fp16`` halves what gradients weigh on the wire; sums are then right to about three digits.
    same_host
        Up to four ranks that share one host add up dense gradients in its memory (`sparkml.launch.shared_memory`), unless they
        are compressed; ``horovod`` uses the ring there, too. Between hosts it is always the ring.
    """

    compression: Literal["none", "fp16"] = "none"
    same_host: Literal["memory", "horovod"] = "memory"


@dataclass
class _Line:
    """This rank's connection to the others. The ring starts when it is known what memory can carry."""

    worker: Worker
    timeline: str | None
    ring: ExitStack = field(default_factory=ExitStack)
    host: HostSum | None = None
    started: bool = False

    def start(self, by_memory: bool, numbers: int) -> None:
        self.host = meet(self.worker, numbers) if by_memory else None
        self.ring.enter_context(horovod(self.worker, self.timeline, CYCLE_MS if self.host is None else _IDLE_CYCLE_MS))
        self.started = True

    def close(self) -> None:
        self.ring.close()
        if self.host is not None:
            self.host.close()


class Allreduce(Strategy):
    """Ring all-reduce by Horovod; through memory where that is shorter. A gang of one rank needs neither."""

    Options = AllreduceOptions
    requires = {"horovod": "deep"}
    _line: _Line | None = None

    @contextmanager
    def connected(self, worker: Worker, timeline: str | None = None) -> Iterator[None]:
        if worker.size == 1:
            yield
            return
        self._line = _Line(worker, timeline)
        try:
            yield
        finally:
            self._line.close()
            self._line = None

    def total(self, gradients: Sequence[Any], exact: Sequence[Any] = ()) -> list[Any]:
        import tensorflow as tf

        if self._line is None:
            return [*gradients, *exact]
        tensors = [*gradients, *exact]
        dense = [at for at, tensor in enumerate(tensors) if not isinstance(tensor, tf.IndexedSlices)]
        found = dict(zip(dense, self._summed(self._line, [tensors[at] for at in dense], len(tensors) - len(exact)), strict=True))
        return [found[at] if at in found else _gathered(tensor) for at, tensor in enumerate(tensors)]

    def _summed(self, line: _Line, tensors: list[Any], gradients: int) -> list[Any]:
        """Return the sums of dense tensors, of which the first `gradients` are gradients."""
        import tensorflow as tf

        if line.host is not None and _fits(tensors, line.host):
            return _through_memory(line.host, tensors)
        half = self.options.compression == "fp16"
        sent = [tf.cast(tensor, tf.float16) if half and at < gradients else tensor for at, tensor in enumerate(tensors)]
        return [tf.cast(value, tensor.dtype) for value, tensor in zip(_by_ring(sent), tensors, strict=True)]

    def broadcast(self, variables: Sequence[Any]) -> None:
        if self._line is None:
            return
        if not self._line.started:
            by_memory = self.options.same_host == "memory" and self.options.compression == "none"
            gradients = sum(int(np.prod(variable.shape)) for variable in variables if variable.trainable)
            self._line.start(by_memory, gradients + _SPARE)
        import horovod.tensorflow as hvd

        hvd.broadcast_variables([getattr(variable, "value", variable) for variable in variables], root_rank=0)


def _fits(tensors: list[Any], host: HostSum) -> bool:
    numbers = [tensor.shape.num_elements() for tensor in tensors]
    return None not in numbers and sum(numbers) <= host.capacity and all(tensor.dtype == "float32" for tensor in tensors)


def _by_ring(tensors: list[Any]) -> list[Any]:
    import horovod.tensorflow as hvd

    large = [at for at, tensor in enumerate(tensors) if (tensor.shape.num_elements() or 0) >= _LARGE]
    found = {at: hvd.allreduce(tensors[at], op=hvd.Sum) for at in large}
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors):  # a group is of one type
        small = [at for at, tensor in enumerate(tensors) if at not in large and tensor.dtype == kind]
        if small:
            found |= zip(small, hvd.grouped_allreduce([tensors[at] for at in small], op=hvd.Sum), strict=True)
    return [found[at] for at in range(len(tensors))]


def _through_memory(host: HostSum, tensors: list[Any]) -> list[Any]:
    """Sum all tensors in one go: one copy in, one meeting, one copy out."""
    import tensorflow as tf

    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
    total = tf.numpy_function(host.sum, [flat], tf.float32)
    total.set_shape(flat.shape)
    sizes = [tensor.shape.num_elements() for tensor in tensors]
    parts = tf.split(total, sizes)
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _gathered(rows: Any) -> Any:
    """Return the rows of all ranks, of which some may name the same row of the embedding."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    return tf.IndexedSlices(hvd.allgather(rows.values), hvd.allgather(rows.indices), rows.dense_shape)
