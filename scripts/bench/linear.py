"""Linear models: passes against reading, whole fits, what a second rank brings, wide rows, scoring, and the limits of all that.

    .venv/bin/python scripts/bench/linear.py [--rows 1e9] [--folder FOLDER] [--only PART ...] [--quick] [--json FILE]
    .venv/bin/python scripts/bench/linear.py --rows 1e7 --only workers roofline --json linear.json

Rows are those of linear_rows.py; the largest size that fits the disk is taken, and said. The parts `passes` and `fits` are on
--rows x 10. Files larger than the memory come from the disk, smaller ones from the page cache, where reading costs a copy of
fixed size and every ratio to it is at its worst. Against other libraries: linear_peers.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes here; ranks have their own

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import PYTHONPATH, Bench, Peak
from scripts.bench.linear_limits import roofline, wide
from scripts.bench.linear_passes import Ranks, one_pass, read
from scripts.bench.linear_rows import publish
from scripts.bench.linear_scaling import scaling, workers
from scripts.bench.linear_transform import transform
from sparkml.learners.linear.families import Binomial, Gaussian


def passes(bench: Bench, url: str, rows: int) -> None:
    """Passes of ranks against bare reading of the same columns."""
    with Ranks() as ranks:
        sides = {
            "read and decode": ranks.passing(rows, read, url),
            "logistic pass": ranks.passing(rows, one_pass, url, Binomial()),
            "least squares pass": ranks.passing(rows, one_pass, url, Gaussian(), "value"),
        }
        bare, logistic, squares = bench.compare(sides, repeats=3 if rows >= 1e8 else 9).values()
    bench.add("linear: reading", rows / bare.wall_median / 1e6, "M rows/s")
    bench.add("linear: logistic pass / reading", logistic.wall_median / bare.wall_median, "x", at_most=1.25)
    bench.add("linear: least squares pass / reading", squares.wall_median / bare.wall_median, "x")


def fits(bench: Bench, url: str, rows: int) -> None:
    """Whole jobs, each in a process of its own: Python, JVM, session, gang, sample, passes."""
    found: dict[str, dict[str, Any]] = {}
    peaks: list[int] = []

    def fit(name: str, *arguments: str) -> Callable[[], None]:
        def run() -> None:
            words = [sys.executable, str(Path(__file__).with_name("bare_linear_fit.py")), url, *arguments]
            with Peak() as peak:
                done = subprocess.run(words, env={**os.environ, **PYTHONPATH}, capture_output=True, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            peaks.append(peak.bytes)
            shown = {key: value for key, value in found[name].items() if key != "w"}
            print(f"  {shown}; peak {peak.bytes / 2**30:.2f} GiB", flush=True)

        return run

    def reading() -> None:
        with Ranks() as ranks:
            ranks.passing(rows, read, url)()

    sides = {
        "read and decode, a process for each": reading,
        "logistic regression, tol 1e-9": fit("exact", "logistic", "1e-9"),
        "logistic regression, tol 1e-4": fit("once", "logistic", "1e-4"),
        "linear regression": fit("squares", "linear", "1e-6"),
    }
    large = rows > 3e8
    bare, exact, once, squares = bench.compare(sides, repeats=1 if large else 3, warm_up=not large).values()
    away = float(np.max(np.abs(np.array(found["exact"]["w"]) - found["once"]["w"])))
    bench.add("linear: logistic fit, exact", exact.wall_median, "s")
    bench.add("linear: logistic fit, exact / reading once", exact.wall_median / bare.wall_median, "x", at_most=2.6)
    bench.add("linear: logistic fit, one pass / reading once", once.wall_median / bare.wall_median, "x", at_most=1.4)
    bench.add("linear: one pass, largest error of a coefficient", away * 1e6, "1e-6", at_most=100)
    bench.add("linear: one pass, its own bound", found["once"]["error"] * 1e6, "1e-6", at_most=100)
    bench.add("linear: linear regression / reading once", squares.wall_median / bare.wall_median, "x", at_most=1.2)
    bench.add("linear: peak RSS of a fit", max(peaks) / 2**30, "GiB", at_most=2)


def passes_and_fits(bench: Bench, folder: str, rows: int, only: list[str]) -> None:
    """Take the largest set that fits the disk, up to `rows`."""
    room = int(shutil.disk_usage(folder).free * 0.9 / 48)
    if rows > room and not Path(folder, f"linear-{rows}x10").exists():
        print(f"{rows:,} rows do not fit the disk: {room:,} do")
        rows = room
    url = publish(folder, rows, 10)
    memory = psutil.virtual_memory().total
    print(f"{rows:,} rows x 10, {rows * 44 / 1e9:.1f} GB read in a pass; {memory / 1e9:.0f} GB of memory", flush=True)
    if "passes" in only:
        passes(bench, url, rows)
    if "fits" in only:
        fits(bench, url, rows)


# rows at most: the files of larger sets crowd one another out of the page cache, or off the disk
OTHERS = {
    "workers": (workers, 100_000_000),
    "wide": (wide, 1_000_000),
    "transform": (transform, 100_000_000),
    "scaling": (scaling, 100_000_000),
    "roofline": (roofline, 10_000_000),
}
PARTS = ("passes", "fits", *OTHERS)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=lambda text: int(float(text)), help="1e8 by default, 1e7 with --quick")
    parser.add_argument("--folder", help="where the rows are kept; a temporary folder by default")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=" ".join(PARTS))
    example = "Example: linear.py --rows 1e7 --only workers roofline --json linear.json"
    bench = Bench(f"{__doc__.splitlines()[0]} {example}", parser)
    only = bench.arguments.only
    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as temporary:
        folder = bench.arguments.folder or temporary
        os.makedirs(folder, exist_ok=True)
        rows = bench.arguments.rows or (10_000_000 if bench.quick else 100_000_000)
        if {"passes", "fits"} & set(only):
            passes_and_fits(bench, folder, rows, only)
        for name, (part, most) in OTHERS.items():
            if name in only:
                part(bench, folder, min(rows, most // 10 if bench.quick else most))
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
