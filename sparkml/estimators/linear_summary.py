"""`LinearSummary`: the statistics of a fitted linear model, under the names that MLlib's summaries have."""

from __future__ import annotations

import math
from copy import copy
from typing import Any

import numpy as np
import pandas as pd

from sparkml.errors import ConfigError
from sparkml.learners.linear.methods import MOST_COEFFICIENTS

Array = np.ndarray[Any, np.dtype[np.float64]]


class LinearSummary:
    """What the fit found out besides the coefficients. Arrays have the coefficients in order, then the intercept (if fitted).

    Of several classes arrays are (classes, features + 1). Coefficients of classes are known up to what all have in common: these
    are the ones that add up to 0 over the classes. `against` compares them with one class.

    Tests are Wald's: of the normal distribution where the family knows its dispersion (binomial, poisson), else of Student's.
    """

    def __init__(self, coefficients: Array, intercepts: Array | None, names: list[str], history: dict[str, Any]) -> None:
        each = coefficients if intercepts is None else np.column_stack([coefficients, intercepts])
        features = names or [f"features[{at}]" for at in range(coefficients.shape[1])]
        self._names = features if intercepts is None else [*features, "(intercept)"]
        self._classes, self._classes_are = list(range(len(each))), "class"
        self._values: Array = each if len(each) > 1 else each[0]
        self._found = history
        self._errors = history.get("standard_errors")

    def against(self, reference: int) -> LinearSummary:
        """Return what the other classes have more than class `reference`: the logarithms of odds, as R's ``multinom`` has them.

        Arrays are (classes - 1, features + 1).

        Raises
        ------
        ConfigError
            There is one linear predictor, or no such class, or no standard errors.
        """
        if self._values.ndim == 1 or self._classes_are != "class":
            raise ConfigError("there are no classes to compare: these coefficients are those of a difference already")
        if reference not in self._classes:
            raise ConfigError(f"against({reference}): the classes are 0 to {self._classes[-1]}")
        _ = self.coefficientStandardErrors  # says why there are none
        if "class_covariances" not in self._found:
            raise ConfigError(f"{len(self._classes)} classes are too many to keep the covariances of their coefficients")
        between = np.array(self._found["class_covariances"], dtype=float)[: self._values.shape[1]]
        variances = between.diagonal(axis1=1, axis2=2).T
        others = [number for number in self._classes if number != reference]
        errors = np.sqrt(np.maximum(0.0, variances + variances[reference] - 2 * between[:, reference].T))
        made = copy(self)
        made._values, made._errors = (self._values - self._values[reference])[others], errors[others].tolist()
        made._classes, made._classes_are = others, f"class against {reference}"
        return made

    @property
    def coefficients(self) -> Array:
        """Coefficients, then the intercept."""
        return self._values.copy()

    @property
    def covarianceType(self) -> str:
        """Which standard errors these are: nonrobust, HC0 or HC1."""
        return str(self._found.get("covariance_type", "nonrobust"))

    @property
    def coefficientStandardErrors(self) -> Array:
        """NaN for features that are constant or depend on one another, and where features tell the classes apart.

        Raises `ConfigError` after a fit with a penalty.
        """
        if self._found["solver"] != "newton":
            raise ConfigError(
                f"{self._found['solver']} finds no Hessian, and standard errors are of its inverse",
                hint=f'fit with solver="newton", which takes up to {MOST_COEFFICIENTS} coefficients',
            )
        if self._errors is None and self._found["dispersion_known"] is None:
            raise ConfigError("a support vector machine has no likelihood, and no standard errors", hint="use LogisticRegression")
        if self._errors is None:
            raise ConfigError("a penalised fit has no standard errors", hint="fit with regParam = 0 and without bounds")
        return np.array(self._errors, dtype=float)[..., : self._values.shape[-1]]

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
        """Return lower and upper ends, (..., 2). Raises `ConfigError` for a level that is not between 0 and 1."""
        from scipy import stats

        if not 0 < level < 1:
            raise ConfigError(f"level = {level}: must be between 0 and 1")
        errors, quantile = self.coefficientStandardErrors, (1 + level) / 2
        width = stats.norm.ppf(quantile) if self._known else stats.t.ppf(quantile, self.degreesOfFreedom)
        reach = width * errors
        return np.stack([self._values - reach, self._values + reach], axis=-1)

    @property
    def _known(self) -> bool:
        return bool(self._found["dispersion_known"])

    @property
    def dispersion(self) -> float | None:
        """1 for binomial, multinomial and poisson, else Pearson's chi-square over the degrees of freedom."""
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
        """Rows less the rank of the features (and the intercept); that times classes - 1 of several classes."""
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
        """Return the table of coefficients: one row each, with standard error, test and confidence interval.

        Of several classes the index is (class, feature). Robust standard errors say so in the name of their column.
        """
        kind = "" if self.covarianceType == "nonrobust" else f" ({self.covarianceType})"
        sign = "z" if self._known else "t"
        columns = {
            "coefficient": self._values,
            f"standard error{kind}": self.coefficientStandardErrors,
            sign: self.tValues,
            f"P>|{sign}|": self.pValues,
            f"[{(1 - level) / 2:g}": (ends := self.confidenceIntervals(level))[..., 0],
            f"{(1 + level) / 2:g}]": ends[..., 1],
        }
        index = pd.Index(self._names, name="feature")
        if self._values.ndim > 1:
            index = pd.MultiIndex.from_product([self._classes, self._names], names=[self._classes_are, "feature"])
        return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=index)
