"""XGBoost: its linear booster (shotgun) and its trees (hist), as they come but for the number of rounds, on all cores.

Reading ends with its own matrix, of quantiles for trees. Without a penalty on weights, since nobody else is penalised.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import xgboost as xgb

from scripts.bench.peers.measured import Fitted, Turn, arrays, run

_ROUNDS = {"linear": 60, "trees": 100}


def read(turn: Turn) -> Any:
    x, y = arrays(turn.rows)
    return (xgb.DMatrix if turn.variant == "linear" else xgb.QuantileDMatrix)(x, y, nthread=turn.threads)


def fit(data: Any, turn: Turn) -> Fitted:
    params: dict[str, Any] = {"objective": "binary:logistic", "nthread": turn.threads}
    if turn.variant == "linear":
        params |= {"booster": "gblinear", "updater": "shotgun", "reg_lambda": 0}
    booster = xgb.train(params, data, _ROUNDS[str(turn.variant)], callbacks=[_Noting(turn)])
    return _linear(booster) if turn.variant == "linear" else _trees(booster, _ROUNDS["trees"])


class _Noting(xgb.callback.TrainingCallback):
    """Notes the model of every round whose number is a power of two: a copy of weights, of trees their number."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if (epoch + 1).bit_count() == 1:
            self._turn.note(_linear(model) if self._turn.variant == "linear" else _trees(model, epoch + 1))
        return False


def _linear(booster: Any) -> Fitted:
    numbers = [float(line) for line in booster.get_dump()[0].split() if not line.endswith(":")]
    # the dump's bias leaves out the base score; one prediction tells it
    zero = booster.predict(xgb.DMatrix(np.zeros((1, len(numbers) - 1), np.float32)), output_margin=True)
    return Fitted.linear(numbers[1:], zero[0])


def _trees(booster: Any, rounds: int) -> Fitted:
    return Fitted(lambda x: booster.predict(xgb.DMatrix(x), iteration_range=(0, rounds), output_margin=True))


if __name__ == "__main__":
    sys.exit(run("xgboost-cpu", read, fit, ["linear", "trees"]))
