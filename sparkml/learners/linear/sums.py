"""`Sums`: what one pass over rows adds up, at given coefficients; and how a block of rows is added up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sparkml.learners.linear.families import Array, Family
from sparkml.learners.linear.tree_sum import Array as Summand


@dataclass(frozen=True)
class Block:
    """Rows: `x` is (rows, features), the others (rows,) or absent."""

    x: Array
    y: Array
    weight: Array | None = None
    offset: Array | None = None

    def copy(self) -> Block:
        """Return the rows without what they lie in."""
        weight, offset = (None if part is None else part.copy() for part in (self.weight, self.offset))
        return Block(self.x.copy(), self.y.copy(), weight, offset)


@dataclass(frozen=True)
class Sums:
    """Sums over rows, each times its weight; of `features` coefficients and, last, the intercept.

    Attributes
    ----------
    rows, weight, label
        Number of rows, their weights, their labels.
    weight_square
        Squares of the weights; these are not weighted again.
    gradient
        (features + 1,)
    gram
        (features + 1, features + 1): the Hessian of the loss.
    x, xx
        (features,): values and squares of the features.
    """

    rows: float
    weight: float
    weight_square: float
    label: float
    label_square: float
    loss: float
    gradient: Summand
    gram: Summand
    x: Summand
    xx: Summand

    def packed(self) -> Summand:
        """Return all of it as one vector: of the symmetric matrix one half."""
        upper = self.gram[np.triu_indices(len(self.gradient))]
        return np.concatenate(
            [
                [self.rows, self.weight, self.weight_square, self.label, self.label_square, self.loss],
                self.gradient,
                self.x,
                self.xx,
                upper,
            ]
        )

    @classmethod
    def unpacked(cls, vector: Summand, features: int) -> Sums:
        size = features + 1
        gradient, x, xx, upper = np.split(vector[6:], np.cumsum([size, features, features]))
        gram = np.zeros((size, size))
        gram[np.triu_indices(size)] = upper
        gram += np.triu(gram, 1).T
        rows, weight, weight_square, label, label_square, loss = vector[:6].tolist()
        return cls(rows, weight, weight_square, label, label_square, loss, gradient, gram, x, xx)


def add_up(blocks: Iterable[Block], family: Family, w: Summand) -> Sums:
    """Return the sums over some blocks at the coefficients `w` = (features..., intercept).

    A block is worked on in its own precision, and what it adds up to is added in float64.
    """
    features = len(w) - 1
    rows = weight = weight_square = label = label_square = loss = 0.0
    gradient, gram = np.zeros(features + 1), np.zeros((features + 1, features + 1))
    x_sum, xx_sum = np.zeros(features), np.zeros(features)
    for block in blocks:
        x, y, kind = block.x, block.y, block.x.dtype
        eta = x @ w[:-1].astype(kind)
        eta += kind.type(w[-1])
        if block.offset is not None:
            eta += block.offset
        losses = family.loss(eta, y)
        slope, curvature = family.derivatives(eta, y)
        if block.weight is not None:
            slope, curvature, losses = slope * block.weight, curvature * block.weight, losses * block.weight
        gradient[:-1] += slope @ x
        gradient[-1] += slope.sum(dtype=np.float64)
        gram[-1, :-1] += curvature @ x
        gram[-1, -1] += curvature.sum(dtype=np.float64)
        scaled = x * np.sqrt(curvature)[:, None]
        gram[:-1, :-1] += scaled.T @ scaled
        loss += float(losses.sum(dtype=np.float64))
        rows += len(y)
        own = block.weight
        weight += len(y) if own is None else float(own.sum(dtype=np.float64))
        weight_square += len(y) if own is None else float(np.square(own, dtype=np.float64).sum())
        label += float(y.sum(dtype=np.float64) if own is None else (y * own).sum(dtype=np.float64))
        squares = np.square(y, dtype=np.float64)
        label_square += float(squares.sum() if own is None else squares @ own)
        x_sum += x.sum(axis=0, dtype=np.float64) if own is None else own @ x
        xx_sum += np.einsum("ij,ij->j", x, x) if own is None else own @ np.square(x)
    gram[:-1, -1] = gram[-1, :-1]
    return Sums(rows, weight, weight_square, label, label_square, loss, gradient, gram, x_sum, xx_sum)
