"""Linear models against MLlib, scikit-learn, statsmodels and exact arithmetic: how far apart, and what each says of hard data.

    .venv/bin/python scripts/agreement/linear.py [--only PART ...] [--data FOLDER] [--json]

Parts are `small`, `hard`, `endless` and `adult`, of which the last reads adult.data and adult.test (UCI Machine Learning
Repository, Census Income) in the --data folder and is left out where they are not. A coefficient's difference is relative to the
other's coefficient or, where that is larger, to its standard error (without those, to 0.01 of the reciprocal of the feature's
standard deviation); a standard error's is relative, a p-value's absolute. Only where a warning is wanted may a coefficient have
no standard error of its own, because others fit as well, and is then not compared. The exit code is 1 if a difference is larger
than it may be, or a warning missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

import sparkml
from scripts.agreement import problems
from scripts.agreement.packages import Answer, ask, frame, ours
from scripts.agreement.problems import Problem

ROOT = Path(__file__).resolve().parents[2]
PARTS: dict[str, Callable[[Path], Iterator[Problem]]] = {
    "small": lambda _: problems.small(),
    "hard": lambda _: problems.hard(),
    "endless": lambda _: problems.endless(),
    "adult": problems.adult,
}
TRUTHS = ("exact", "statsmodels, scaled")
_NONE = (None, None, None)
_KINDS = ("coefficients", "standard errors", "p-values")


@dataclass(frozen=True)
class Row:
    """How far apart two are, by coefficients, standard errors and p-values; None: not compared, or only shown."""

    data: str
    model: str
    who: str
    against: str
    differences: tuple[float | None, ...]
    limits: tuple[float | None, ...]

    @property
    def kept(self) -> bool:
        both = zip(self.differences, self.limits, strict=True)
        return all(limit is None or (found is not None and found <= limit) for found, limit in both)

    def cells(self) -> list[str]:
        numbers = []
        for found, limit in zip(self.differences, self.limits, strict=True):
            text = "" if found is None else f"{found:.0e}"
            numbers.append(text if limit is None else f"{text or '?'} ≤ {limit:.0e}")
        promised = any(limit is not None for limit in self.limits)
        return [self.data, self.model, self.who, self.against, *numbers, ("yes" if self.kept else "NO") if promised else ""]


@dataclass(frozen=True)
class Said:
    """What a package made of data that is hard: `reach` is the largest |coefficient| times the feature's standard deviation."""

    data: str
    who: str
    reach: float | None
    tested: int | None
    least: float | None
    text: str
    kept: bool = True

    def cells(self) -> list[str]:
        numbers = [
            "" if value is None else form.format(value)
            for value, form in ((self.reach, "{:.1e}"), (self.tested, "{}"), (self.least, "{:.0e}"))
        ]
        return [self.data, self.who, *numbers, (self.text or "nothing") + ("" if self.kept else " (NOT AS EXPECTED)")]


def compared(problem: Problem, who: str, answers: dict[str, Answer]) -> Row:
    """Compare a package with the truth, if that is known; else us with the package."""
    truth = next((name for name in problem.others if name in TRUTHS), None)
    first, second = ("sparkml", who) if truth is None else (who, truth)
    mine, theirs = answers[first], answers[second]
    found: list[float | None] = [None, None, None]
    sure = mine.errors is None or problem.said is None  # else some may have no error, because others fit as well
    known = np.ones(np.shape(mine.values), bool) if sure else np.isfinite(mine.errors)
    if mine.values is not None and theirs.values is not None and known.any():
        least = np.append(0.01 / np.maximum(problem.x.std(axis=0), 1e-300), 0.01)
        least = next((one.errors for one in (theirs, mine) if one.errors is not None), least)
        found[0] = _largest((np.abs(mine.values - theirs.values) / np.fmax(np.abs(theirs.values), least))[known])
        if theirs.errors is not None and mine.errors is not None:
            found[1] = _largest((np.abs(mine.errors - theirs.errors) / theirs.errors)[known])
            found[2] = _largest(np.abs(mine.p - theirs.p)[known])
    limits = problem.others[truth or who] if first == "sparkml" else _NONE
    return Row(problem.name, problem.model, first, second, tuple(found), limits)


def _largest(values: Any) -> float:
    return float(np.where(np.isfinite(values), values, np.inf).max())


def told(problem: Problem, name: str, answer: Answer, wanted: str | None = None) -> Said:
    kept = wanted is None or re.search(wanted, answer.said) is not None
    if answer.values is None:
        return Said(problem.name, name, None, None, None, answer.said, kept)
    reach = float(np.abs(np.atleast_2d(answer.values)[:, :-1] * problem.x.std(axis=0)).max())
    p = None if answer.p is None else np.asarray(answer.p)[np.isfinite(answer.p)]
    tested, least = (None, None) if p is None else (int(p.size), float(p.min()) if p.size else None)
    return Said(problem.name, name, reach, tested, least, answer.said, kept)


def compare(several: Iterable[Problem]) -> tuple[list[Row], list[Said]]:
    """Put each problem to us and to all others that it names."""
    spark = sparkml.session("local[2]")
    rows, said = [], []
    for problem in several:
        print(f"{problem.name}: {problem.model}", file=sys.stderr, flush=True)
        with frame(spark, problem) as table:
            mine = ours(table, problem)
            answers = {"sparkml": mine, **{name: ask(name, table, problem) for name in problem.others}}
        truth = any(name in TRUTHS for name in answers)
        found = [compared(problem, name, answers) for name in answers if name not in TRUTHS and (truth or name != "sparkml")]
        rows += [row for row in found if any(value is not None for value in (*row.differences, *row.limits))]
        said += [
            told(problem, name, answer, problem.said if name == "sparkml" else None)
            for name, answer in answers.items()
            if problem.said or answer.said
        ]
    return rows, said


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "adult", metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="one JSON document in place of the tables")
    arguments = parser.parse_args(given)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # of ranks
    parts = list(arguments.only)
    if "adult" in parts and not (arguments.data / "adult.data").exists():
        print(f"adult is left out: no adult.data in {arguments.data}; give its folder by --data", file=sys.stderr)
        parts.remove("adult")
    rows, said = compare(problem for part in parts for problem in PARTS[part](arguments.data))
    kept = all(row.kept for row in rows) and all(one.kept for one in said)
    packages = {name: version(name) for name in ("pyspark", "statsmodels", "scikit-learn", "numpy", "scipy")}
    if arguments.json:
        found = {"rows": [{**asdict(row), "kept": row.kept} for row in rows], "said": [asdict(one) for one in said]}
        print(json.dumps({"schema": 1, **found, "kept": kept, "packages": packages}))
    else:
        print(table(["data", "model", "of", "against", *_KINDS, "kept"], (row.cells() for row in rows)))
        if said:
            print()
            head = ["data", "by", "largest coefficient", "p-values", "least of them", "says"]
            print(table(head, (one.cells() for one in said)))
        print()
        print(", ".join(f"{name} {number}" for name, number in packages.items()))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
