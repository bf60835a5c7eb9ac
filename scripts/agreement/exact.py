"""Least squares in rational arithmetic: the answer for the very doubles that were given, every digit of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from scipy import stats


def least_squares(x: Any, y: Any) -> tuple[Any, Any, Any]:
    """Return coefficients, standard errors and p-values of (rows, features) and an intercept, which comes last.

    Raises
    ------
    ZeroDivisionError
        Features that depend on one another.
    """
    rows = [[*map(Fraction, row), Fraction(1)] for row in np.asarray(x, np.float64).tolist()]
    labels = list(map(Fraction, np.asarray(y, np.float64).tolist()))
    size = len(rows[0])
    right = [sum(row[at] * label for row, label in zip(rows, labels, strict=True)) for at in range(size)]
    table = []
    for at in range(size):
        gram = [sum(row[at] * row[other] for row in rows) for other in range(size)]
        table.append([*gram, right[at], *(Fraction(at == other) for other in range(size))])
    for at in range(size):  # Gauss and Jordan; of a positive matrix no pivot is 0
        pivot = 1 / table[at][at]
        table[at] = [value * pivot for value in table[at]]
        for other in range(size):
            if other != at and (factor := table[other][at]):
                table[other] = [value - factor * own for value, own in zip(table[other], table[at], strict=True)]
    w = [row[size] for row in table]
    freedom = len(rows) - size
    left = sum(label * label for label in labels) - sum(one * other for one, other in zip(w, right, strict=True))
    errors = np.sqrt([float(table[at][size + 1 + at] * left / freedom) for at in range(size)])
    values = np.array([float(one) for one in w])
    return values, errors, 2 * stats.t.sf(np.abs(values / errors), freedom)
