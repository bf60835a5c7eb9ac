"""What linear models are asked to fit: real data, data known to be hard, and small data of every family."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm

_FILIP = Path(__file__).with_name("filip.csv")  # NIST, Statistical Reference Datasets: Filippelli's polynomial, public domain
_ADULT = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race", "sex"),
    *("capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
]
_NUMBERS = ["age", "education-num", "capital-gain", "capital-loss", "hours-per-week"]

Kept = tuple[float | None, float | None, float | None]  # by coefficients, standard errors, p-values; None: only shown
_SHOWN: Kept = (None, None, None)
_NEAR: Kept = (1e-8, 1e-8, 1e-8)
_LESS: Kept = (1e-6, 1e-6, 1e-6)
_VALUES: Kept = (1e-6, None, None)  # of what has no standard errors
_DESCENT: Kept = (1e-4, None, None)  # of a first-order method


@dataclass(frozen=True)
class Problem:
    """Rows and what to fit to them.

    Attributes
    ----------
    x, y, weight
        (rows, features), (rows,), (rows,) or None
    family, link, power
        As MLlib names them; "multinomial" for classes, `power` is tweedie's.
    penalty
        regParam and elasticNetParam, of features with a standard deviation of 1.
    others
        With whom to compare, and the largest differences that are to be kept.
    said
        What our warnings must say: a regular expression.
    """

    name: str
    x: Any
    y: Any
    family: str = "gaussian"
    others: dict[str, Kept] = field(default_factory=dict)
    weight: Any = None
    link: str | None = None
    power: float = 0.0
    covariance: str = "nonrobust"
    penalty: tuple[float, float] = (0.0, 0.0)
    said: str | None = None

    @property
    def model(self) -> str:
        parts = [self.family + (f" ({self.link})" if self.link else f" ({self.power:g})" if self.power else "")]
        parts += [self.covariance] if self.covariance != "nonrobust" else []
        parts += [f"regParam {self.penalty[0]:g}, elasticNetParam {self.penalty[1]:g}"] if self.penalty[0] else []
        return ", ".join([*parts, *(["weights"] if self.weight is not None else [])])


def small() -> Iterator[Problem]:
    """Every family on the data sets of statsmodels' own examples, with weights; seconds each."""
    for data, family, link, power in (
        ("longley", "gaussian", None, 0.0),
        ("spector", "binomial", None, 0.0),
        ("spector", "binomial", "probit", 0.0),
        ("spector", "binomial", "cloglog", 0.0),
        ("cpunish", "poisson", None, 0.0),
        ("scotland", "gamma", "log", 0.0),
        ("scotland", "gamma", None, 0.0),
        ("fair", "tweedie", None, 1.5),
    ):
        x, y = _given(data)
        weight = None if data == "spector" else np.random.default_rng(len(y)).choice([1.0, 2.0, 3.0], len(y))
        others = {"statsmodels": _NEAR, "MLlib GLM": _LESS}
        if link is None and family != "gamma":  # scikit-learn's has the logarithm, and does not converge on these
            others["scikit-learn"] = _VALUES
        yield Problem(data, x, y, family, others, weight, link, power)
    for kind in ("HC0", "HC1"):
        x, y = _given("longley")
        yield Problem("longley", x, y, "gaussian", {"statsmodels": _NEAR}, np.arange(len(y)) % 3 + 1.0, covariance=kind)
        x, y = _given("cpunish")
        yield Problem("cpunish", x, y, "poisson", {"statsmodels": _NEAR}, np.arange(len(y)) % 3 + 1.0, covariance=kind)
    x, y = _given("anes96")
    yield Problem("anes96", x, y, "multinomial", {"statsmodels": _NEAR, "MLlib": _DESCENT})
    yield Problem("anes96", x, y, "multinomial", {"statsmodels": _NEAR}, covariance="HC0")


def hard() -> Iterator[Problem]:
    """Features that nearly depend on one another, are far from 0, or of scales far apart."""
    everyone = dict.fromkeys(("statsmodels", "MLlib", "MLlib GLM", "scikit-learn"), _SHOWN)
    x, y = _given("longley")
    yield Problem("longley", x, y, others={"exact": (1e-9, 1e-9, 1e-9), **everyone})
    random = np.random.default_rng(6)
    noise, t = random.normal(size=256), np.arange(256) / 256
    for degree, kept in ((4, 1e-9), (6, 1e-7), (8, 1e-4)):
        powers = t[:, None] ** np.arange(1, degree + 1)
        label = powers.sum(axis=1) + noise
        yield Problem(f"powers 1 to {degree} of i/256", powers, label, others={"exact": (kept, kept, kept), **everyone})
    data = np.loadtxt(_FILIP, delimiter=",", skiprows=1)
    powers = data[:, 1:] ** np.arange(1, 11)
    filip = {"exact": _SHOWN, **everyone}
    yield Problem("Filip (NIST)", powers, data[:, 0], others=filip, said="depend linearly")
    x = random.normal(size=(256, 3))
    x[:, 2] = x[:, 0] / 3 - x[:, 1] * 0.7 + 1e-5 * x[:, 2]
    yield Problem("a sum of others, up to 1e-5", x, x[:, 0] + noise, others={"exact": (1e-5, 1e-5, 1e-5), **everyone})
    for far in (1e4, 1e6, 1e8):
        x = far + random.normal(size=(256, 2))
        yield Problem(f"features of {far:.0e} ± 1", x, x[:, 0] - far + noise, others={"exact": (1e-6, 1e-6, 1e-6), **everyone})
    scales = 10.0 ** np.array([-6, -3, 0, 3, 6])
    z = random.normal([0, 1, 0, -1, 3], 1.0, (2000, 5))
    eta = z @ [0.5, -0.5, 1.0, 0.2, 0.1]
    for family, label in (("binomial", eta + random.logistic(size=2000) > 0), ("poisson", random.poisson(np.exp(eta / 2)))):
        others = {name: kept for name, kept in everyone.items() if family == "binomial" or name != "MLlib"}
        yield Problem("scales 1e-6 to 1e6", z * scales, label * 1.0, family, {"statsmodels, scaled": _NEAR, **others})


def endless() -> Iterator[Problem]:
    """Data without a finite optimum, or with many: what counts is what is said."""
    random = np.random.default_rng(3)
    x = random.normal(size=(500, 2))
    x = x[np.abs(x[:, 0]) > 0.1]
    everyone = dict.fromkeys(("statsmodels", "MLlib", "MLlib GLM", "scikit-learn"), _SHOWN)
    yield Problem(
        "separated classes", x, (x[:, 0] > 0) * 1.0, "binomial", everyone, said="tell the classes apart without an error"
    )
    x = random.normal(size=(1000, 3))
    x[:, 2] = np.arange(1000) % 25 == 0
    y = np.where(x[:, 2] == 1, 1.0, x[:, 0] + random.logistic(size=1000) > 0)
    yield Problem("a dummy with one kind of label", x, y, "binomial", everyone, said="infinitely far")
    x = random.normal(size=(1000, 4))
    x[:, 3] = x[:, 0] / 3 - x[:, 1] * 0.7 + 1.1
    y = x[:, 0] + x[:, 2] + random.normal(size=1000)
    others = {**everyone, "statsmodels": (1e-9, 1e-9, 1e-9)}
    yield Problem("a feature that is a sum of others", x, y, "gaussian", others, said="depend linearly")


def adult(folder: Path) -> Iterator[Problem]:
    """The census income data: 45,222 rows without unknowns, one-hot and numeric features."""
    rows = _adult_rows(folder)
    income = (rows.income == ">50K").to_numpy(float)
    foreign = (rows["native-country"] != "United-States").to_numpy(float)
    names = ["workclass", "marital-status", "occupation", "relationship", "race", "sex"]
    x = np.column_stack([rows[_NUMBERS], foreign, _dummies(rows, names)])
    most = {"statsmodels": _NEAR, "MLlib GLM": _LESS, "MLlib": _DESCENT, "scikit-learn": _VALUES}
    yield Problem("adult, income", x, income, "binomial", most)
    yield Problem("adult, income", x, income, "binomial", {"statsmodels": _NEAR}, covariance="HC1")
    yield Problem(
        "adult, income",
        x,
        income,
        "binomial",
        {"MLlib": _DESCENT, "scikit-learn": _VALUES},
        penalty=(0.01, 0.0),
    )
    yield Problem("adult, income", x, income, "binomial", {"MLlib": _DESCENT}, penalty=(0.01, 0.5))
    hours = rows["hours-per-week"].to_numpy(float)
    rest = np.column_stack([np.delete(x, 4, axis=1), income])
    yield Problem(
        "adult, hours",
        rest,
        hours,
        "gaussian",
        {"statsmodels": _NEAR, "MLlib": _LESS, "MLlib GLM": _LESS, "scikit-learn": _VALUES},
    )
    yield Problem("adult, hours", rest, hours, "gaussian", {"statsmodels": _NEAR}, covariance="HC1")
    weight = (rows.fnlwgt / rows.fnlwgt.mean()).to_numpy(float)
    yield Problem(
        "adult, hours",
        rest,
        hours,
        "poisson",
        {"statsmodels": _NEAR, "MLlib GLM": _LESS, "scikit-learn": _VALUES},
        weight,
    )
    yield Problem("adult, hours", rest, hours, "poisson", {"statsmodels": _NEAR}, weight, covariance="HC0")
    work = rows.workclass.map(lambda name: 0.0 if name == "Private" else 1.0 if name.startswith("Self") else 2.0).to_numpy(float)
    some = np.column_stack([rows[_NUMBERS], foreign, _dummies(rows, ["marital-status", "race", "sex"])])
    yield Problem(
        "adult, work",
        some,
        work,
        "multinomial",
        {"statsmodels": _NEAR, "MLlib": _DESCENT, "scikit-learn": _VALUES},
    )
    yield Problem("adult, work", some, work, "multinomial", {"statsmodels": _NEAR}, covariance="HC1")
    twice = np.column_stack([rest, _dummies(rows, ["education"])])
    shown = dict.fromkeys(("MLlib", "MLlib GLM"), _SHOWN)
    yield Problem(
        "adult, education as number and as dummies",
        twice,
        hours,
        "gaussian",
        {"statsmodels": _NEAR, **shown},
        said="depend linearly",
    )
    country = np.column_stack([x, _dummies(rows, ["native-country"])])
    everyone = dict.fromkeys(("statsmodels", "MLlib", "MLlib GLM", "scikit-learn"), _SHOWN)
    yield Problem("adult, every country", np.delete(country, 5, axis=1), income, "binomial", everyone, said="infinitely far")


def _given(name: str) -> tuple[Any, Any]:
    data = getattr(sm.datasets, name).load_pandas()
    return data.exog.to_numpy(np.float64), data.endog.to_numpy(np.float64)


def _adult_rows(folder: Path) -> pd.DataFrame:
    parts = [
        pd.read_csv(folder / name, names=_ADULT, skipinitialspace=True, na_values="?", comment="|")
        for name in ("adult.data", "adult.test")
    ]
    rows = pd.concat(parts, ignore_index=True).dropna()
    rows["income"] = rows.income.str.rstrip(".")
    return rows


def _dummies(rows: pd.DataFrame, names: list[str]) -> Any:
    """Return 0 and 1 for every value but the most frequent one."""
    parts = []
    for name in names:
        values = rows[name].value_counts().index[1:]
        parts.append(np.column_stack([rows[name] == value for value in values]))
    return np.column_stack(parts).astype(float)
