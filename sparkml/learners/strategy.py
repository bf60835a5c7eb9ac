"""`Strategy`: how the ranks of one training combine what they learnt. The loop stands once, in `sparkml.learners.loop`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from sparkml.launch.worker import Worker
from sparkml.plugins import Plugin


class Strategy(Plugin):
    """One way to combine. Tensors are TensorFlow's."""

    @abstractmethod
    def connected(self, worker: Worker, timeline: str | None = None) -> AbstractContextManager[None]:
        """Connect all ranks for as long as the block runs. Every rank enters. Rank 0 writes a trace to the path `timeline`."""

    @abstractmethod
    def total(self, gradients: Sequence[Any], exact: Sequence[Any] = ()) -> list[Any]:
        """Return the sum over ranks of every tensor, `gradients` first. Every rank calls, in the same order.

        Gradients may be sent with fewer bits, and one that is a ``tf.IndexedSlices`` stays one. Called inside compiled steps,
        which are traced without AutoGraph, as Keras's own are: branch on a tensor with ``tf.cond``, not with ``if``.
        """

    @abstractmethod
    def broadcast(self, variables: Sequence[Any]) -> None:
        """Give every rank rank 0's values of these variables. The first call has all that is trained, before any `total`."""
