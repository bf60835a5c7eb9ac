"""F1 of each class, averaged with equal weight: rare classes count as much as common ones."""

from __future__ import annotations

import numpy as np

from sparkml.evaluate.metric import Array, Layout, Metric, Rows, binned_sums, ratio


class MacroF1(Metric):
    """Mean over classes of 2 TP / (2 TP + FP + FN); classes that neither occur nor are predicted do not count."""

    task = "classification"
    greater_is_better = True
    label = "Macro F1"

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        truth = binned_sums(weights, rows.y, layout.classes)
        predicted = binned_sums(weights, rows.prediction, layout.classes)
        right = rows.y == rows.prediction
        return np.concatenate([binned_sums(weights[:, right], rows.y[right], layout.classes), truth, predicted], axis=1)

    def value(self, state: Array, layout: Layout) -> Array:
        true_positives, truth, predicted = np.split(state, 3, axis=1)
        seen = truth + predicted > 0
        f1 = np.where(seen, np.nan_to_num(ratio(2 * true_positives, truth + predicted)), 0.0)
        return ratio(f1.sum(axis=1), seen.sum(axis=1).astype(np.float64))
