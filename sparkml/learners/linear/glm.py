"""`family_of`: generalised linear models by the names of their distribution and link, any pair of them by Fisher scoring.

Distributions are known by their variance function V(mean), links by mean(eta) and its derivative: the slope of the loss is then
-(y - mean) mean' / V, its expected curvature mean'^2 / V. McCullagh and Nelder, *Generalized Linear Models*, 1989, section 2.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sparkml.errors import ConfigError
from sparkml.learners.linear.families import Array, Binomial, Family, Gamma, Gaussian, Poisson, times_log

LINKS: dict[str, tuple[str, ...]] = {  # the first is the canonical one; MLlib's table
    "gaussian": ("identity", "log", "inverse"),
    "binomial": ("logit", "probit", "cloglog"),
    "poisson": ("log", "identity", "sqrt"),
    "gamma": ("inverse", "identity", "log"),
}


class Link(Protocol):
    """How a mean hangs on eta. `eta_of` is the inverse of `mean_of` for one mean; `positive` says that eta must be."""

    @property
    def positive(self) -> bool: ...
    def eta_of(self, mean: float) -> float: ...
    def mean_of(self, eta: Array) -> tuple[Array, Array]:
        """Return the mean and its derivative."""

    def sql(self, eta: str) -> str: ...


@dataclass(frozen=True)
class Power:
    """eta = mean ** power; the logarithm for a power of 0."""

    power: float

    @property
    def positive(self) -> bool:
        return self.power not in (0, 1)

    def eta_of(self, mean: float) -> float:
        mean = mean if self.power == 1 else max(mean, 1e-12)
        return math.log(mean) if self.power == 0 else mean**self.power

    def mean_of(self, eta: Array) -> tuple[Array, Array]:
        if self.power == 1:
            return eta, np.ones_like(eta)
        with np.errstate(all="ignore"):
            if self.power == 0:
                mean = np.exp(eta)
                return mean, mean
            mean = eta ** (1 / self.power)
            return mean, mean / (self.power * eta)

    def sql(self, eta: str) -> str:
        if self.power == 1:
            return eta
        return f"exp({eta})" if self.power == 0 else f"power({eta}, {1 / self.power!r}D)"


class Logit:
    """The logarithm of the odds."""

    positive = False

    def eta_of(self, mean: float) -> float:
        return Binomial().start(mean)

    def mean_of(self, eta: Array) -> tuple[Array, Array]:
        p = Binomial().predict(eta)
        return p, p * (1 - p)

    def sql(self, eta: str) -> str:
        return Binomial().sql(eta)


class Probit:
    """The normal distribution's quantiles."""

    positive = False

    def eta_of(self, mean: float) -> float:
        from scipy.special import ndtri

        return float(ndtri(min(max(mean, 1e-6), 1 - 1e-6)))

    def mean_of(self, eta: Array) -> tuple[Array, Array]:
        from scipy.special import ndtr

        return ndtr(eta), np.exp(-np.square(eta) / 2) / math.sqrt(2 * math.pi)

    def sql(self, eta: str) -> str:
        raise ConfigError("Spark SQL has no normal distribution: a probit model has no expression there", hint="use transform")


class CLogLog:
    """The complementary log-log link: log(-log(1 - mean))."""

    positive = False

    def eta_of(self, mean: float) -> float:
        return math.log(-math.log1p(-min(max(mean, 1e-6), 1 - 1e-6)))

    def mean_of(self, eta: Array) -> tuple[Array, Array]:
        with np.errstate(over="ignore"):
            rate = np.exp(eta)
            return -np.expm1(-rate), rate * np.exp(-rate)

    def sql(self, eta: str) -> str:
        return f"-expm1(-exp({eta}))"


_LINKS: dict[str, Link] = {
    "identity": Power(1.0),
    "log": Power(0.0),
    "inverse": Power(-1.0),
    "sqrt": Power(0.5),
    "logit": Logit(),
    "probit": Probit(),
    "cloglog": CLogLog(),
}


@dataclass(frozen=True)
class Tweedie:
    """V = mean ** power. Powers of 0, 1 and 2 are gaussian, poisson and gamma; 1 < power < 2 are sums of gammas, with zeros."""

    power: float
    name: str = "tweedie"
    dispersion: float | None = None

    def check(self, y: Array) -> str | None:
        allowed = y >= 0 if self.power < 2 else y > 0
        if self.power == 0 or allowed.all():
            return None
        least = "0 or more" if self.power < 2 else "positive"
        return f"a label of the tweedie family with a variance power of {self.power:g} is {least}, not {y[~allowed][0]:g}"

    def check_labels(self, mean: float, variance: float) -> str | None:
        return Poisson().check_labels(mean, variance) if 1 <= self.power < 2 else None

    def loss(self, mean: Array, y: Array) -> Array:
        p = self.power
        result: Array = mean ** (2 - p) / (2 - p) - y * mean ** (1 - p) / (1 - p)
        return result

    def variance(self, mean: Array) -> Array:
        result: Array = mean**self.power
        return result

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        p = self.power
        perfect: Array = y.astype(np.float64) ** (2 - p) * (1 / (2 - p) - 1 / (1 - p))
        return perfect, np.zeros(len(y))


@dataclass(frozen=True)
class Named:
    """The distribution of one of the families with another link than that family's."""

    family: Family

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def dispersion(self) -> float | None:
        return self.family.dispersion

    def check(self, y: Array) -> str | None:
        return self.family.check(y)

    def check_labels(self, mean: float, variance: float) -> str | None:
        return self.family.check_labels(mean, variance)

    def loss(self, mean: Array, y: Array) -> Array:
        result: Array
        if self.name == "gaussian":
            result = np.square(mean - y) / 2
        elif self.name == "binomial":
            result = -times_log(y, mean) - times_log(1 - y, 1 - mean)
        elif self.name == "poisson":
            result = mean - y * np.log(mean)
        else:
            result = y / mean + np.log(mean)
        return result

    def variance(self, mean: Array) -> Array:
        result: Array
        if self.name == "gaussian":
            result = np.ones_like(mean)
        elif self.name == "binomial":
            result = mean * (1 - mean)
        else:
            result = mean if self.name == "poisson" else np.square(mean)
        return result

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        return self.family.label_terms(y)


@dataclass(frozen=True)
class Glm:
    """A distribution and a link: a `Family`."""

    distribution: Tweedie | Named
    link: Link
    bend: float | None = None

    @property
    def separable(self) -> bool:
        return self.name == "binomial"

    @property
    def name(self) -> str:
        return self.distribution.name

    @property
    def dispersion(self) -> float | None:
        return self.distribution.dispersion

    def check(self, y: Array) -> str | None:
        return self.distribution.check(y)

    def check_labels(self, mean: float, variance: float) -> str | None:
        return self.distribution.check_labels(mean, variance)

    def start(self, mean: float) -> float:
        return self.link.eta_of(mean)

    def evaluate(self, eta: Array, y: Array) -> tuple[Array, Array, Array]:
        with np.errstate(all="ignore"):  # of a mean that is none the loss is NaN: the step is too long
            mean, derivative = self.link.mean_of(eta)
            if self.name == "binomial":
                least = np.finfo(eta.dtype).eps
                mean = np.clip(mean, least, 1 - least)
            elif self.name != "gaussian" or self.link.positive:
                mean = np.where((mean > 0) & ((eta > 0) | (not self.link.positive)), mean, np.nan)
            ratio = derivative / self.distribution.variance(mean)
            return self.distribution.loss(mean, y), (mean - y) * ratio, derivative * ratio

    def predict(self, eta: Array) -> Array:
        return self.link.mean_of(eta)[0]

    def sql(self, eta: str) -> str:
        return self.link.sql(eta)

    def label_terms(self, y: Array) -> tuple[Array, Array]:
        return self.distribution.label_terms(y)


def family_of(name: str, link: str | None = None, variance_power: float = 0.0, link_power: float | None = None) -> Family:
    """Return a family by MLlib's names; without a link, with the canonical one.

    Raises
    ------
    ConfigError
        No such family, or not that link, or a variance power between 0 and 1.
    """
    if variance_power != 0 and not variance_power >= 1:
        raise ConfigError(f"variancePower = {variance_power:g}: there is a distribution for 0 and from 1 on")
    if name == "tweedie":
        power = 1 - variance_power if link_power is None else link_power
        same = {0.0: "gaussian", 1.0: "poisson", 2.0: "gamma"}.get(variance_power)
        made = _by_power(same, power) if same else None
        return made or Glm(Named(_OWN[same]) if same else Tweedie(variance_power), Power(power))
    if name not in LINKS:
        raise ConfigError(f"family = {name!r}: must be one of {', '.join([*LINKS, 'tweedie'])}")
    link = link or LINKS[name][0]
    if link not in LINKS[name]:
        raise ConfigError(f"link = {link!r}: of the {name} family it is one of {', '.join(LINKS[name])}")
    own = _OWN_LINK[name] == link
    return _OWN[name] if own else Glm(Named(_OWN[name]), _LINKS[link])


_OWN: dict[str, Family] = {"gaussian": Gaussian(), "binomial": Binomial(shares=True), "poisson": Poisson(), "gamma": Gamma()}
_OWN_LINK = {"gaussian": "identity", "binomial": "logit", "poisson": "log", "gamma": "log"}


def _by_power(name: str, power: float) -> Family | None:
    """Return the family whose own link is this power."""
    return _OWN[name] if power == {"gaussian": 1.0, "poisson": 0.0, "gamma": 0.0}[name] else None
