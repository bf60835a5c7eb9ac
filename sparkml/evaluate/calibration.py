"""Sums per confidence bin: the additive statistic of the calibration error and of the reliability diagram."""

from __future__ import annotations

import numpy as np

from sparkml.evaluate.metric import Array, Rows, binned_sums


def calibration_sums(rows: Rows, weights: Array, bins: int) -> Array:
    """Return shape (B, 3 * bins): per bin of the largest class probability the rows, the confidence and the right predictions.

    Bins are equally wide and closed on the right, ``(i / bins, (i + 1) / bins]``, as in Guo 2017.
    """
    assert rows.probability is not None
    confidence = rows.probability.max(axis=1, initial=0.0)
    index = np.clip(np.ceil(np.nan_to_num(confidence) * bins).astype(np.int64) - 1, 0, bins - 1)
    correct = rows.correct
    return np.concatenate(
        [binned_sums(weights * column, index, bins) for column in (np.ones_like(correct), confidence, correct)], axis=1
    )
