"""Mean absolute error."""

from __future__ import annotations

import numpy as np

from sparkml.evaluate.metric import Array, Layout, Metric, Rows, ratio, weighted_sums


class Mae(Metric):
    """Mean of |target - prediction|, in the target's unit."""

    task = "regression"
    greater_is_better = False
    label = "MAE"

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        return weighted_sums(weights, np.abs(rows.y - rows.prediction))

    def value(self, state: Array, layout: Layout) -> Array:
        return ratio(state[:, 1], state[:, 0])
