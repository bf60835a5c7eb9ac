"""Area under the ROC curve; one class against the rest and averaged when there are more than two."""

from __future__ import annotations

from sparkml.evaluate import histogram
from sparkml.evaluate.metric import Array, Layout, Metric, Rows


class Auc(Metric):
    """Probability that a row of the class scores above one that is not; macro average of one-vs-rest for more than two classes.

    Computed from score histograms: the error is at most half the share of (positive, negative) pairs in a common bin,
    `sparkml.evaluate.histogram.auc_error_bound`, below 1e-4 for smooth scores at the 65,536 bins of the point estimate.
    """

    task = "classification"
    greater_is_better = True
    label = "ROC AUC"
    statistic = "score_histogram"
    needs_probability = True
    limits = (0.0, 1.0)

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        return histogram.score_histogram(rows, weights, layout)

    def value(self, state: Array, layout: Layout) -> Array:
        return histogram.macro(histogram.auc_by_class(state, layout), state, layout)
