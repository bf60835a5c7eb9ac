"""Mean squared error of the predicted probabilities (Brier 1950)."""

from __future__ import annotations

import numpy as np

from sparkml.evaluate.metric import Array, Layout, Metric, Rows, ratio, weighted_sums


class Brier(Metric):
    """Squared distance between probabilities and truth: over all classes (0 to 2), of class 1 when there are two (0 to 1).

    The same convention as scikit-learn's ``brier_score_loss(scale_by_half="auto")``.
    """

    task = "classification"
    greater_is_better = False
    label = "Brier score"
    needs_probability = True

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        assert rows.probability is not None
        # |p - onehot|^2 = |p|^2 - 2 p_true + 1, without building the one-hot matrix
        squared = np.einsum("ij,ij->i", rows.probability, rows.probability) - 2 * rows.true_probability + 1
        return weighted_sums(weights, squared)

    def value(self, state: Array, layout: Layout) -> Array:
        return ratio(state[:, 1], state[:, 0]) * (0.5 if layout.classes == 2 else 1.0)
