"""What every benchmark shares: flags, sides measured in turn, medians, CPU seconds beside wall seconds, a table and a JSON file.

Machines change speed by a factor of two for minutes at a time. So the sides of a comparison take turns within one run, ratios are
taken between medians, and CPU seconds (of this process and all its descendants) tell a slow side from a starved one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Result:
    """One line of ``--json``: `target` is the bound in words, `ok` is None where there is none."""

    name: str
    value: float
    unit: str
    target: str | None = None
    ok: bool | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of every repeat of one side."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def wall_median(self) -> float:
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu)


class Bench:
    """One benchmark script: parses the shared flags, collects results, prints and writes them."""

    def __init__(self, description: str) -> None:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--quick", action="store_true", help="a tenth of the size")
        parser.add_argument("--json", metavar="FILE", help="write the results there as a list of {name, value, unit, target, ok}")
        arguments = parser.parse_args()
        self.quick: bool = arguments.quick
        self._json: str | None = arguments.json
        self.results: list[Result] = []

    def compare(self, sides: Mapping[str, Callable[[], None]], repeats: int = 5) -> dict[str, Timing]:
        """Run the sides in turn, `repeats` times after one unmeasured round, and print their medians and the first's ratio."""
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for turn in range(repeats + 1):
            for name, side in sides.items():
                cpu, start = _cpu_seconds(), time.perf_counter()
                side()
                if turn:  # the first round warms caches and workers up
                    taken[name].append((time.perf_counter() - start, _cpu_seconds() - cpu))
        timings = {name: Timing(*zip(*rounds, strict=True)) for name, rounds in taken.items()}
        first = next(iter(timings.values())).wall_median
        print(f"{'side':<44}{'wall s':>9}{'min':>8}{'max':>8}{'cpu s':>9}{'speed-up':>10}")
        for name, timing in timings.items():
            low, high = min(timing.wall), max(timing.wall)
            ratio = timing.wall_median / first
            print(f"{name:<44}{timing.wall_median:>9.3f}{low:>8.3f}{high:>8.3f}{timing.cpu_median:>9.3f}{ratio:>9.2f}x")
        sys.stdout.flush()
        return timings

    def add(self, name: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Record a result, judged against its bound when it has one."""
        target, ok = None, None
        if at_least is not None:
            target, ok = f">= {at_least:g}", value >= at_least
        elif at_most is not None:
            target, ok = f"<= {at_most:g}", value <= at_most
        self.results.append(Result(name, round(value, 4), unit, target, ok))

    def finish(self) -> int:
        """Print the results, write ``--json``, and return the exit status: 1 when a target was missed."""
        print()
        for result in self.results:
            verdict = {True: "ok", False: "MISSED", None: ""}[result.ok]
            print(f"{result.name:<56}{result.value:>12,.2f} {result.unit:<12}{result.target or '':<12}{verdict}")
        if self._json:
            Path(self._json).write_text(json.dumps([asdict(result) for result in self.results], indent=1) + "\n")
        return int(any(result.ok is False for result in self.results))


def _cpu_seconds() -> float:
    """User and system seconds of this process and its living descendants: the JVM and Python workers among them."""
    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
