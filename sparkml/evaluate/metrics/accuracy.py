"""Fraction of rows whose predicted class is the true one."""

from __future__ import annotations

from sparkml.evaluate.metric import Array, Layout, Metric, Rows, ratio, weighted_sums


class Accuracy(Metric):
    """Fraction of rows predicted right."""

    task = "classification"
    greater_is_better = True
    label = "Accuracy"

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        return weighted_sums(weights, rows.correct)

    def value(self, state: Array, layout: Layout) -> Array:
        return ratio(state[:, 1], state[:, 0])
