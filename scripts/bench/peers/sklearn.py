"""scikit-learn: LogisticRegression in memory (lbfgs, newton-cholesky), SGDClassifier streaming.

In memory: C is infinite, since nobody else is penalised; float64, and a tolerance at which coefficients are within 1e-4 of the
optimum. Streaming: `partial_fit` over blocks of Parquet, once; `sgd` as it comes, `sgd-tuned` with features scaled by the first
block's mean and deviation and coefficients averaged, as its guide advises; of nine settings the best on 1e6 of these rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.preprocessing import StandardScaler

from scripts.bench.peers.measured import Fitted, Turn, arrays, run, stream

BATCH = 16_384
_TUNED = {"alpha": 1e-7, "average": 100_000, "learning_rate": "invscaling", "eta0": 0.05, "power_t": 0.25}
_TOLERANCES = {"lbfgs": 1e-6, "newton-cholesky": 1e-8}


def read(turn: Turn) -> Any:
    return arrays(turn.rows, np.float64, order="C") if turn.variant in _TOLERANCES else None


def fit(data: Any, turn: Turn) -> Fitted:
    if turn.variant in _TOLERANCES:
        solver, tolerance = turn.variant, _TOLERANCES[turn.variant]
        model = LogisticRegression(C=np.inf, solver=solver, tol=tolerance, max_iter=turn.limit or 1000).fit(*data)
        return Fitted.linear(model.coef_, model.intercept_[0], int(model.n_iter_[0]))
    return streamed(stream(turn.rows, BATCH), turn, tuned=turn.variant == "sgd-tuned")


def streamed(blocks: Iterable[tuple[Any, Any]], turn: Turn, *, tuned: bool) -> Fitted:
    sgd = SGDClassifier(loss="log_loss", random_state=7, **(_TUNED if tuned else {}))
    scaler = StandardScaler(copy=False) if tuned else None
    for number, (x, y) in enumerate(blocks):
        if scaler is not None:
            x = scaler.fit_transform(x) if number == 0 else scaler.transform(x)
        sgd.partial_fit(x, y, classes=[0, 1])
        if number.bit_count() == 1 or number % 32 == 0:
            turn.note(_unscaled(sgd, scaler))
    return _unscaled(sgd, scaler)


def _unscaled(sgd: SGDClassifier, scaler: StandardScaler | None) -> Fitted:
    w, b = sgd.coef_[0].astype(np.float64), float(sgd.intercept_[0])
    if scaler is None:
        return Fitted.linear(w, b)
    w = w / scaler.scale_
    return Fitted.linear(w, b - float(w @ scaler.mean_))


if __name__ == "__main__":
    sys.exit(run("scikit-learn", read, fit, ["lbfgs", "newton-cholesky", "sgd", "sgd-tuned"]))
