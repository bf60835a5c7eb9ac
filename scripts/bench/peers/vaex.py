"""Vaex streaming Parquet out of core into scikit-learn's SGD, tuned as in sklearn.py: what its IncrementalPredictor does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import vaex

from scripts.bench.peers.measured import Fitted, Turn, files, run
from scripts.bench.peers.sklearn import BATCH, streamed

_CHUNK = 1 << 20  # smaller ones make it read files again and again


def read(turn: Turn) -> Any:
    return vaex.open_many(files(turn.rows))


def fit(frame: Any, turn: Turn) -> Fitted:
    return streamed(_chunks(frame), turn, tuned=True)


def _chunks(frame: Any) -> Iterator[tuple[Any, Any]]:
    names = [name for name in frame.get_column_names() if name != "label"]
    for _, _, values in frame.to_arrays([*names, "label"], chunk_size=_CHUNK, array_type="numpy", parallel=True):
        x, y = np.stack(values[:-1], axis=1), values[-1]
        for start in range(0, len(y), BATCH):  # scikit-learn's average gains by more calls
            yield x[start : start + BATCH], y[start : start + BATCH]


if __name__ == "__main__":
    sys.exit(run("vaex-core", read, fit))
