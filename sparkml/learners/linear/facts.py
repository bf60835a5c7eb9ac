"""`Facts`: what is to be known of the rows whatever the coefficients are, and the `Scaling` of features that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkml.learners.linear.families import Array, Family
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.sums import Block, is_sparse
from sparkml.learners.linear.tree_sum import Array as Summand

_NUMBERS = ("rows", "weight", "weight_square", "label", "label_square", "perfect", "constant", "weight_log")
_FOLD = 64  # rows worked on as one: NumPy is slow along a short last axis
_FAR = 8.0  # standard deviations from 0: beyond, float32 blocks lose digits that matter
_WIDE = 2.0**20  # of standard deviations: their squares still fit


@dataclass(frozen=True)
class Facts:
    """Sums over rows, each times its weight, and extremes.

    Attributes
    ----------
    rows, weight, weight_square
        Number of rows, their weights, the squares of their weights.
    label, label_square
        Labels and their squares.
    perfect, constant
        Of `Family.label_terms`.
    weight_log
        Logarithms of the weights, not weighted again; of weights above 0.
    x, xx
        (features,): features and their squares.
    least, most
        (features,): smallest and largest values.
    classes
        (classes,): weight of the rows of each, of several; else (0,).
    """

    rows: float
    weight: float
    weight_square: float
    label: float
    label_square: float
    perfect: float
    constant: float
    weight_log: float
    x: Summand
    xx: Summand
    least: Summand
    most: Summand
    classes: Summand

    def __add__(self, other: Facts) -> Facts:
        sums = {name: getattr(self, name) + getattr(other, name) for name in (*_NUMBERS, "x", "xx", "classes")}
        return Facts(**sums, least=np.minimum(self.least, other.least), most=np.maximum(self.most, other.most))

    def packed(self) -> tuple[Summand, Summand]:
        """Return the sums as one vector, and as another what the minimum is taken of."""
        numbers = [getattr(self, name) for name in _NUMBERS]
        return np.concatenate([numbers, self.x, self.xx, self.classes]), np.concatenate([self.least, -self.most])

    @staticmethod
    def numbers(features: int, family: Family | Multinomial) -> int:
        """Return how long the vector of sums is."""
        return len(_NUMBERS) + 2 * features + (family.classes if isinstance(family, Multinomial) else 0)

    @classmethod
    def unpacked(cls, sums: Summand, extremes: Summand) -> Facts:
        least, most = np.split(extremes, 2)
        x, xx, classes = np.split(sums[len(_NUMBERS) :], [len(least), 2 * len(least)])
        numbers = dict(zip(_NUMBERS, sums[: len(_NUMBERS)].tolist(), strict=True))
        return cls(**numbers, x=x, xx=xx, least=least, most=-most, classes=classes)

    @property
    def mean(self) -> Summand:
        """Of the features."""
        return self.x / self.weight

    @property
    def variance(self) -> Summand:
        """Of the features; exactly 0 for constant ones."""
        return np.where(self.most > self.least, np.maximum(0.0, self.xx / self.weight - self.mean**2), 0.0)

    @property
    def unbiased(self) -> float:
        """What makes variances unbiased, for weights that say how reliable a row is."""
        freedom = self.weight - self.weight_square / self.weight
        return self.weight / freedom if freedom > 0 else 0.0

    @property
    def label_variance(self) -> float:
        """Of classes exactly 0 where there is one only."""
        if len(self.classes) and np.count_nonzero(self.classes) < 2:
            return 0.0
        return max(0.0, self.label_square / self.weight - (self.label / self.weight) ** 2)


class WrongRowsError(ValueError):
    """Rows that nothing can be learnt from: `role` is label (the one of that number), weight, offset or features (these)."""

    def __init__(self, role: str, text: str, label: int = 0, features: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.role, self.label, self.features = role, label, features


class Looker:
    """Looks at blocks."""

    def __init__(self, family: Family | Multinomial, features: int, label: int = 0) -> None:
        self.family, self._label = family, label
        self._numbers = np.zeros(len(_NUMBERS))
        self._x, self._xx = np.zeros(features), np.zeros(features)
        self._least, self._most = np.full(features, np.inf), np.full(features, -np.inf)
        self._classes = np.zeros(family.classes if isinstance(family, Multinomial) else 0)
        self._labels: Summand = np.empty(0)

    def take(self, block: Block) -> None:
        """Raise `WrongRowsError` for labels that the family does not allow, for weights below 0, and for what is not finite."""
        x, own = block.x, block.weight
        self._check_numbers(block)
        if wrong := self.family.check(block.y):
            raise WrongRowsError("label", wrong, self._label)
        y = self._wide(block.y)
        perfect, constant = self.family.label_terms(y)
        if own is None:
            one: Array = np.ones(len(y), block.y.dtype)
            weights: tuple[Any, ...] = (len(y), len(y), len(y))
            labels = (y.sum(), y @ y, perfect.sum(), constant.sum(), 0.0)
        else:
            one, wide = own, own.astype(np.float64)
            if wide.min() < 0:
                raise WrongRowsError("weight", f"a weight is 0 or more, not {wide.min():g}")
            whole = wide @ np.ones(len(wide))  # with the roundings of `wide @ y`: labels that are all 1 have a mean of 1
            weights = (len(y), whole, wide @ wide)
            labels = (wide @ y, wide @ np.square(y), wide @ perfect, wide @ constant, np.log(wide[wide > 0]).sum())
        self._numbers += [*weights, *labels]
        if len(self._classes):
            self._classes += np.bincount(block.y.astype(np.int64), own, len(self._classes))
        total = one @ x
        if not np.isfinite(total).all():  # much faster than to ask each number
            _check_features(block)
        self._x += total
        self._xx += one @ (x.power(2, np.float64) if is_sparse(x) else np.square(x))
        self._least = np.minimum(self._least, _folded(np.minimum, x))
        self._most = np.maximum(self._most, _folded(np.maximum, x))

    def _wide(self, y: Array) -> Summand:
        """Return labels in float64, until the next block; memory that is new for each costs more than the work on it."""
        if len(self._labels) < len(y):
            self._labels = np.empty(len(y))
        np.copyto(self._labels[: len(y)], y)
        return self._labels[: len(y)]

    def facts(self) -> Facts:
        sums = np.concatenate([self._numbers, self._x, self._xx, self._classes])
        return Facts.unpacked(sums, np.concatenate([self._least, -self._most]))

    def _check_numbers(self, block: Block) -> None:
        for role, values in (("label", block.y), ("weight", block.weight), ("offset", block.offset)):
            if values is not None and not np.isfinite(values).all():
                raise WrongRowsError(
                    role, f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} values are NaN or infinite", self._label
                )


def _check_features(block: Block) -> None:
    from scipy.sparse import coo_array

    entries = coo_array(block.x)
    wrong = ~np.isfinite(entries.data)
    if wrong.any():
        which = np.unique(entries.col[wrong])[:10].tolist()
        count = len(np.unique(entries.row[wrong]))
        text = f"feature {', '.join(map(str, which))} is NaN or infinite in {count} of {len(block.y)} rows"
        raise WrongRowsError("features", text, features=which)


def _folded(function: np.ufunc, x: Any) -> Array:
    """Return ``function.reduce(x, axis=0)``, of sparse rows, too."""
    if is_sparse(x):
        found: Array = (x.min(axis=0) if function is np.minimum else x.max(axis=0)).toarray().ravel()
        return found
    whole = len(x) // _FOLD * _FOLD
    parts = []
    if whole:
        wide = np.ascontiguousarray(x[:whole]).reshape(-1, _FOLD * x.shape[1])
        parts.append(function.reduce(wide, axis=0).reshape(_FOLD, -1))
    result: Array = function.reduce(np.concatenate([*parts, x[whole:]]), axis=0)
    return result


class Scaling:
    """Features as they are worked with: (x - center) / scale, so that neither units nor far origins cost digits.

    Without it a feature of 1e6 +- 1 would have lost its variance to float32 before anything is learnt from it.
    """

    def __init__(self, center: Summand, scale: Summand) -> None:
        self.center, self.scale = center, scale
        self._tiled: tuple[Array, Array] | None = None

    @classmethod
    def of(cls, facts: Facts, *, center: bool, always: bool) -> Scaling | None:
        """Return what features of some rows need, or None. Without `center`, 0 stays where it is."""
        deviation = np.sqrt(facts.variance)
        mean = facts.mean if center else np.zeros_like(deviation)
        known = np.where(deviation > 0, deviation, np.maximum(np.abs(facts.most), np.abs(facts.least)))
        scale = np.exp2(np.round(np.log2(np.where(known > 0, known, 1.0))))  # powers of two round nothing
        strange = (np.abs(mean) > _FAR * deviation) | (deviation > _WIDE) | (deviation < 1 / _WIDE)
        if not (always or strange.any()):
            return None
        return cls(mean.astype(np.float32).astype(np.float64), scale)

    def apply(self, x: Array, out: Array) -> Array:
        """Write the scaled features to `out`, which may be `x`, and return it."""
        if self._tiled is None or self._tiled[0].dtype != x.dtype or len(self._tiled[0]) < len(x):
            self._tiled = tuple(np.tile(values.astype(x.dtype), (len(x), 1)) for values in (self.center, 1 / self.scale))  # type: ignore[assignment]
        assert self._tiled is not None
        center, factor = (tile[: len(x)] for tile in self._tiled)
        np.subtract(x, center, out=out)
        return np.multiply(out, factor, out=out)

    def raw_of(self, w: Summand) -> Summand:
        """Return coefficients of the features as they come, each row (features..., intercept)."""
        slopes = w[:, :-1] / self.scale
        return np.column_stack([slopes, w[:, -1] - slopes @ self.center])

    def raw(self) -> Summand:
        """Return the matrix that makes coefficients of the features as they come from those of scaled ones, intercept last."""
        size = len(self.center)
        matrix = np.eye(size + 1)
        matrix[:size, :size] /= self.scale
        matrix[size, :size] = -self.center / self.scale
        return matrix
