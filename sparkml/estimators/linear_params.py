"""Params of linear models that MLlib has for some of its models only, or not at all: bounds, and which standard errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pyspark.ml.linalg import Matrix, Vector
from pyspark.ml.param import Param, Params, TypeConverters

from sparkml.errors import ConfigError
from sparkml.learners.linear.quadratic import Bounds
from sparkml.learners.linear.scores import COVARIANCES


def _numbers(value: Any) -> Any:
    """Return a vector, matrix, array or (nested) list as a list of floats, or one of such lists for each row."""
    found = np.asarray(value.toArray() if isinstance(value, Matrix | Vector) else value, np.float64)
    if found.ndim not in (1, 2):
        raise TypeError(f"bounds are a list, or one list for each class, not {value!r}")
    return found.tolist()


def _vector(value: Any) -> list[float]:
    found: list[float] = _numbers(np.atleast_1d(value.toArray() if isinstance(value, Vector) else value).ravel())
    return found


_SLOPES = "one per feature; of several classes (classes, features), in lists, an array or a Matrix"


class HasBounds(Params):
    """Bounds of the coefficients, as MLlib's LogisticRegression has them."""

    lowerBoundsOnCoefficients: Param[Any] = Param(Params._dummy(), "lowerBoundsOnCoefficients", _SLOPES, typeConverter=_numbers)
    upperBoundsOnCoefficients: Param[Any] = Param(Params._dummy(), "upperBoundsOnCoefficients", _SLOPES, typeConverter=_numbers)
    lowerBoundsOnIntercepts: Param[Any] = Param(
        Params._dummy(), "lowerBoundsOnIntercepts", "one per class, or one of two classes", typeConverter=_vector
    )
    upperBoundsOnIntercepts: Param[Any] = Param(
        Params._dummy(), "upperBoundsOnIntercepts", "one per class, or one of two classes", typeConverter=_vector
    )
    lowerBoundOnIntercept: Param[Any] = Param(
        Params._dummy(), "lowerBoundOnIntercept", "lower bound of the one intercept", typeConverter=TypeConverters.toFloat
    )
    upperBoundOnIntercept: Param[Any] = Param(
        Params._dummy(), "upperBoundOnIntercept", "upper bound of the one intercept", typeConverter=TypeConverters.toFloat
    )

    def _bounds(self, features: int, outputs: int) -> dict[str, Bounds]:
        """Return those that are set, by ``lower`` and ``upper``.

        Raises
        ------
        ConfigError
            There are not as many as coefficients, or a lower one is above the upper one.
        """
        found = {side: both for side in ("lower", "upper") if (both := self._side(side, features, outputs)) is not None}
        if len(found) == 2 and (found["lower"] > found["upper"]).any():
            raise ConfigError("a lower bound is above its upper bound")
        return {
            side: tuple(map(tuple, both.tolist())) if outputs > 1 else tuple(both[0].tolist()) for side, both in found.items()
        }

    def _side(self, side: str, features: int, outputs: int) -> Any:
        """Return (outputs, features + 1) bounds, or None."""

        def given(name: str) -> Any:
            return self.getOrDefault(name) if self.isDefined(name) else None

        slopes, intercepts = given(f"{side}BoundsOnCoefficients"), given(f"{side}BoundsOnIntercepts")
        if (one := given(f"{side}BoundOnIntercept")) is not None:
            if intercepts is not None or outputs > 1:
                more = f"{side}BoundsOnIntercepts"
                raise ConfigError(f"{side}BoundOnIntercept is of one linear predictor without {more}", hint=f"set {more} only")
            intercepts = [one]
        if slopes is None and intercepts is None:
            return None
        if intercepts is not None and not self.getOrDefault("fitIntercept"):
            raise ConfigError(f"{side} bounds of an intercept, and fitIntercept = False")
        made = np.full((outputs, features + 1), -math.inf if side == "lower" else math.inf)
        if slopes is not None:
            made[:, :-1] = _shaped(f"{side}BoundsOnCoefficients", slopes, features, outputs)
        if intercepts is not None:
            if len(intercepts) != outputs:
                raise ConfigError(f"{side}BoundsOnIntercepts has {len(intercepts)} bounds for {outputs} intercepts")
            made[:, -1] = intercepts
        return made


def _shaped(name: str, given: Any, features: int, outputs: int) -> Any:
    slopes = np.array(given)
    if slopes.ndim == 1 and outputs == 1 and len(slopes) != features:
        raise ConfigError(f"{name} has {len(slopes)} bounds for {features} features")
    if (slopes.shape if slopes.ndim == 2 else (1, len(slopes))) != (outputs, features):
        shape = " x ".join(map(str, slopes.shape))
        raise ConfigError(f"{name} has {shape} bounds, the coefficients are {outputs} x {features}: (classes, features)")
    return slopes


class HasCovarianceType(Params):
    """Which standard errors a fit without penalty has."""

    covarianceType: Param[str] = Param(
        Params._dummy(),
        "covarianceType",
        "nonrobust: by the Hessian; HC0, HC1: robust ones (White's sandwich), for one pass more; HC1 times rows / (rows - rank)",
        typeConverter=TypeConverters.toString,
    )

    def _covariance_type(self) -> str:
        """Raises `ConfigError` for one that there is not."""
        kind: str = self.getOrDefault(self.covarianceType)
        if kind not in COVARIANCES:
            raise ConfigError(f"covarianceType = {kind!r}: must be {', '.join(COVARIANCES[:-1])} or {COVARIANCES[-1]}")
        return kind
