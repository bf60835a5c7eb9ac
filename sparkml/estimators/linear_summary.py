"""`LinearSummary`: the statistics of a fitted linear model, under the names that MLlib's summaries have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from sparkml.errors import ConfigError

Array = np.ndarray[Any, np.dtype[np.float64]]


class LinearSummary:
    """What the fit found out besides the coefficients. Arrays have the coefficients in order, then the intercept (if fitted).

    A model of several classes has none of the statistics of single coefficients.

    Tests are Wald's: of the normal distribution where the family knows its dispersion (binomial, poisson), else of Student's.
    """

    def __init__(self, coefficients: Array, intercepts: Array | None, names: list[str], history: dict[str, Any]) -> None:
        self._values = coefficients[0] if intercepts is None else np.append(coefficients[0], intercepts[0])
        features = names or [f"features[{at}]" for at in range(coefficients.shape[1])]
        self._names = features if intercepts is None else [*features, "(intercept)"]
        self._classes, self._found = len(coefficients), history

    @property
    def coefficientStandardErrors(self) -> Array:
        """NaN for features that are constant or depend on one another. Raises `ConfigError` after a fit with a penalty."""
        errors = self._found["standard_errors"]
        if self._classes > 1:
            raise ConfigError("coefficients of several classes are known up to a common vector: they have no standard errors")
        if errors is None and self._found["dispersion_known"] is None:
            raise ConfigError("a support vector machine has no likelihood, and no standard errors", hint="use LogisticRegression")
        if errors is None:
            raise ConfigError("a penalised fit has no standard errors", hint="fit with regParam = 0 and without bounds")
        return np.array(errors[: len(self._values)], dtype=float)

    @property
    def tValues(self) -> Array:
        """Coefficients over their standard errors; z values where the dispersion is known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            values: Array = self._values / self.coefficientStandardErrors
        return values

    @property
    def pValues(self) -> Array:
        """Two-sided."""
        from scipy import stats

        sizes = np.abs(self.tValues)
        values: Array = 2 * (stats.norm.sf(sizes) if self._known else stats.t.sf(sizes, self.degreesOfFreedom))
        return values

    def confidenceIntervals(self, level: float = 0.95) -> Array:
        """Return (coefficients, 2): lower and upper ends. Raises `ConfigError` for a level that is not between 0 and 1."""
        from scipy import stats

        if not 0 < level < 1:
            raise ConfigError(f"level = {level}: must be between 0 and 1")
        errors, quantile = self.coefficientStandardErrors, (1 + level) / 2
        width = stats.norm.ppf(quantile) if self._known else stats.t.ppf(quantile, self.degreesOfFreedom)
        reach = width * errors
        return np.column_stack([self._values - reach, self._values + reach])

    @property
    def _known(self) -> bool:
        return bool(self._found["dispersion_known"])

    @property
    def dispersion(self) -> float | None:
        """1 for binomial and poisson, else Pearson's chi-square over the degrees of freedom; None of several classes."""
        value = self._found["dispersion"]
        return None if value is None else float(value)

    @property
    def deviance(self) -> float | None:
        """Twice what the log-likelihood lacks to a perfect fit's; None of a support vector machine."""
        value = self._found["deviance"]
        return None if value is None else float(value)

    @property
    def nullDeviance(self) -> float | None:
        """Of the intercept alone; None for a fit with an offset."""
        value = self._found["null_deviance"]
        return None if value is None else float(value)

    @property
    def aic(self) -> float | None:
        """Akaike's criterion; None without a likelihood in closed form (tweedie), of shares, and after a penalised fit."""
        value = self._found["aic"]
        return None if value is None else float(value)

    @property
    def degreesOfFreedom(self) -> float | None:
        """Rows less the rank of the features (and the intercept); None of several classes."""
        value = self._found["degrees_of_freedom"]
        return None if value is None else float(value)

    @property
    def numInstances(self) -> int:
        return int(self._found["rows"])

    @property
    def totalIterations(self) -> int:
        """Passes over all rows."""
        return int(self._found["passes"])

    @property
    def objectiveHistory(self) -> list[float]:
        """The objective before each pass over all rows."""
        return list(self._found["objectives"])

    @property
    def error(self) -> float:
        """A bound on the distance from the optimum in the norm of the Hessian; infinite where none is known."""
        value = self._found["error"]
        return math.inf if value is None else float(value)

    def toPandas(self, level: float = 0.95) -> pd.DataFrame:
        """Return the table of coefficients: one row each, with standard error, test and confidence interval."""
        low, high = self.confidenceIntervals(level).T
        sign = "z" if self._known else "t"
        return pd.DataFrame(
            {
                "coefficient": self._values,
                "standard error": self.coefficientStandardErrors,
                sign: self.tValues,
                f"P>|{sign}|": self.pValues,
                f"[{(1 - level) / 2:g}": low,
                f"{(1 + level) / 2:g}]": high,
            },
            index=pd.Index(self._names, name="feature"),
        )
