"""What a linear predictor is a model of: losses as functions of eta = x w + b + offset, with their derivatives.

Each family gives, for a block of rows, the loss of every row, its slope (d loss / d eta) and its curvature (d2 loss / d eta2, the
expected one where the link is not canonical: Fisher scoring). Losses are negative log-likelihoods up to terms without eta.
McCullagh and Nelder, *Generalized Linear Models*, 1989, chapter 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]


class Family(Protocol):
    """A loss of one linear predictor. Arrays are (rows,), float32 or float64; results have the type of `eta`."""

    @property
    def name(self) -> str: ...

    def check(self, y: Array) -> str | None:
        """Return what is wrong with labels, if anything is."""

    def derivatives(self, eta: Array, y: Array) -> tuple[Array, Array]:
        """Return slope and curvature."""

    def loss(self, eta: Array, y: Array) -> Array: ...

    def predict(self, eta: Array) -> Array:
        """Return the mean of the label."""


@dataclass(frozen=True)
class Gaussian:
    """Squared error, half of it."""

    name: str = "gaussian"

    def check(self, y: Array) -> str | None:
        return None

    def derivatives(self, eta: Array, y: Array) -> tuple[Array, Array]:
        return eta - y, np.ones_like(eta)

    def loss(self, eta: Array, y: Array) -> Array:
        losses: Array = np.square(eta - y) / 2
        return losses

    def predict(self, eta: Array) -> Array:
        return eta


@dataclass(frozen=True)
class Binomial:
    """Labels 0 and 1, the logit link."""

    name: str = "binomial"

    def check(self, y: Array) -> str | None:
        wrong = y[(y != 0) & (y != 1)]
        return f"a label of two classes is 0 or 1, not {wrong[0]:g}" if len(wrong) else None

    def derivatives(self, eta: Array, y: Array) -> tuple[Array, Array]:
        p = self.predict(eta)
        slope = p - y
        np.subtract(1, p, out=eta)
        eta *= p
        return slope, eta

    def loss(self, eta: Array, y: Array) -> Array:
        losses: Array = np.logaddexp(0, eta) - y * eta
        return losses

    def predict(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):  # exp(-eta) = inf is a probability of 0
            p: Array = np.negative(eta)
            np.exp(p, out=p)
            p += 1
            np.reciprocal(p, out=p)
        return p


@dataclass(frozen=True)
class Poisson:
    """Counts, the log link."""

    name: str = "poisson"

    def check(self, y: Array) -> str | None:
        wrong = y[~(y >= 0)]
        return f"a label of the poisson family is 0 or more, not {wrong[0]:g}" if len(wrong) else None

    def derivatives(self, eta: Array, y: Array) -> tuple[Array, Array]:
        mean = np.exp(eta)
        return mean - y, mean

    def loss(self, eta: Array, y: Array) -> Array:
        losses: Array = np.exp(eta) - y * eta
        return losses

    def predict(self, eta: Array) -> Array:
        mean: Array = np.exp(eta)
        return mean


@dataclass(frozen=True)
class Gamma:
    """Positive labels, the log link."""

    name: str = "gamma"

    def check(self, y: Array) -> str | None:
        wrong = y[~(y > 0)]
        return f"a label of the gamma family is positive, not {wrong[0]:g}" if len(wrong) else None

    def derivatives(self, eta: Array, y: Array) -> tuple[Array, Array]:
        ratio = y * np.exp(-eta)
        return 1 - ratio, np.ones_like(eta)

    def loss(self, eta: Array, y: Array) -> Array:
        losses: Array = y * np.exp(-eta) + eta
        return losses

    def predict(self, eta: Array) -> Array:
        mean: Array = np.exp(eta)
        return mean


FAMILIES: dict[str, Family] = {family.name: family for family in (Gaussian(), Binomial(), Poisson(), Gamma())}
