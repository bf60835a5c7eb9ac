"""What a held-out fold says of a model: metrics as sums over rows, so that many models are judged in one pass.

Names are those of pyspark.ml's evaluators. Scores are ranked by their etas in 8,192 bins, ties counted half: with the
distribution of scores smooth, an area under a curve is off by the square of a bin's width, relative to how far scores spread.
A bin is 0.0013 wide at 0 and 0.13 % of eta far from there: bins of probability would put all scores of a rare class into one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sparkml.learners.linear.families import Array, Family, SquaredHinge
from sparkml.learners.linear.multinomial import Multinomial

_BINS = 8192
_FARTHEST = 100.0  # eta: beyond, rows are ties

Totals = np.ndarray[Any, np.dtype[np.float64]]


class Metric(Protocol):
    """A metric of several models of one kind, the same rows given to each."""

    @property
    def larger_is_better(self) -> bool: ...

    def numbers(self, family: Family | Multinomial) -> int:
        """Return how many sums a model has."""

    def sums(self, family: Family | Multinomial, eta: Array, y: Array, weight: Array) -> Totals:
        """Return (models, numbers) from eta (models, rows) or, of several classes, (models, rows, classes)."""

    def value(self, totals: Totals) -> float:
        """Return the metric from one model's sums; NaN where it is not defined."""


@dataclass(frozen=True)
class Loss:
    """The mean loss: log-loss of classes, half the squared error of a gaussian, half the deviance up to a constant of others."""

    larger_is_better: bool = False

    def numbers(self, family: Family | Multinomial) -> int:
        return 2

    def sums(self, family: Family | Multinomial, eta: Array, y: Array, weight: Array) -> Totals:
        if isinstance(family, Multinomial):
            own = eta[:, np.arange(len(y)), y.astype(np.int64)]
            most = eta.max(axis=2)
            losses = np.log(np.exp(eta - most[..., None]).sum(axis=2)) + most - own
        else:
            losses = family.evaluate(eta.ravel(), np.tile(y, len(eta)))[0].reshape(eta.shape)
        total = losses.astype(np.float64) @ weight.astype(np.float64)
        return np.column_stack([np.full(len(eta), weight.sum(dtype=np.float64)), total])

    def value(self, totals: Totals) -> float:
        return float(totals[1] / totals[0])


@dataclass(frozen=True)
class Errors:
    """rmse, mse, mae or r2 of the predicted mean."""

    name: str

    @property
    def larger_is_better(self) -> bool:
        return self.name == "r2"

    def numbers(self, family: Family | Multinomial) -> int:
        return 5

    def sums(self, family: Family | Multinomial, eta: Array, y: Array, weight: Array) -> Totals:
        wide, own = weight.astype(np.float64), y.astype(np.float64)
        errors = own - family.predict(eta).astype(np.float64)
        same = [wide.sum(), wide @ own, wide @ np.square(own)]
        return np.column_stack([np.tile(same, (len(eta), 1)), np.square(errors) @ wide, np.abs(errors) @ wide])

    def value(self, totals: Totals) -> float:
        weight, label, square, squares, absolutes = totals.tolist()
        if self.name == "mae":
            return float(absolutes / weight)
        if self.name == "r2":
            spread = square - label**2 / weight
            return float(1 - squares / spread) if spread > 0 else float("nan")
        return float(squares / weight if self.name == "mse" else np.sqrt(squares / weight))


@dataclass(frozen=True)
class Confusion:
    """accuracy, f1, weightedPrecision or weightedRecall: averages over the classes, each by its weight.

    Attributes
    ----------
    threshold
        Of two classes: probabilities (or etas of a support vector machine) above it are class 1.
    """

    name: str
    threshold: float = 0.5
    larger_is_better: bool = True

    def numbers(self, family: Family | Multinomial) -> int:
        return (family.classes if isinstance(family, Multinomial) else 2) ** 2

    def sums(self, family: Family | Multinomial, eta: Array, y: Array, weight: Array) -> Totals:
        if isinstance(family, Multinomial):
            classes, chosen = family.classes, eta.argmax(axis=2)
        else:
            scores = eta if isinstance(family, SquaredHinge) else family.predict(eta)
            classes, chosen = 2, (scores > self.threshold).astype(np.int64)
        cells = y.astype(np.int64) * classes + chosen
        return np.stack([np.bincount(each, weight, classes * classes) for each in cells])

    def value(self, totals: Totals) -> float:
        table = totals.reshape(int(np.sqrt(len(totals))), -1)
        hits, labels, chosen = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
        recall, precision = (np.divide(hits, of, out=np.zeros_like(hits), where=of > 0) for of in (labels, chosen))
        both = recall + precision
        each = {
            "accuracy": recall,
            "weightedRecall": recall,
            "weightedPrecision": precision,
            "f1": np.divide(2 * recall * precision, both, out=np.zeros_like(both), where=both > 0),
        }[self.name]
        return float(each @ labels / labels.sum())


@dataclass(frozen=True)
class Ranking:
    """areaUnderROC or areaUnderPR of two classes."""

    name: str
    larger_is_better: bool = True

    def numbers(self, family: Family | Multinomial) -> int:
        return 2 * _BINS

    def sums(self, family: Family | Multinomial, eta: Array, y: Array, weight: Array) -> Totals:
        if isinstance(family, Multinomial):
            eta = eta[..., 1] - eta[..., 0]
        places = np.arcsinh(np.clip(eta, -_FARTHEST, _FARTHEST)) / np.arcsinh(_FARTHEST)  # from -1 to 1
        bins = np.minimum(((places + 1) * (_BINS / 2)).astype(np.int64), _BINS - 1)
        cells = bins + np.where(y > 0, _BINS, 0)
        return np.stack([np.bincount(each, weight, 2 * _BINS) for each in cells])

    def value(self, totals: Totals) -> float:
        negative, positive = totals.reshape(2, -1)[:, ::-1]  # the highest scores first
        false, true = np.cumsum(negative), np.cumsum(positive)
        if not (false[-1] > 0 and true[-1] > 0):
            return float("nan")
        if self.name == "areaUnderROC":
            return float(np.trapezoid(np.append(0, true / true[-1]), np.append(0, false / false[-1])))  # type: ignore[attr-defined]
        some = true + false > 0
        precision, recall = true[some] / (true + false)[some], true[some] / true[-1]
        return float(np.trapezoid(np.append(precision[0], precision), np.append(0, recall)))  # type: ignore[attr-defined]


METRICS: dict[str, Metric] = {
    "loss": Loss(),
    **{name: Errors(name) for name in ("rmse", "mse", "mae", "r2")},
    **{name: Confusion(name) for name in ("accuracy", "f1", "weightedPrecision", "weightedRecall")},
    **{name: Ranking(name) for name in ("areaUnderROC", "areaUnderPR")},
}
