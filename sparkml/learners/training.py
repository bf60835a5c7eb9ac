"""The settings of a training that do not depend on the architecture, shared by the estimators and the YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from sparkml import plugins
from sparkml.config import Options, suggest


class TrainingOptions(Options):
    """Settings of mini-batch training.

    Attributes
    ----------
    batch_size
        Rows per step and rank.
    learning_rate
        Peak of the schedule.
    schedule
        ``constant``, or ``cosine`` down to zero over all epochs; `warmup_epochs` rise linearly before either.
    patience
        Stop after this many epochs without a better validation loss (training loss without validation rows) and keep the best
        weights; null trains all epochs and keeps the last.
    label_smoothing
        Share of the target spread evenly over the classes (classification only).
    """

    strategy: str = "allreduce"
    epochs: int = Field(10, ge=1, le=100_000)
    batch_size: int = Field(128, ge=1, le=1 << 20)
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, le=10)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: float = Field(0.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    patience: int | None = Field(None, ge=1)

    @field_validator("strategy")
    @classmethod
    def _known(cls, value: str) -> str:
        known = plugins.names("strategies")
        if value not in known:
            raise PydanticCustomError("strategy", "no such strategy; {advice}", {"advice": suggest(value, known)})
        return value
