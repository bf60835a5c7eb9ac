"""Synchronous data-parallel SGD: every step applies the gradient of the mean loss over all ranks' batches.

Sergeev & Del Balso, "Horovod: fast and easy distributed deep learning in TensorFlow", 2018 (arXiv:1802.05799).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from sparkml.config import Options
from sparkml.launch.horovod import horovod
from sparkml.launch.worker import Worker
from sparkml.learners.strategy import Strategy

_LARGE = 1 << 15  # elements: worth a collective of its own, which runs while smaller gradients are still being computed


class AllreduceOptions(Options):
    """``compression`` ``fp16`` halves what gradients weigh on the wire; sums are then right to about three digits."""

    compression: Literal["none", "fp16"] = "none"


class Allreduce(Strategy):
    """Ring all-reduce by Horovod. A gang of one rank needs no ring."""

    Options = AllreduceOptions
    requires = {"horovod": "deep"}
    _alone = True

    @contextmanager
    def connected(self, worker: Worker, timeline: str | None = None) -> Iterator[None]:
        if worker.size == 1:
            yield
            return
        with horovod(worker, timeline):
            self._alone = False
            yield
        self._alone = True

    def total(self, tensors: Sequence[Any], *, gradients: bool = False) -> list[Any]:
        if self._alone:
            return list(tensors)
        if not gradients:
            return self._summed(tensors)
        import tensorflow as tf

        half = self.options.compression == "fp16"
        dense = [at for at, tensor in enumerate(tensors) if not isinstance(tensor, tf.IndexedSlices)]
        sent = [tf.cast(tensors[at], tf.float16) if half else tensors[at] for at in dense]
        found = {at: tf.cast(value, tensors[at].dtype) for at, value in zip(dense, self._summed(sent), strict=True)}
        return [found[at] if at in found else _gathered(tensor) for at, tensor in enumerate(tensors)]

    def _summed(self, tensors: Sequence[Any]) -> list[Any]:
        import horovod.tensorflow as hvd

        large = [at for at, tensor in enumerate(tensors) if (tensor.shape.num_elements() or 0) >= _LARGE]
        small = [at for at in range(len(tensors)) if at not in large]
        found = {at: hvd.allreduce(tensors[at], op=hvd.Sum) for at in large}
        if small:
            found |= zip(small, hvd.grouped_allreduce([tensors[at] for at in small], op=hvd.Sum), strict=True)
        return [found[at] for at in range(len(tensors))]

    def broadcast(self, variables: Sequence[Any]) -> None:
        if not self._alone:
            import horovod.tensorflow as hvd

            hvd.broadcast_variables([getattr(variable, "value", variable) for variable in variables], root_rank=0)


def _gathered(rows: Any) -> Any:
    """Return the rows of all ranks: an optimizer adds up those that name the same row of the embedding."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    return tf.IndexedSlices(hvd.allgather(rows.values), hvd.allgather(rows.indices), rows.dense_shape)
