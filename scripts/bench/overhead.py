"""What sparkml costs on top of its calls: `sparkml run digits` against the same work as a script of one's own (bare_digits.py).

Both are processes started from nothing, each into a fresh folder, in turn. The phases of both are printed side by side: what is
slower shows where. CPU seconds include the JVM, the Python workers and the ranks.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import ROOT, Bench, Side, command, installed

Phases = dict[str, list[float]]


def main() -> int:
    bench = Bench(__doc__.splitlines()[0])
    phases: dict[str, Phases] = {"bare": defaultdict(list), "sparkml": defaultdict(list)}
    sides = {"bare": _side(_bare, phases["bare"]), "sparkml": _side(_sparkml, phases["sparkml"])}
    timings = bench.compare(sides, repeats=2 if bench.quick else 4, warm_up=False)
    _print_phases(phases)
    bare, full = timings["bare"], timings["sparkml"]
    bench.add("overhead: bare script", bare.wall_median, "s")
    bench.add("overhead: sparkml run digits", full.wall_median, "s")
    bench.add("overhead: sparkml - bare, CPU", full.cpu_median - bare.cpu_median, "s CPU")
    allowed = max(3.0, 0.1 * bare.wall_median)
    bench.add("overhead: sparkml - bare (10 % or 3 s)", full.wall_median - bare.wall_median, "s", at_most=round(allowed, 2))
    return bench.finish()


def _side(start: Callable[[str], tuple[float, dict[str, float]]], phases: Phases) -> Side:
    def run() -> float:
        with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as folder:
            wall, took = start(folder)
        for name, seconds in {**took, "start and end of the process": wall - sum(took.values())}.items():
            phases[name].append(seconds)
        return wall

    return run


def _bare(folder: str) -> tuple[float, dict[str, float]]:
    wall, printed = command(sys.executable, str(ROOT / "scripts/bench/bare_digits.py"), folder)
    took = json.loads(printed.splitlines()[-1])["seconds"]
    took["ingest"] += took.pop("session")  # sparkml starts the session within its first stage
    del took["stop"]
    return wall, took


def _sparkml(folder: str) -> tuple[float, dict[str, float]]:
    wall, printed = command(installed("sparkml"), "run", "digits", "--env", "local", "--set", f"store={folder}", "--json")
    return wall, {stage["stage"]: stage["seconds"] for stage in json.loads(printed)["stages"]}


def _print_phases(phases: dict[str, Phases]) -> None:
    medians = {side: {name: statistics.median(taken) for name, taken in found.items()} for side, found in phases.items()}
    print(f"\n{'phase (ingest with the session)':<44}{'bare s':>9}{'sparkml s':>11}{'more':>8}")
    for name in dict.fromkeys([*medians["sparkml"], *medians["bare"]]):
        bare, full = (medians[side].get(name, 0.0) for side in ("bare", "sparkml"))
        print(f"{name:<44}{bare:>9.2f}{full:>11.2f}{full - bare:>8.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
