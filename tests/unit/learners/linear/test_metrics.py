"""Areas under curves: as scikit-learn's, wherever the scores lie."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from sparkml.learners.linear.families import Binomial, SquaredHinge
from sparkml.learners.linear.metrics import METRICS


@pytest.mark.parametrize(("where", "spread"), [(0, 1), (0, 0.02), (-4.6, 0.5), (-11, 0.5), (12, 1), (0, 20)])
def test_scores_of_rare_classes_are_ranked_too(where: float, spread: float) -> None:
    """A class of one row in 60,000 has probabilities that differ by less than 1e-4."""
    random = np.random.default_rng(4)
    eta = where + spread * random.normal(size=50_000)
    y = (eta + spread * random.normal(size=50_000) > where + 1.5 * spread).astype(float)
    weight = random.integers(1, 3, len(y)).astype(float)
    for name, theirs in (("areaUnderROC", roc_auc_score), ("areaUnderPR", average_precision_score)):
        metric = METRICS[name]
        for family, scores in ((Binomial(), eta), (SquaredHinge(), eta.astype(np.float32))):
            (sums,) = metric.sums(family, scores[None], y, weight)
            assert metric.value(sums) == pytest.approx(theirs(y, eta, sample_weight=weight), abs=5e-4)
