"""LightGBM's trees, 100 rounds as they come, on all cores; reading ends with its binned data set."""

from __future__ import annotations

import sys
from typing import Any

import lightgbm as lgb

from scripts.bench.peers.measured import Fitted, Turn, arrays, run

_ROUNDS = 100


def read(turn: Turn) -> Any:
    x, y = arrays(turn.rows)
    return lgb.Dataset(x, y, params={"num_threads": turn.threads, "verbose": -1}).construct()


def fit(data: Any, turn: Turn) -> Fitted:
    def noting(env: Any) -> None:
        if (env.iteration + 1).bit_count() == 1:
            turn.note(_trees(env.model, env.iteration + 1))

    params = {"objective": "binary", "num_threads": turn.threads, "verbose": -1}
    return _trees(lgb.train(params, data, _ROUNDS, callbacks=[noting]), _ROUNDS)


def _trees(booster: Any, rounds: int) -> Fitted:
    return Fitted(lambda x: booster.predict(x, num_iteration=rounds, raw_score=True))


if __name__ == "__main__":
    sys.exit(run("lightgbm", read, fit))
