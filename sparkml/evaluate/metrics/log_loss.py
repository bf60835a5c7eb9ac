"""Mean negative logarithm of the probability given to the true class."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from sparkml.config import Options
from sparkml.evaluate.metric import Array, Layout, Metric, Rows, ratio, weighted_sums


class LogLossOptions(Options):
    """``clip`` keeps one impossible row from making the loss infinite; the default is float64's epsilon, as in scikit-learn."""

    clip: float = Field(float(np.finfo(np.float64).eps), gt=0, lt=0.5)


class LogLoss(Metric):
    """Cross-entropy in nats per row."""

    Options = LogLossOptions
    task = "classification"
    greater_is_better = False
    label = "Log loss"
    needs_probability = True

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        clip = self.options.clip
        return weighted_sums(weights, -np.log(np.clip(rows.true_probability, clip, 1 - clip)))

    def value(self, state: Array, layout: Layout) -> Array:
        return ratio(state[:, 1], state[:, 0])
