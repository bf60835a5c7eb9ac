"""What goes into a net and what shall come out of it: the columns of the shards as tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Input:
    """One input of a net.

    Attributes
    ----------
    name
        The column's, and of the net's input.
    shape
        Of one row; ``()`` for a single number or id.
    dtype
        ``float32``, or ``int32`` for ids.
    vocabulary
        Of ids: the largest id of the training rows + 1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    vocabulary: int = 0

    @property
    def is_ids(self) -> bool:
        return self.dtype == "int32"


@dataclass(frozen=True)
class Target:
    """One label and what the net says about it.

    Attributes
    ----------
    column
        Of the label.
    task
        ``classification``: the label is a class index; ``regression``: a number, or `outputs` of them.
    outputs
        Classes, or numbers.
    mean, std
        A regression's label is learnt in units of its training mean and standard deviation.
    """

    column: str
    task: str
    outputs: int
    mean: float = 0.0
    std: float = 1.0

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of one row of the label, as the loss sees it."""
        return () if self.task == "classification" else (self.outputs,)
