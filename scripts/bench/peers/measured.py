"""What every peer's program shares: its flags, the measured turn, and the JSON line that it ends with.

Runs in environments that have NumPy and PyArrow and nothing else in common. A program hands two functions to `run`: `read`,
which brings the rows into the form that the peer fits on, and `fit`. Before the clock starts both are called three times on
65,536 other rows: imports, thread pools and virtual machines are warm, ours and the peers'.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Array = Any  # of NumPy
_TICKS = os.sysconf("SC_CLK_TCK")
_WARM_FITS = 3  # Java's compiler is busy for longer than one
_ITERATIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


@dataclass(frozen=True)
class Fitted:
    """A model: `eta` maps features (rows, features) to log-odds (rows,)."""

    eta: Callable[[Array], Array]
    coefficients: list[float] | None = None
    intercept: float | None = None
    iterations: int | None = None

    @classmethod
    def linear(cls, coefficients: Array, intercept: float, iterations: int | None = None) -> Fitted:
        w, b = np.array(coefficients, np.float64).ravel(), float(intercept)  # copies: peers go on to change theirs
        return cls(lambda x: x @ w + b, w.tolist(), b, iterations)


@dataclass(frozen=True)
class Usage:
    """What this process and its descendants have used: those that live, and those that have been waited for."""

    wall: float
    cpu: float
    rchar: int
    read_bytes: int

    @classmethod
    def now(cls) -> Usage:
        cpu, rchar, read_bytes = 0.0, 0, 0
        for pid in _family():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
            except OSError:  # it has ended
                continue
            cpu += sum(map(int, fields[11:15])) / _TICKS
            rchar += int(io["rchar"])
            read_bytes += int(io["read_bytes"])
        return cls(time.perf_counter(), cpu, rchar, read_bytes)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(mine - theirs for mine, theirs in zip(asdict(self).values(), asdict(other).values(), strict=True)))


def _family() -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found


class Turn:
    """One reading and one fit of `rows`; with a `limit`, of so many iterations at most."""

    def __init__(self, rows: str, threads: int, variant: str | None, limit: int | None = None) -> None:
        self.rows, self.threads, self.variant, self.limit = rows, threads, variant, limit
        self.noted: list[tuple[float, Fitted]] = []
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def note(self, model: Fitted) -> None:
        """Keep a model of now; its log-loss is found when all is over."""
        self.noted.append((self.seconds, model))


Read = Callable[[Turn], Any]
Fit = Callable[[Any, Turn], Fitted]


def run(
    package: str,
    read: Read,
    fit: Fit,
    variants: Sequence[str] = (),
    *,
    prepare: Callable[[Turn], None] | None = None,
    held: Sequence[str] = (),
) -> int:
    """Warm up, take one turn and print what it took as one line of JSON.

    The curve of a model that says its `iterations` is measured by fits that are limited to fewer.

    Parameters
    ----------
    prepare
        Makes what the peer's users have already, once; not a part of the turn.
    held
        Variants whose rows are in memory already: reading them is not a part of the turn either.
    """
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or "").splitlines()[0])
    parser.add_argument("rows", help="folder of the rows, as linear_rows.py writes them")
    parser.add_argument("--warm", required=True, help="folder of a few rows, fitted before the clock starts")
    parser.add_argument("--test", required=True, help="npz file of other rows, x and y")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--variant", choices=variants, default=variants[0] if variants else None)
    parser.add_argument("--curve", action="store_true", help="also measure log-loss over time")
    given = parser.parse_args()
    with np.load(given.test) as file:
        test = file["x"], file["y"]
    warm, turn = (Turn(rows, given.threads, given.variant) for rows in (given.warm, given.rows))
    began = time.perf_counter()
    for each in (warm, turn) if prepare else ():
        prepare(each)
    prepared = time.perf_counter() - began
    for _ in range(_WARM_FITS):
        fit(read(warm), warm)

    before, turn = Usage.now(), Turn(given.rows, given.threads, given.variant)
    data = read(turn)
    read_seconds = turn.seconds
    if given.variant in held:
        prepared += read_seconds
        before, turn, read_seconds = Usage.now(), Turn(given.rows, given.threads, given.variant), 0.0
    fitted = fit(data, turn)
    used = Usage.now() - before

    final = log_loss(fitted, test)
    curve = [(seconds, log_loss(model, test)) for seconds, model in turn.noted]
    for limit in _ITERATIONS if given.curve else ():
        if limit < (fitted.iterations or 0):
            less = Turn(given.rows, given.threads, given.variant, limit)
            model = fit(data, less)
            curve.append((read_seconds + less.seconds, log_loss(model, test)))
    found = {
        "version": version(package),
        "seconds": used.wall,
        "prepare_seconds": prepared,
        "read_seconds": read_seconds,
        "cpu_seconds": used.cpu,
        "rchar": used.rchar,
        "read_bytes": used.read_bytes,
        "log_loss": final,
        "coefficients": fitted.coefficients,
        "intercept": fitted.intercept,
        "iterations": fitted.iterations,
        "curve": [*curve, (used.wall, final)],
    }
    print(json.dumps(found), flush=True)
    return 0


def log_loss(model: Fitted, test: tuple[Array, Array]) -> float:
    """Return the mean log-loss."""
    x, y = test
    eta = np.asarray(model.eta(x), np.float64).ravel()
    return float(np.mean(np.logaddexp(0, eta) - y * eta))


def arrays(rows: str, kind: type = np.float32, *, order: str = "F") -> tuple[Array, Array]:
    """Read all rows: features (rows, features) and labels (rows,). Files and columns are decoded by all of Arrow's threads."""
    table = pq.read_table(rows, use_threads=True)
    x = np.empty((table.num_rows, table.num_columns - 1), kind, order=order)  # type: ignore[call-overload]
    for at in range(x.shape[1]):
        start = 0
        for chunk in table.column(f"x{at}").chunks:
            x[start : start + len(chunk), at] = chunk.to_numpy()
            start += len(chunk)
    return x, table.column("label").to_numpy().astype(kind, copy=False)


def files(rows: str) -> list[str]:
    """Return the Parquet files of a folder in order."""
    return sorted(map(str, Path(rows).glob("*.parquet")))


def stream(rows: str, batch: int) -> Iterator[tuple[Array, Array]]:
    """Yield features and labels of `batch` rows at a time, in the order of the files."""
    for path in files(rows):
        for part in pq.ParquetFile(path).iter_batches(batch):
            yield matrix(part), part.column("label").to_numpy()


def matrix(part: pa.RecordBatch) -> Array:
    """Return the features of a batch of rows, C-ordered."""
    x = np.empty((part.num_rows, part.num_columns - 1), np.float32)
    for at in range(x.shape[1]):
        x[:, at] = part.column(f"x{at}").to_numpy()
    return x
