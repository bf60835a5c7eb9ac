"""Inject real faults into a real training on Horovod ranks, and say what became of it.

Every fault has a driver process of its own. Its weights at the end are compared with those of a run without a fault. The exit
code is 1 when a fault was not survived as `docs/reliability.md` promises.
"""

from __future__ import annotations

import argparse
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from catalogue import DIFFERENT, FAULTS
from drill import Drill, FaultError, SkipError
from training import Settings, write_digits

_DETECTED_WITHIN = 30.0  # seconds, on a busy machine; what it took is in the table


@dataclass(frozen=True)
class Row:
    """A line of the table; one of several injections of a fault."""

    seen: str
    seconds: float | None
    resumed: str
    weights: str
    ok: bool


def inject(name: str, folder: Path, settings: Settings, reference: str) -> Row:
    """Inject one fault, once."""
    drill = Drill(folder, settings)
    try:
        outcome = FAULTS[name][1](drill)
        drill.all_gone(time.time())
        told = outcome.history
        if not re.search(outcome.resumed, told["resumed"]):
            raise FaultError(f"history['resumed'] is {told['resumed']!r}, expected {outcome.resumed!r}")
        if told["epochs"] != settings.epochs:
            raise FaultError(f"{told['epochs']} of {settings.epochs} epochs were trained")
        if outcome.seconds is not None and outcome.seconds > _DETECTED_WITHIN:
            raise FaultError(f"it took {outcome.seconds:.1f} s until all ranks had stopped: {outcome.seen}")
        same = told["digest"] == reference
        if name == "kill-driver":
            print(f"  weights without a fault {reference}\n  weights killed, resumed {told['digest']}", file=sys.stderr)
        place = re.search(r"went on after epoch (\d+)(?:, step (\d+))?", told["resumed"])
        where = f"after epoch {place[1]}" + (f", step {place[2]}" if place[2] else "") if place else "did not have to"
        if not same and DIFFERENT in told["resumed"]:
            weights = "no, and it says so"
        else:
            weights = "yes" if same else "**NO**"
        return Row(outcome.seen or told["resumed"], outcome.seconds, where, weights, ok=same or not outcome.same)
    except SkipError as why:
        return Row(f"skipped: {why}", None, "", "", ok=True)
    except (FaultError, OSError, psutil.Error, subprocess.TimeoutExpired) as problem:
        return Row(f"**NOT SURVIVED**: {problem}", None, "", "", ok=False)
    finally:
        drill.close()


def line(name: str, rows: Sequence[Row], folder: Path) -> str:
    """Return the Markdown row of a fault; of several injections the worst is told."""
    told = min(rows, key=lambda row: row.ok)
    text = re.sub(rf"(file://)?{re.escape(str(folder))}[\w./-]*", "FOLDER", told.seen.splitlines()[0])
    text = re.sub(rf"\bon {re.escape(platform.node())}\b", "on HOST", text).replace("|", "\\|")
    taken = [row.seconds for row in rows if row.seconds is not None]
    seconds = f"{statistics.median(taken):.1f}" if taken else ""
    if len(taken) > 1:
        seconds += f" ({min(taken):.1f} to {max(taken):.1f})"
    places = "; ".join(dict.fromkeys(row.resumed for row in rows if row.resumed))
    weights = told.weights + (f" ({sum(row.weights == told.weights for row in rows)} of {len(rows)})" if len(rows) > 1 else "")
    return f"| {FAULTS[name][0]} (`{name}`) | {text} | {seconds} | {places} | {weights} |"


def main() -> int:
    """Inject the faults that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", help=f"faults to inject: {', '.join(FAULTS)}")
    parser.add_argument("--repeats", type=int, default=1, help="how often, each time at another step and another rank")
    parser.add_argument("--quick", action="store_true", help="a training of 3 epochs instead of 16")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started by a shell with &, we and our drivers would ignore it
    settings = Settings("", epochs=3, epoch=2) if arguments.quick else Settings("")
    table = [
        "| fault | what the user saw | seconds to detect | went on | weights equal those of a run without a fault? |",
        "|---|---|---|---|---|",
    ]
    passed = True
    with tempfile.TemporaryDirectory(prefix="sparkml-faults-") as scratch:
        folder = Path(scratch)
        write_digits(folder / "digits.parquet")
        print("training without a fault ...", file=sys.stderr, flush=True)
        first = Drill(folder / "reference", replace(settings, epoch=10**6))
        try:
            reference = first.finish(first.start())["digest"]
        finally:
            first.close()
        for name in arguments.only or FAULTS:
            rows = []
            for turn in range(max(1, arguments.repeats)):
                print(f"{name} {turn + 1}/{max(1, arguments.repeats)} ...", file=sys.stderr, flush=True)
                there = replace(settings, step=15 + 11 * turn % 40, rank=(1 + turn) % 2)
                began = time.monotonic()
                rows.append(inject(name, folder / f"{name}-{turn}", there, reference))
                passed = passed and rows[-1].ok
                print(f"  {rows[-1]} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
            table.append(line(name, rows, folder))
    print("\n".join(table))
    if arguments.markdown:
        Path(arguments.markdown).write_text("\n".join(table) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
