"""Vowpal Wabbit from its own cache, which its users have: its SGD in four passes, and its BFGS.

The cache is made once of text that is made of Parquet; that is not a part of the turn and said beside it. It learns in one thread
and parses in another. Without the least penalty (0.1 in all) BFGS stops after two passes here, for want of curvature in float32.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from vowpalwabbit import Workspace

from scripts.bench.peers.measured import Fitted, Turn, files, run

_PASSES = {"sgd": 4, "bfgs": 60}
_LEAST_PASSES = {"sgd": 1, "bfgs": 2}
_FLAGS = {"sgd": "", "bfgs": "--bfgs --l2 0.1"}
_CONSTANT = 11_650_396  # the intercept's place before it is masked
_TEXT_BYTES = 14  # of a number, at most


def prepare(turn: Turn) -> None:
    cache = _cache(turn)
    if cache.exists():
        return
    text, made = cache.with_suffix(".txt"), cache.with_suffix(".part")
    needed = sum(pq.read_metadata(path).num_rows * 21 for path in files(turn.rows)) * (_TEXT_BYTES + 7)
    if needed > shutil.disk_usage(cache.parent).free:
        raise SystemExit(f"needs {needed / 1e9:.0f} GB of disk for text and cache")
    with text.open("wb") as file:
        for line in _lines(turn):
            file.write(line)
    Workspace(f"-d {text} --cache_file {made} --noop --quiet").finish()
    text.unlink()
    made.rename(cache)


def _lines(turn: Turn) -> Iterator[bytes]:
    for path in files(turn.rows):
        for part in pq.ParquetFile(path).iter_batches(1 << 16):
            named = (
                pc.binary_join_element_wise(str(at), part.column(f"x{at}").cast(pa.string()), ":")
                for at in range(part.num_columns - 1)
            )
            label = pc.if_else(pc.greater(part.column("label"), 0.5), "1 |", "-1 |")
            yield ("\n".join(pc.binary_join_element_wise(label, *named, " ").to_pylist()) + "\n").encode()


def _cache(turn: Turn) -> Path:
    return Path(f"{turn.rows.rstrip('/')}.vw.cache")


def read(turn: Turn) -> Any:
    return pq.read_metadata(files(turn.rows)[0]).num_columns - 1


def fit(features: int, turn: Turn) -> Fitted:
    cache, kind = _cache(turn), str(turn.variant)
    passes = max(turn.limit or _PASSES[kind], _LEAST_PASSES[kind])
    flags = f"--loss_function logistic {_FLAGS[kind]} --passes {passes} --holdout_off --quiet"
    workspace = Workspace(f"--cache_file {cache} -d {cache.with_suffix('.txt')} {flags}")
    found = [workspace.get_weight(at) for at in (*range(features), _CONSTANT)]
    workspace.finish()
    return Fitted.linear(found[:-1], found[-1], passes)


if __name__ == "__main__":
    sys.exit(run("vowpalwabbit", read, fit, ["sgd", "bfgs"], prepare=prepare))
