"""Average precision; one class against the rest and averaged when there are more than two."""

from __future__ import annotations

from sparkml.evaluate import histogram
from sparkml.evaluate.metric import Array, Layout, Metric, Rows


class PrAuc(Metric):
    """Sum over score thresholds of precision times the gain in recall; rows in one of the 65,536 score bins count as tied."""

    task = "classification"
    greater_is_better = True
    label = "PR AUC"
    statistic = "score_histogram"
    needs_probability = True
    limits = (0.0, 1.0)

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        return histogram.score_histogram(rows, weights, layout)

    def value(self, state: Array, layout: Layout) -> Array:
        return histogram.macro(histogram.average_precision_by_class(state, layout), state, layout)
