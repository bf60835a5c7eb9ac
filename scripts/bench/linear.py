"""Linear models: passes against reading, whole fits, what a second rank brings, wide rows, scoring, and the limits of all that.

    .venv/bin/python scripts/bench/linear.py [--rows 1e9] [--folder FOLDER] [--only PART ...] [--quick] [--json FILE]
    .venv/bin/python scripts/bench/linear.py --rows 1e7 --only workers roofline --json linear.json

Rows are those of linear_rows.py; the largest size that fits the disk is taken, and said. The parts `passes` and `fits` are on
--rows x 10. Files larger than the memory come from the disk, smaller ones from the page cache, where reading costs a copy of
fixed size and every ratio to it is at its worst. Against other libraries: linear_peers.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes here; ranks have their own

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import Bench
from scripts.bench.linear_jobs import fits, search
from scripts.bench.linear_limits import roofline, wide
from scripts.bench.linear_passes import Ranks, one_pass, read
from scripts.bench.linear_rows import largest, publish
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
        bare, logistic, squares = bench.compare(sides, repeats=2 if rows >= 3e8 else 9, warm_up=rows < 3e8).values()
    bench.add("linear: reading", rows / bare.wall_median / 1e6, "M rows/s")
    bench.add("linear: logistic pass / reading", logistic.wall_median / bare.wall_median, "x", at_most=1.25)
    bench.add("linear: least squares pass / reading", squares.wall_median / bare.wall_median, "x")


def passes_and_fits(bench: Bench, folder: str, rows: int, only: list[str]) -> None:
    """Take the largest set that fits the disk, up to `rows`."""
    if not Path(folder, f"linear-{rows}x10").exists():
        rows = largest(folder, rows, 48)
    url = publish(folder, rows, 10)
    memory = psutil.virtual_memory().total
    print(f"{rows:,} rows x 10, {rows * 44 / 1e9:.1f} GB read in a pass; {memory / 1e9:.0f} GB of memory", flush=True)
    if "passes" in only:
        passes(bench, url, rows)
    if "fits" in only:
        fits(bench, url, rows)


# rows at most: the files of larger sets crowd one another out of the page cache, or off the disk
OTHERS = {
    "search": (search, 1_000_000_000),
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
    parser.add_argument("--folder", help="where the rows are kept; by default a temporary folder for each part")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=" ".join(PARTS))
    example = "Example: linear.py --rows 1e7 --only workers roofline --json linear.json"
    bench = Bench(f"{__doc__.splitlines()[0]} {example}", parser)
    only = bench.arguments.only
    rows = bench.arguments.rows or (10_000_000 if bench.quick else 100_000_000)
    if {"passes", "fits"} & set(only):
        with kept(bench.arguments.folder) as folder:
            passes_and_fits(bench, folder, rows, only)
    for name, (part, most) in OTHERS.items():
        if name in only:
            with kept(bench.arguments.folder) as folder:
                part(bench, folder, min(rows, most // 10 if bench.quick else most))
    return bench.finish()


@contextlib.contextmanager
def kept(folder: str | None) -> Iterator[str]:
    """Yield the folder, or a temporary one for this part alone: all parts' rows together do not fit every disk."""
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as temporary:
        yield temporary


if __name__ == "__main__":
    sys.exit(main())
