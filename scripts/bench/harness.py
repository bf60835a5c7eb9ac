"""What every benchmark shares: flags, sides measured in turn, medians, CPU seconds beside wall seconds, a table and a JSON file.

Machines change speed by a factor of two for minutes at a time. So the sides of a comparison take turns within one run, ratios are
taken between medians, and CPU seconds (of this process and all its descendants) tell a slow side from a starved one.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = {"PYTHONPATH": str(ROOT)}  # the checkout that these scripts lie in is what is measured, whatever is installed
_PR_SET_CHILD_SUBREAPER = 36
_LONG_SECONDS = 20.0  # from here on a side is shown when it ends
_FEW_SIDES = 4


class Taken(NamedTuple):
    """Seconds that a side measured itself."""

    wall: float
    cpu: float


class SideFailedError(Exception):
    """A side could not do its work; the message is the one line that says why. The others go on."""


Side = Callable[[], Taken | float | None]  # does its work; may return its own seconds, or its own wall seconds


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

    def __init__(self, description: str, parser: argparse.ArgumentParser | None = None) -> None:
        parser = parser or argparse.ArgumentParser()
        parser.description = description
        parser.add_argument("--quick", action="store_true", help="a tenth of the size")
        parser.add_argument("--json", metavar="FILE", help="write machine, results, every turn and details there")
        self.arguments = parser.parse_args()
        self.quick: bool = self.arguments.quick
        self._json: str | None = self.arguments.json
        self.results: list[Result] = []
        self.turns: list[dict[str, Any]] = []
        self.details: dict[str, Any] = {}  # what a script wants to keep beside them, for plots

    def compare(
        self, sides: Mapping[str, Side], repeats: int = 5, *, warm_up: bool = True, fewer: Mapping[str, int] | None = None
    ) -> dict[str, Timing]:
        """Run the sides in turn, `repeats` times after one unmeasured round, and print their medians and the first's ratio.

        The rounds go through the orders of the sides: what one leaves behind, a busy JVM or cold caches, must not always fall on
        the same other. A side in `fewer` has as many turns as that says. One that raises `SideFailedError` has no more, and no
        timing if it had none before.
        """
        taken: dict[str, list[Taken]] = {name: [] for name in sides}
        wanted = {name: (fewer or {}).get(name, repeats) for name in sides}
        failed: set[str] = set()
        for turn in range(repeats + warm_up):
            for name in _order(list(sides), turn):
                if name in failed or turn >= wanted[name] + warm_up:
                    continue
                try:
                    one = _timed(sides[name])
                except SideFailedError as error:
                    failed.add(name)
                    print(f"  {name}: {error}", flush=True)
                    continue
                if turn >= warm_up:  # the first round warms caches and workers up
                    taken[name].append(one)
                    load = os.getloadavg()[0]
                    self.turns.append({"sides": [*sides], "side": name, "wall": one.wall, "cpu": one.cpu, "load": load})
                    if one.wall > _LONG_SECONDS:
                        print(f"  {name}: {one.wall:.1f} s, {one.cpu:.1f} s CPU, load {load:.1f}", flush=True)
        timings = {name: Timing(*zip(*rounds, strict=True)) for name, rounds in taken.items() if rounds}
        _show_timings(timings)
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
        show(self.results)
        if self._json:
            write(self._json, self.results, turns=self.turns, details=self.details)
        return int(any(result.ok is False for result in self.results))


class Peak:
    """The largest sum of RSS of this process's descendants, looked at every 100 ms. Pages shared with files are not in it."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.1):
            total = 0
            for process in me.children(recursive=True):
                try:
                    memory = process.memory_info()
                except psutil.NoSuchProcess:
                    continue
                total += memory.rss - memory.shared
            self.bytes = max(self.bytes, total)


def _order(names: list[str], turn: int) -> list[str]:
    """Return the order of a turn: of a few sides all orders come up, of many each one first, and last, once in a while."""
    if len(names) <= _FEW_SIDES:
        orders = list(itertools.permutations(names))
        return list(orders[turn % len(orders)])
    start = turn // 2 % len(names)
    turned = names[start:] + names[:start]
    return turned[::-1] if turn % 2 else turned


def _timed(side: Side) -> Taken:
    cpu, start = _cpu_seconds(), time.perf_counter()
    own = side()
    if isinstance(own, Taken):
        return own
    return Taken(time.perf_counter() - start if own is None else own, _cpu_seconds() - cpu)


def _show_timings(timings: Mapping[str, Timing]) -> None:
    if not timings:
        return
    first = next(iter(timings.values())).wall_median
    print(f"{'side':<44}{'wall s':>9}{'min':>8}{'max':>8}{'cpu s':>9}{'to first':>10}")
    for name, timing in timings.items():
        low, high = min(timing.wall), max(timing.wall)
        ratio = timing.wall_median / first
        print(f"{name:<44}{timing.wall_median:>9.3f}{low:>8.3f}{high:>8.3f}{timing.cpu_median:>9.3f}{ratio:>9.2f}x")
    sys.stdout.flush()


def show(results: Sequence[Result]) -> None:
    """Print results as a table."""
    width = max(len(result.name) for result in results) + 2
    for result in results:
        verdict = {True: "ok", False: "MISSED", None: ""}[result.ok]
        print(f"{result.name:<{width}}{result.value:>12,.2f} {result.unit:<12}{result.target or '':<12}{verdict}")


def write(path: str, results: Sequence[Result], **more: Any) -> None:
    """Write the machine, results and whatever else as one JSON object."""
    found = {"machine": describe_machine(), "cores": os.cpu_count(), "memory": psutil.virtual_memory().total}
    Path(path).write_text(json.dumps({**found, "results": [asdict(result) for result in results], **more}, indent=1) + "\n")


def command(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Run a command in the repository's root; return its wall seconds and what it printed. Ends when its orphans have ended too.

    Raises
    ------
    RuntimeError
        It failed; the message holds its last lines.
    """
    with orphans_awaited():
        start = time.perf_counter()
        done = subprocess.run(
            arguments,
            cwd=ROOT,
            env={**os.environ, **PYTHONPATH, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return wall, done.stdout


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends: only a parent gets to know how much CPU a process took."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


@contextlib.contextmanager
def orphans_awaited() -> Iterator[None]:
    """Wait at the end for what is started in the block: Spark's JVM outlives its driver by some tenths of a second."""
    adopt_orphans()
    before = {child.pid for child in psutil.Process().children()}  # a pool's helpers stay as long as this process
    yield
    for orphan in psutil.Process().children():
        if orphan.pid not in before:
            orphan.wait()


def installed(name: str) -> str:
    """Return the path of a command of this environment."""
    return str(Path(sys.executable).with_name(name))


def describe_machine() -> str:
    """Return processors, memory and versions in one line."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor")
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyspark", "tensorflow-cpu", "horovod"))
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Python {sys.version.split()[0]}, {packages}"


def _cpu_seconds() -> float:
    """User and system seconds of this process and its descendants, ended or not: the JVM and Python workers among them."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if process is not me:  # of its children that have ended; ours are counted above
            total += times.children_user + times.children_system
    return total
