"""Root mean squared error."""

from __future__ import annotations

import numpy as np

from sparkml.evaluate.metric import Array, Layout, Metric, Rows, ratio, weighted_sums


class Rmse(Metric):
    """Root of the mean squared error, in the target's unit."""

    task = "regression"
    greater_is_better = False
    label = "RMSE"

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        return weighted_sums(weights, (rows.y - rows.prediction) ** 2)

    def value(self, state: Array, layout: Layout) -> Array:
        return np.sqrt(ratio(state[:, 1], state[:, 0]))
