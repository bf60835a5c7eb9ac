"""Histograms of class scores: the additive statistic behind ROC AUC, average precision and their curves.

Ranking metrics need all scores sorted; a histogram over a fixed monotone map of the score adds over partitions instead.
Rows that share a bin count as tied, so the error is at most what those ties could hide: see `auc_error_bound`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkml.evaluate.metric import Array, Layout, Rows, binned_sums, ratio

_LOGIT_RANGE = 40.0  # float64 scores closer to 1 than exp(-37) are 1; smaller ones than exp(-40) share the first bin


def columns(classes: int) -> list[int]:
    """Return the classes that get a histogram: class 1 for two classes, otherwise each against the rest."""
    return [1] if classes == 2 else list(range(classes))


def score_bins(score: Array, bins: int) -> NDArray[np.int64]:
    """Return the bin, 0 to ``bins - 1``, of each score in [0, 1]; monotone in the score.

    Half of the bins are equally wide in the score, half in its logit, so that neither the middle of the range nor the
    crowded ends of a confident model are coarse: with 65,536 bins a bin is at most 3.1e-5 wide in the score, and near the
    ends about 0.0024 wide in the logit.
    """
    clipped = np.clip(score, 0.0, 1.0)
    with np.errstate(divide="ignore"):
        logit = np.clip(np.log(clipped) - np.log1p(-clipped), -_LOGIT_RANGE, _LOGIT_RANGE)
    position = 0.5 * clipped + 0.25 * (logit / _LOGIT_RANGE + 1.0)
    index: NDArray[np.int64] = np.minimum((np.nan_to_num(position) * bins).astype(np.int64), bins - 1)
    return index


def score_histogram(rows: Rows, weights: Array, layout: Layout) -> Array:
    """Return the state, shape (B, columns * 2 * bins): per class the score histograms of the negatives and of the positives."""
    assert rows.probability is not None
    parts = []
    for column in columns(layout.classes):
        positive = (rows.y == column).astype(np.int64)
        index = score_bins(rows.probability[:, column], layout.bins) + layout.bins * positive
        parts.append(binned_sums(weights, index, 2 * layout.bins))
    return np.concatenate(parts, axis=1)


def unpack(state: Array, layout: Layout) -> tuple[Array, Array]:
    """Return (negatives, positives), each of shape (B, columns, bins)."""
    shaped = state.reshape(len(state), len(columns(layout.classes)), 2, layout.bins)
    return shaped[:, :, 0], shaped[:, :, 1]


def auc_by_class(state: Array, layout: Layout) -> Array:
    """Return shape (B, columns): the probability that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    negatives, positives = unpack(state, layout)
    below = np.cumsum(negatives, axis=2) - 0.5 * negatives
    return ratio((positives * below).sum(axis=2), positives.sum(axis=2) * negatives.sum(axis=2))


def auc_error_bound(state: Array, layout: Layout) -> Array:
    """Return shape (B, columns): how far `auc_by_class` can be from the exact value, half the pairs that share a bin."""
    negatives, positives = unpack(state, layout)
    return ratio(0.5 * (positives * negatives).sum(axis=2), positives.sum(axis=2) * negatives.sum(axis=2))


def average_precision_by_class(state: Array, layout: Layout) -> Array:
    """Return shape (B, columns): the sum over thresholds of precision times the gain in recall (no interpolation)."""
    negatives, positives = unpack(state, layout)
    gained = positives[:, :, ::-1]
    true_positives = np.cumsum(gained, axis=2)
    predicted = true_positives + np.cumsum(negatives[:, :, ::-1], axis=2)
    precision = np.divide(true_positives, predicted, out=np.zeros_like(predicted), where=predicted > 0)
    return ratio((gained * precision).sum(axis=2), true_positives[:, :, -1])


def macro(by_class: Array, state: Array, layout: Layout) -> Array:
    """Average over the classes that occur, NaN when no class has both positives and negatives.

    A replicate (or a slice) without any row of some class is averaged over the others, as scikit-learn cannot.
    """
    negatives, positives = unpack(state, layout)
    defined = (positives.sum(axis=2) > 0) & (negatives.sum(axis=2) > 0)
    return ratio(np.where(defined, by_class, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64))


def curves(state: Array, layout: Layout, points: int = 200) -> list[dict[str, Any]]:
    """Return ROC and precision-recall points per class from a state of shape (1, S), at most `points` each.

    The kept points are evenly spaced along the curve, so the steep part near the corner keeps its shape.
    """
    negatives, positives = (part[0] for part in unpack(state, layout))
    found = []
    for position, column in enumerate(columns(layout.classes)):
        true_positives = np.concatenate([[0.0], np.cumsum(positives[position][::-1])])
        false_positives = np.concatenate([[0.0], np.cumsum(negatives[position][::-1])])
        if true_positives[-1] == 0 or false_positives[-1] == 0:
            continue
        recall, fallout = true_positives / true_positives[-1], false_positives / false_positives[-1]
        precision = np.divide(
            true_positives, true_positives + false_positives, out=np.ones_like(recall), where=true_positives + false_positives > 0
        )
        roc = _thin(fallout, recall, points)
        full = int(np.argmax(recall >= 1)) + 1  # lower thresholds find no more positives, only lose precision
        pr = _thin(recall[1:full], precision[1:full], points)
        found.append({"class_index": column, "fpr": roc[0], "tpr": roc[1], "recall": pr[0], "precision": pr[1]})
    return found


def _thin(x: Array, y: Array, points: int) -> tuple[list[float], list[float]]:
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    keep = np.unique(np.concatenate([[0], np.searchsorted(length, np.linspace(0, length[-1], points - 1)), [len(x) - 1]]))
    keep = keep[:points]
    return [round(float(v), 5) for v in x[keep]], [round(float(v), 5) for v in y[keep]]
