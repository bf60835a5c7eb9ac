"""Every benchmark of this folder, one after another, each in a process of its own; one table and one JSON file of them all.

A benchmark is a script here that is neither the harness nor a bare counterpart (``bare_*.py``) nor a part of deep.py or linear.py
(``deep_*.py``, ``linear_*.py`` but for linear_peers.py); a new one is entered nowhere. deep_quality.py takes most of an hour and
is started by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import Result, describe_machine, show, write

NOT_BENCHMARKS = {"harness", "run_all", "__init__"}
NOT_BY_PREFIX = ("bare_", "deep_", "linear_")
DESPITE_PREFIX = {"linear_peers"}


def benchmarks(folder: Path) -> list[Path]:
    """Return the benchmark scripts of a folder by name."""
    found = sorted(folder.glob("*.py"))
    return [
        path
        for path in found
        if path.stem in DESPITE_PREFIX or (path.stem not in NOT_BENCHMARKS and not path.stem.startswith(NOT_BY_PREFIX))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", metavar="FILE", help="write the machine, all results and every script's turns there")
    arguments = parser.parse_args()
    results: list[Result] = []
    more: dict[str, Any] = {}
    print(f"{describe_machine()}; load {os.getloadavg()[0]:.1f} before", flush=True)
    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as folder:
        for path in benchmarks(Path(__file__).parent):
            print(f"\n== {path.stem}", flush=True)
            found = _results(path, Path(folder, f"{path.stem}.json"), arguments.quick)
            results += [Result(**item) for item in found.pop("results")]
            more[path.stem] = found
    print(f"\n== all; load {os.getloadavg()[0]:.1f} after")
    show(results)
    if arguments.json:
        write(arguments.json, results, scripts=more)
    missed = [result.name for result in results if result.ok is False]
    print(f"{len(missed)} targets missed: {', '.join(missed)}" if missed else "every target is met")
    return int(bool(missed))


def _results(path: Path, out: Path, quick: bool) -> dict[str, Any]:
    """Run one benchmark and return what it wrote; a script that breaks counts as missed, and the others still run."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(path), "--json", str(out), *(["--quick"] if quick else [])], check=False)
    print(f"({time.monotonic() - began:.0f} s)", flush=True)
    if not out.exists():
        return {"results": [asdict(Result(f"{path.stem}: ended without results", done.returncode, "exit code", "0", False))]}
    return dict(json.loads(out.read_text()))


if __name__ == "__main__":
    sys.exit(main())
