"""Whole jobs of linear models, each in a process of its own: Python, JVM, session, gang, sample, passes. Parts of linear.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from scripts.bench.harness import PYTHONPATH, Bench, Peak, orphans_awaited
from scripts.bench.linear_passes import Ranks, read
from scripts.bench.linear_rows import publish
from sparkml.storage import Store


class Jobs:
    """Runs bare_linear_fit.py on a set, and keeps what the jobs printed.

    Before a job on files that do not fit the page cache, what is there of them is dropped: no side profits from the one before.
    """

    def __init__(self, url: str, rows: int) -> None:
        self.url, self.large = url, rows * 44 > 0.5 * psutil.virtual_memory().total
        self.found: dict[str, dict[str, Any]] = {}
        self.peaks: dict[str, int] = {}

    def forget(self) -> None:
        store = Store(self.url)
        for name in store.files("") if self.large else ():
            with open(store.at(name), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def fit(self, name: str, *arguments: str) -> Callable[[], None]:
        def run() -> None:
            self.forget()
            words = [sys.executable, str(Path(__file__).with_name("bare_linear_fit.py")), self.url, *arguments]
            with Peak() as peak, orphans_awaited():
                done = subprocess.run(words, env={**os.environ, **PYTHONPATH}, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
            self.found[name], self.peaks[name] = json.loads(done.stdout.splitlines()[-1]), peak.bytes
            shown = {key: value for key, value in self.found[name].items() if key != "w"}
            print(f"  {name}: {shown}; peak {peak.bytes / 2**30:.2f} GiB", flush=True)

        return run

    def reading(self, rows: int) -> Callable[[], None]:
        def run() -> None:
            self.forget()
            with Ranks() as ranks:
                ranks.passing(rows, read, self.url)()

        return run


def fits(bench: Bench, url: str, rows: int) -> None:
    """Fits against reading the same columns once."""
    jobs = Jobs(url, rows)
    jobs.fit("converged", "logistic", "1e-9")()
    sides = {
        "read and decode, a process for each": jobs.reading(rows),
        "logistic regression": jobs.fit("exact", "logistic", "1e-6"),
        "logistic regression, tol 1e-4": jobs.fit("once", "logistic", "1e-4"),
        "linear regression": jobs.fit("squares", "linear", "1e-6"),
    }
    bare, exact, once, squares = bench.compare(sides, repeats=1 if jobs.large else 3, warm_up=not jobs.large).values()
    w = np.array(jobs.found["converged"]["w"])
    away = {name: float(np.max(np.abs(w - jobs.found[name]["w"]))) for name in ("exact", "once")}
    bench.add("linear: logistic fit, exact", exact.wall_median, "s")
    bench.add("linear: largest error of a coefficient", away["exact"] * 1e6, "1e-6", at_most=100)
    bench.add("linear: logistic fit, exact / reading once", exact.wall_median / bare.wall_median, "x", at_most=2.6)
    bench.add("linear: logistic fit, one pass / reading once", once.wall_median / bare.wall_median, "x", at_most=1.4)
    bench.add("linear: one pass, passes over all rows", jobs.found["once"]["passes"], "", at_most=1)
    bench.add("linear: one pass, largest error of a coefficient", away["once"] * 1e6, "1e-6", at_most=100)
    bench.add("linear: one pass, its own bound", jobs.found["once"]["error"] * 1e6, "1e-6", at_most=100)
    bench.add("linear: linear regression / reading once", squares.wall_median / bare.wall_median, "x", at_most=1.2)
    bench.add("linear: peak RSS of a fit", max(jobs.peaks.values()) / 2**30, "GiB", at_most=2)


def search(bench: Bench, folder: str, rows: int) -> None:
    """Ten-fold cross-validation of ten penalties, a hundred and ten fits in shared passes, against one fit."""
    jobs = Jobs(publish(folder, rows, 10), rows)
    sides = {"one fit": jobs.fit("one", "logistic", "1e-6"), "ten folds, ten penalties": jobs.fit("search", "search", "1e-6")}
    one, many = bench.compare(sides, repeats=1 if jobs.large else 3, warm_up=not jobs.large).values()
    bench.add(
        f"linear: 10-fold cross-validation of 10 penalties / one fit, {rows:.0e} rows",
        many.wall_median / one.wall_median,
        "x",
        at_most=3,
    )
