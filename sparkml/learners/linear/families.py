"""What a linear predictor is a model of: losses as functions of eta = x w + b + offset, with their derivatives.

A loss is the negative log-likelihood of an exponential dispersion model up to terms without eta and to its dispersion. The
curvature is the second derivative, or for other than canonical links the expected one (Fisher scoring). McCullagh and Nelder,
*Generalized Linear Models*, 1989, chapter 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]


class Family(Protocol):
    """A loss of one linear predictor. Arrays are (rows,), float32 or float64; results have the type of `eta`.

    Attributes
    ----------
    name
        As MLlib's ``family``.
    bend
        A bound on |third derivative| / second derivative of the loss, if there is one (the loss is then generalised
        self-concordant); None: nothing can be said of what a Newton step leaves.
    dispersion
        What the likelihood's dispersion is, if it need not be estimated.
    separable
        There is no finite optimum where the sign of eta tells labels of 0 and 1 apart without an error.
    """

    @property
    def name(self) -> str: ...
    @property
    def bend(self) -> float | None: ...
    @property
    def dispersion(self) -> float | None: ...
    @property
    def separable(self) -> bool: ...

    def check(self, y: Array) -> str | None:
        """Return what is wrong with labels, if anything is."""

    def check_labels(self, mean: float, variance: float) -> str | None:
        """Return why labels of this mean and variance have no finite optimum, if they have none."""

    def start(self, mean: float) -> float:
        """Return the eta that a mean of the labels stands for."""

    def evaluate(self, eta: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return loss, slope (d loss / d eta) and curvature of each row; the loss is not finite where eta is no eta."""

    def predict(self, eta: Array) -> Array:
        """Return the mean of the label."""

    def sql(self, eta: str) -> str:
        """Return the same as an expression of Spark SQL. Raises `ConfigError` where there is none."""

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        """Return the loss of a perfect fit, and what the log-likelihood has besides: of each row, float64."""


@dataclass(frozen=True)
class Gaussian:
    """Squared error, half of it."""

    name: str = "gaussian"
    bend: float | None = 0.0
    dispersion: float | None = None
    separable: bool = False

    def check(self, y: Array) -> str | None:
        return None

    def check_labels(self, mean: float, variance: float) -> str | None:
        return None

    def start(self, mean: float) -> float:
        return mean

    def evaluate(self, eta: Array, y: Array) -> tuple[Array, Array, Array]:
        slope = eta - y
        return np.square(slope) / 2, slope, np.ones_like(eta)

    def predict(self, eta: Array) -> Array:
        return eta

    def sql(self, eta: str) -> str:
        return eta

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        return nothing(y), nothing(y)


@dataclass(frozen=True)
class Binomial:
    """Labels 0 and 1, or `shares` of successes (weights are then the numbers of trials); the logit link."""

    name: str = "binomial"
    bend: float | None = 1.0  # of p (1 - p): |1 - 2 p|
    dispersion: float | None = 1.0
    separable: bool = True
    shares: bool = False

    def check(self, y: Array) -> str | None:
        wrong = y[~((y >= 0) & (y <= 1)) if self.shares else (y != 0) & (y != 1)]
        if not len(wrong):
            return None
        what = "the binomial family is from 0 to 1" if self.shares else "two classes is 0 or 1"
        return f"a label of {what}, not {wrong[0]:g}"

    def check_labels(self, mean: float, variance: float) -> str | None:
        return f"one class only, {mean:g}" if mean in (0.0, 1.0) else None

    def start(self, mean: float) -> float:
        mean = min(max(mean, 1e-6), 1 - 1e-6)
        return math.log(mean / (1 - mean))

    def evaluate(self, eta: Array, y: Array) -> tuple[Array, Array, Array]:
        half = eta.dtype.type(0.5)
        small = np.abs(eta)  # new memory for every result costs as much as the work on it
        np.exp(np.negative(small, out=small), out=small)  # of the two classes' odds
        large = 1 + small
        loss = np.maximum(eta, 0)
        loss -= y * eta
        loss += np.log(large)
        np.divide(1, large, out=large)
        slope = large - half
        np.copysign(slope, eta, out=slope)  # four times as fast as np.where
        slope += half
        slope -= y
        small *= np.square(large, out=large)
        return loss, slope, small

    def predict(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):  # exp(-eta) = inf is a probability of 0
            p: Array = 1 / (1 + np.exp(-eta))
        return p

    def sql(self, eta: str) -> str:
        return f"1 / (1 + exp(-{eta}))"

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        if not self.shares:
            return nothing(y), nothing(y)
        y = y.astype(np.float64)
        return -times_log(y, y) - times_log(1 - y, 1 - y), nothing(y)


@dataclass(frozen=True)
class Poisson:
    """Counts, the log link."""

    name: str = "poisson"
    bend: float | None = 1.0
    dispersion: float | None = 1.0
    separable: bool = False

    def check(self, y: Array) -> str | None:
        wrong = y[~(y >= 0)]
        return f"a label of the poisson family is 0 or more, not {wrong[0]:g}" if len(wrong) else None

    def check_labels(self, mean: float, variance: float) -> str | None:
        return "every label is 0" if mean == 0 else None

    def start(self, mean: float) -> float:
        return math.log(max(mean, 1e-6))

    def evaluate(self, eta: Array, y: Array) -> tuple[Array, Array, Array]:
        with np.errstate(over="ignore"):
            mean = np.exp(eta)
        return mean - y * eta, mean - y, mean

    def predict(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):
            mean: Array = np.exp(eta)
        return mean

    def sql(self, eta: str) -> str:
        return f"exp({eta})"

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        from scipy.special import gammaln

        y = y.astype(np.float64)
        return y - times_log(y, y), -gammaln(y + 1)


@dataclass(frozen=True)
class Gamma:
    """Positive labels, the log link; its curvature is the expected one."""

    name: str = "gamma"
    bend: float | None = None
    dispersion: float | None = None
    separable: bool = False

    def check(self, y: Array) -> str | None:
        wrong = y[~(y > 0)]
        return f"a label of the gamma family is positive, not {wrong[0]:g}" if len(wrong) else None

    def check_labels(self, mean: float, variance: float) -> str | None:
        return None

    def start(self, mean: float) -> float:
        return math.log(max(mean, 1e-300))

    def evaluate(self, eta: Array, y: Array) -> tuple[Array, Array, Array]:
        with np.errstate(over="ignore"):
            ratio = y * np.exp(-eta)
        return ratio + eta, 1 - ratio, np.ones_like(eta)

    def predict(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):
            mean: Array = np.exp(eta)
        return mean

    def sql(self, eta: str) -> str:
        return f"exp({eta})"

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        logs: Array = np.log(y.astype(np.float64))
        return 1 + logs, logs


@dataclass(frozen=True)
class SquaredHinge:
    """Labels 0 and 1, max(0, 1 - margin)^2: a support vector machine whose loss has a slope everywhere.

    Attributes
    ----------
    threshold
        What eta must be above to predict class 1.
    """

    threshold: float = 0.0
    name: str = "squared_hinge"
    bend: float | None = None
    dispersion: float | None = 1.0
    separable: bool = False

    def check(self, y: Array) -> str | None:
        return Binomial().check(y)

    def check_labels(self, mean: float, variance: float) -> str | None:
        return Binomial().check_labels(mean, variance)

    def start(self, mean: float) -> float:
        return 0.0

    def evaluate(self, eta: Array, y: Array) -> tuple[Array, Array, Array]:
        sign: Array = 2 * y - 1
        missing = np.maximum(0, 1 - sign * eta)
        curvature: Array = np.where(missing > 0, 2, 0).astype(eta.dtype)
        return np.square(missing), -2 * sign * missing, curvature

    def predict(self, eta: Array) -> Array:
        return (eta > self.threshold).astype(eta.dtype)

    def sql(self, eta: str) -> str:
        return f"CASE WHEN {eta} > {self.threshold!r}D THEN 1D ELSE 0D END"

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        return nothing(y), nothing(y)


def nothing(y: Array) -> Array:
    """Return a 0 for each label, which takes no memory."""
    return np.broadcast_to(0.0, len(y))


def times_log(factor: Array, value: Array) -> Array:
    """Return factor * log(value), 0 where the factor is."""
    result: Array = factor * np.log(np.where(factor > 0, value, 1))
    return result
