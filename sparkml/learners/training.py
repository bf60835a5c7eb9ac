"""The settings of a training that do not depend on the architecture, shared by the estimators and the YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sparkml.config import Options
from sparkml.plugins import plugged

OPTIMIZERS = Literal[
    "adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "lion", "ftrl", "lamb", "adafactor"
]
_NOT_OF_THE_COURSE = frozenset({"checkpoint_steps", "checkpoint_minutes", "keep_checkpoints"})


def _named(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]


class NetOptions(Options):
    """Settings of mini-batch training that are the same for every kind of net.

    Attributes
    ----------
    epochs
        Passes over the training rows.
    batch_size
        Rows per step and rank.
    learning_rate
        Peak of the schedule.
    scale_learning_rate
        Multiply `learning_rate` by the number of ranks (Goyal et al., 2017, arXiv:1706.02677); best with `warmup_epochs`.
    schedule
        ``constant``, or ``cosine`` down to zero over all epochs.
    warmup_epochs
        Epochs in which the rate rises linearly from zero, before the schedule.
    patience
        Stop after this many epochs without a better validation loss (training loss without validation rows) and keep the best
        weights; null trains all epochs and keeps the last.
    label_smoothing
        Share of the target spread evenly over the classes (classification only).
    gradient_accumulation
        Micro-batches of `batch_size` whose gradients are summed before ranks combine them and the optimizer steps.
    checkpoint_steps, checkpoint_minutes
        Write a checkpoint within an epoch, too, every so often; one is always written after an epoch.
    keep_checkpoints
        How many of the newest stay.
    """

    epochs: int = Field(10, ge=1, le=100_000)
    batch_size: int = Field(128, ge=1, le=1 << 20)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    scale_learning_rate: bool = False
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: float = Field(0.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    patience: int | None = Field(None, ge=1)
    gradient_accumulation: int = Field(1, ge=1, le=1 << 16)
    checkpoint_steps: int | None = Field(None, ge=1)
    checkpoint_minutes: float | None = Field(None, gt=0)
    keep_checkpoints: int = Field(2, ge=1, le=1000)

    def course(self) -> Mapping[str, Any]:
        """Return the settings that shape the weights, for a checkpoint's fingerprint.

        With a constant rate more epochs are the same course, only longer: a finished training can be gone on with.
        """
        left_out = _NOT_OF_THE_COURSE | ({"epochs"} if self.schedule == "constant" else set())
        return self.model_dump(mode="json", exclude=set(left_out))


class TrainingOptions(NetOptions):
    """Settings of a Keras net's training. A model that comes compiled keeps its own optimizer, loss and metrics.

    Attributes
    ----------
    strategy
        How ranks combine: a name, or a mapping with options (``{type: allreduce, compression: fp16}``).
    optimizer, optimizer_options
        A Keras optimizer, and its arguments beside the learning rate (``{momentum: 0.9}``). ``sgd`` alone means Nesterov
        momentum 0.9.
    loss
        Name of a Keras loss, one per label; null: cross-entropy for classes, squared error for numbers.
    metrics
        Names of Keras metrics beside the loss; null: accuracy, or the root mean squared error. Means over rows, unweighted.
    precision
        ``float32``, or Keras's mixed precision: computes in 16 bits and keeps float32 weights.
    """

    strategy: Annotated[plugged("strategies"), BeforeValidator(_named)] = Field("allreduce", validate_default=True)  # type: ignore[valid-type]
    optimizer: OPTIMIZERS = "adam"
    optimizer_options: dict[str, float | bool | int | None] = Field({})
    loss: Names | None = None
    metrics: Names | None = None
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
