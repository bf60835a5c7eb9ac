"""Expected calibration error of the predicted class (Naeini 2015; Guo 2017, arXiv 1706.04599)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from sparkml.config import Options
from sparkml.evaluate.calibration import calibration_sums
from sparkml.evaluate.metric import Array, Layout, Metric, Rows, ratio


class CalibrationErrorOptions(Options):
    """``bins`` of equal width over the confidence, 0 to 1."""

    bins: int = Field(15, ge=2, le=200)


class CalibrationError(Metric):
    """Mean over confidence bins, weighted by rows, of |accuracy - confidence|; confidence is the largest class probability."""

    Options = CalibrationErrorOptions
    task = "classification"
    greater_is_better = False
    label = "Calibration error"
    needs_probability = True

    def state(self, rows: Rows, weights: Array, layout: Layout) -> Array:
        return calibration_sums(rows, weights, self.options.bins)

    def value(self, state: Array, layout: Layout) -> Array:
        count, confidence, correct = np.split(state, 3, axis=1)
        return ratio(np.abs(correct - confidence).sum(axis=1), count.sum(axis=1))
