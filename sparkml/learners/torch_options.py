"""The settings of a PyTorch net's training, shared by the estimators and the YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sparkml.learners.training import NetOptions

TORCH_OPTIMIZERS = Literal["adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta", "adamax", "nadam"]


class TorchOptions(NetOptions):
    """Settings of a PyTorch net's training. Ranks always combine by all-reduce, in float32.

    Attributes
    ----------
    optimizer, optimizer_options
        An optimizer of ``torch.optim``, and its arguments beside the learning rate: ``{weight_decay: 0.01,
        betas: [0.9, 0.98]}``. ``sgd`` alone means Nesterov momentum 0.9.
    """

    optimizer: TORCH_OPTIMIZERS = "adam"
    optimizer_options: dict[str, float | bool | int | tuple[float, float] | None] = Field({})
