"""glum's GeneralizedLinearRegressor, irls-ls in memory: no penalty, float64, rows in Fortran order as its guide asks for."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from glum import GeneralizedLinearRegressor

from scripts.bench.peers.measured import Fitted, Turn, arrays, run


def read(turn: Turn) -> Any:
    return arrays(turn.rows, np.float64)


def fit(data: Any, turn: Turn) -> Fitted:
    model = GeneralizedLinearRegressor(
        family="binomial", alpha=0, solver="irls-ls", max_iter=turn.limit or 100, gradient_tol=1e-6, check_input=False
    ).fit(*data)
    return Fitted.linear(model.coef_, model.intercept_, int(model.n_iter_))


if __name__ == "__main__":
    sys.exit(run("glum", read, fit))
