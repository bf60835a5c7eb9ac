"""Coefficient of determination."""

from __future__ import annotations

from sparkml.evaluate.metric import Array, Layout, Metric, Rows, ratio, weighted_sums


class R2(Metric):
    """1 - squared error / variance of the target; NaN where the target is constant.

    The variance comes from sums of y and y^2: it loses about 2 log10(mean / deviation) of 15 digits, 8 are left for
    timestamps in seconds.
    """

    task = "regression"
    greater_is_better = True
    label = "R²"

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        return weighted_sums(weights, rows.y, rows.y**2, (rows.y - rows.prediction) ** 2)

    def value(self, state: Array, layout: Layout) -> Array:
        count, total, squares, error = state.T
        spread = squares - ratio(total**2, count)
        spread[spread < 1e-13 * squares] = 0.0  # constant target: what is left is rounding
        return 1.0 - ratio(error, spread)
