"""Logistic regression against others on the same rows: seconds to the optimum, memory, bytes read, log-loss over time.

    .venv/bin/python scripts/bench/linear_peers.py [--rows 1e7] [--folder FOLDER] [--only PEER ...] [--quick] [--json FILE]
    .venv/bin/python scripts/bench/linear_peers.py --rows 1e6 --only mllib glum --json peers.json

Every turn of every side is a process of its own, `peers/NAME.py`, in an environment of its own (`.peers`, installed from lock
files): memory comes back between turns, and nobody's packages constrain another's. Interpreter, imports, virtual machines and
thread pools are warm when its clock starts, by three fits of 65,536 rows. From there on a turn is all that lies between files in
the page cache and coefficients. All have as many threads as there are cores. Ours reads its shards, and once more plain Parquet,
in place; the others plain Parquet. All that is float32, neither compressed nor encoded. Vowpal Wabbit
reads its own cache, which is made from text, and MLlib once more Spark's: what that takes is shown as "before".

Time to log-loss is that until a model has the log-loss on 200,000 other rows of the best exact solver + 1e-4. Of solvers that
cannot be looked at on their way it is found by fits of fewer iterations, in the last turn, after what is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import Bench, Side, SideFailedError, Taken, Timing, command
from scripts.bench.linear_rows import held_out, plain, publish
from scripts.bench.linear_turn import PEERS, Files, Peer, take

OURS = "ours"
COLD = "ours, a whole process from a cold start"
WARM_ROWS = 65_536
NEAR = 1e-4  # to the best exact solver's log-loss


@dataclass
class Sides:
    """The peers on one set of rows, and what their turns gave."""

    files: Files
    repeats: int
    curves: bool
    found: dict[str, list[dict[str, Any]]]
    failed: dict[str, str]

    def of(self, peer: Peer) -> Side:
        """Return a side; its last turn also takes the curve."""
        turns = self.found.setdefault(peer.name, [])

        def run() -> Taken:
            last = len(turns) + 1 == peer.turns(self.repeats)
            try:
                turns.append(take(peer, self.files, curve=self.curves and last))
            except SideFailedError as error:
                self.failed[peer.name] = str(error)
                raise
            return Taken(turns[-1]["seconds"], turns[-1]["cpu_seconds"])

        return run

    def median(self, name: str, field: str) -> float:
        return statistics.median(turn[field] for turn in self.found[name])


def compared(
    bench: Bench, files: Files, peers: list[Peer], repeats: int, *, curves: bool, cold_start: bool
) -> tuple[Sides, dict[str, Timing]]:
    """Have all peers take their turns on one set of rows, and print what they took."""
    taken = Sides(files, repeats, curves, {}, {})
    print(f"\n{files.rows:,} rows x {files.features}, {files.bytes_of_plain / 1e9:.2f} GB as plain Parquet", flush=True)
    sides: dict[str, Side] = {peer.name: taken.of(peer) for peer in peers}
    if cold_start:
        sides[COLD] = partial(cold, files.shards)
    fewer = {peer.name: peer.turns(repeats) for peer in peers}
    timings = bench.compare(sides, repeats, warm_up=False, fewer=fewer)
    table(taken)
    bench.details[f"peers of {files.rows} x {files.features}"] = {
        "turns": taken.found,
        "failed": taken.failed,
        "best": best(taken),
    }
    return taken, timings


def cold(url: str) -> float:
    """Return the seconds of Python, session and fit in a process of their own."""
    try:
        return command(sys.executable, "scripts/bench/bare_linear_fit.py", url, "logistic", "1e-6")[0]
    except RuntimeError as error:
        raise SideFailedError(str(error).strip().splitlines()[-1]) from None


def best(taken: Sides) -> float | None:
    """Return the least log-loss of the exact solvers."""
    exact = [peer.name for peer in PEERS if peer.exact and taken.found.get(peer.name)]
    return min((taken.found[name][-1]["log_loss"] for name in exact), default=None)


def near_after(turn: dict[str, Any], loss: float | None) -> float | None:
    """Return the seconds until a peer is as near to the best log-loss as it must be; None if it never is."""
    return min((at for at, value in turn["curve"] if loss is not None and value <= loss + NEAR), default=None)


def table(taken: Sides) -> None:
    """Print the medians of every side and, of those that failed, why."""
    loss, rows = best(taken), taken.files.rows
    heads = (
        "before, s",
        "read s",
        "fit s",
        "cpu s",
        "M rows/s",
        "GiB",
        "GB read",
        "of disk",
        "log-loss",
        "near, s",
        "iterations",
    )
    print(f"\n{'':<40}{heads[0]:>11}" + "".join(f"{head:>11}" for head in heads[1:]))
    for name, turns in taken.found.items():
        if not turns:
            continue
        before = max(turn["prepare_seconds"] for turn in turns)
        whole, reading = taken.median(name, "seconds"), taken.median(name, "read_seconds")
        near = near_after(turns[-1], loss)
        cells = [
            f"{whole - reading:>11.2f}{taken.median(name, 'cpu_seconds'):>11.2f}{rows / whole / 1e6:>11.2f}",
            f"{taken.median(name, 'peak_rss') / 2**30:>11.2f}{taken.median(name, 'rchar') / 1e9:>11.2f}",
            f"{taken.median(name, 'read_bytes') / 1e9:>11.2f}{turns[-1]['log_loss']:>11.6f}",
            f"{'not' if near is None else f'{near:.2f}':>11}{turns[-1]['iterations'] or '':>11}",
        ]
        print(f"{name + ' ' + turns[-1]['version']:<40}{before:>11.1f}{reading:>11.2f}" + "".join(cells))
    for name, reason in taken.failed.items():
        print(f"{name:<40}not measured: {reason}")
    print(flush=True)


def ratio(bench: Bench, taken: Sides, name: str, at_least: float | None) -> None:
    """Record how many times as long as ours a peer took, reading included."""
    if taken.found.get(name):
        words = f"linear: {name} / ours, {taken.files.rows:,} rows"
        bench.add(words, taken.median(name, "seconds") / taken.median(OURS, "seconds"), "x", at_least=at_least)


def judge(bench: Bench, taken: Sides) -> None:
    """Record the ratios at full size, those with a target among them."""
    targets = {"MLlib, from Parquet": 30.0, "MLlib, from its cache": 5.0, "scikit-learn, partial_fit": 3.0}
    if OURS in taken.failed:
        bench.add("linear: turns of ours that ended well", len(taken.found[OURS]), "", at_least=taken.repeats)
        return
    ours = taken.found[OURS][-1]
    for name in taken.found:
        if name != OURS:
            ratio(bench, taken, name, targets.get(name))
    for name in ("MLlib, from Parquet", "scikit-learn, newton-cholesky", "glum"):
        if taken.found.get(name):
            bench.add(f"linear: largest difference to {name}", away(ours, taken.found[name][-1]) * 1e6, "1e-6", at_most=100)
    for name in ("scikit-learn, partial_fit", "scikit-learn, partial_fit tuned"):
        if taken.found.get(name):
            worse = taken.found[name][-1]["log_loss"] - ours["log_loss"]
            bench.add(f"linear: log-loss of {name} less ours", worse * 1e6, "1e-6", at_least=0)


def away(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest difference of a coefficient or the intercept."""
    mine, theirs = (np.array([*turn["coefficients"], turn["intercept"]]) for turn in (one, other))
    return float(np.max(np.abs(mine - theirs)))


def prepared(folder: str, rows: int, features: int) -> Files:
    """Write what is not there yet of the rows, in the forms that the sides take."""
    return Files(
        folder,
        rows,
        features,
        shards=publish(folder, rows, features),
        plain=plain(folder, rows, features),
        warm_shards=publish(folder, WARM_ROWS, features),
        warm_plain=plain(folder, WARM_ROWS, features),
        test=held_out(folder, features),
    )


def chosen(words: list[str]) -> list[Peer]:
    """Return ours, and the peers whose name or program has one of the words in it; all by default.

    Raises
    ------
    SystemExit
        A word is in none.
    """
    unknown = [word for word in words if not any(word in peer.key for peer in PEERS)]
    if unknown:
        raise SystemExit(f"no peer has {', '.join(unknown)} in its name; there are {'; '.join(peer.name for peer in PEERS)}")
    return [peer for peer in PEERS if not words or peer.name == OURS or any(word in peer.key for word in words)]


def main() -> int:
    parser = argparse.ArgumentParser(epilog=f"Peers: {'; '.join(peer.name for peer in PEERS)}.")
    parser.add_argument("--rows", type=lambda text: int(float(text)))
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--folder", help="where the rows are kept; a temporary folder by default")
    parser.add_argument("--only", nargs="+", default=[], metavar="PEER", help="words of their names: mllib glum partial_fit")
    parser.add_argument("--repeats", type=int, default=3, help="turns; half of them for what takes minutes")
    parser.add_argument(
        "--no-curves",
        action="store_true",
        help="no fits of fewer iterations, by which alone it is told when a peer is near enough",
    )
    example = "Example: linear_peers.py --rows 1e6 --only mllib glum --json peers.json"
    bench = Bench(f"{__doc__.splitlines()[0]} {example}", parser)
    given = bench.arguments
    rows = given.rows or (1_000_000 if bench.quick else 10_000_000)
    peers = chosen([word.lower() for word in given.only])
    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as temporary:
        folder = given.folder or temporary
        os.makedirs(folder, exist_ok=True)
        full, _ = compared(
            bench, prepared(folder, rows, given.features), peers, given.repeats, curves=not given.no_curves, cold_start=True
        )
        judge(bench, full)
        in_memory = [peer for peer in peers if peer.name == OURS or peer.in_memory]
        few, _ = compared(
            bench, prepared(folder, rows // 10, given.features), in_memory, max(5, given.repeats), curves=False, cold_start=False
        )
        for name in ("glum", "scikit-learn, newton-cholesky") if OURS not in few.failed else ():
            ratio(bench, few, name, at_least=1.0)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
