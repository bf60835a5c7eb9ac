"""Draws docs/img/linear-*.svg from what linear_peers.py and linear.py wrote: log-loss over time, scaling, and limits of a pass.

.venv/bin/python scripts/bench/linear_plots.py peers.json linear.json [--folder docs/img]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

ROOT = Path(__file__).resolve().parents[2]
NEAR = 1e-4
_BOTTOM = 1e-7  # of log-loss above the best: below it points are drawn on the axis
_COLOURS = {  # Okabe and Ito's, told apart by everybody, and three more
    "ours": "#000000",
    "MLlib": "#D55E00",
    "scikit-learn": "#0072B2",
    "glum": "#009E73",
    "H2O": "#CC79A7",
    "Vowpal Wabbit": "#E69F00",
    "Vaex": "#56B4E9",
    "XGBoost": "#7A5195",
    "LightGBM": "#8C6D31",
}
_STYLES = ("-", "--", ":", "-.")
_LOOK = {
    "font.size": 9,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "sparkml",  # the same numbers give the same file
}


def peers(name: str, found: dict[str, Any]) -> Figure:
    """Draw every peer's log-loss above the best exact one, over seconds since it began to read."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    seen: dict[str, int] = {}
    for side, turns in found["turns"].items():
        if not turns:
            continue
        library = next((library for library in _COLOURS if side.startswith(library)), "ours")
        shown = best_so_far(turns[-1]["curve"], found["best"])
        style = _STYLES[seen.setdefault(library, 0) % len(_STYLES)]
        seen[library] += 1
        wide, mark = (2.6, 7) if library == "ours" else (1.5, 3.5)  # ours is mostly one point, on the axis
        line = {"color": _COLOURS[library], "linestyle": style, "linewidth": wide, "drawstyle": "steps-post"}
        axes.plot(*zip(*shown, strict=True), marker="o", markersize=mark, label=side, **line)
    axes.axhline(NEAR, color="#888888", linewidth=1, label="near enough")
    axes.set(xscale="log", yscale="log", xlabel="seconds, reading included", ylim=(_BOTTOM * 0.7, 3))
    axes.set_ylabel("log-loss above the best exact solver's, best so far")
    rows, features = name.removeprefix("peers of ").split(" x ")
    axes.set_title(f"{int(rows):,} rows x {features}: log-loss on other rows (on the axis: {_BOTTOM:g} or less)", loc="left")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(loc="outside right upper")
    return figure


def best_so_far(curve: list[list[float]], best: float) -> list[tuple[float, float]]:
    """Return the points of a curve that are lower than all before them: fits of few iterations take their time in no order."""
    found: list[tuple[float, float]] = []
    for seconds, loss in sorted(map(tuple, curve)):
        above = max(loss - best, _BOTTOM)
        if not found or above < found[-1][1]:
            found.append((seconds, above))
    return found


def scaling(found: list[dict[str, Any]]) -> Figure:
    """Draw seconds over rows and over features, and what a second rank brings."""
    figure, (over_rows, over_features, over_ranks) = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    kinds = {"pass": "#0072B2", "fit": "#D55E00"}
    by_rows = sorted((row for row in found if row["features"] == 10), key=lambda row: row["rows"])
    by_features = sorted(_same_size(found), key=lambda row: row["features"])
    for what, colour in kinds.items():
        for ranks, style in ((1, "--"), (2, "-")):
            label = f"{what}, {ranks} rank{'s' if ranks > 1 else ''}"
            for axes, rows, x in ((over_rows, by_rows, "rows"), (over_features, by_features, "features")):
                points = [(row[x], row[f"{what}_seconds"]) for row in rows if row["ranks"] == ranks]
                axes.plot(*zip(*points, strict=True), style, color=colour, marker="o", markersize=4, label=label)
        one, two = ([row for row in by_features if row["ranks"] == ranks] for ranks in (1, 2))
        points = [
            (row["features"], row[f"{what}_seconds"] / other[f"{what}_seconds"]) for row, other in zip(one, two, strict=True)
        ]
        over_ranks.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=what)
    over_ranks.axhline(2, color="#888888", linewidth=1)
    numbers = f"features ({by_features[0]['rows'] * by_features[0]['features']:.0e} numbers in all)".replace("e+0", "e")
    over_rows.set(xscale="log", yscale="log", xlabel="rows (10 features)", ylabel="seconds")
    over_features.set(xscale="log", yscale="log", xlabel=numbers, ylabel="seconds")
    over_ranks.set(xscale="log", xlabel=numbers, ylabel="1 rank's seconds / 2 ranks'", ylim=(0, 2.3))
    for axes in (over_features, over_ranks):
        _feature_ticks(axes, [row["features"] for row in by_features])
    for axes in (over_rows, over_features):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.legend()
    over_ranks.legend(loc="lower right")
    for axes, title in (
        (over_rows, "over rows"),
        (over_features, "over features"),
        (over_ranks, "what a second rank brings"),
    ):
        axes.set_title(title, loc="left")
    return figure


def roofline(found: dict[str, Any]) -> Figure:
    """Draw what each resource would allow, and what a pass reaches."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    widths = found["widths"]
    features = [row["features"] for row in widths]
    limits = {
        "memory": ("memory: rows copied once", "#56B4E9"),
        "arithmetic": ("arithmetic: syrk alone", "#009E73"),
        "decoder": ("decoder: bare ShardReader", "#E69F00"),
        "disk": ("disk: direct and sequential", "#CC79A7"),
    }
    for name, (label, colour) in limits.items():
        if widths[0].get(name):
            axes.plot(features, [row[name] for row in widths], color=colour, linewidth=1.8, marker=".", label=label)
    reached = [row["reached"] for row in widths]
    axes.plot(features, reached, color="black", linewidth=2.6, marker="o", label="reached: logistic pass, 2 ranks")
    axes.set(xscale="log", yscale="log", xlabel="features", ylabel="rows per second")
    _feature_ticks(axes, features)
    axes.set_title("What a pass could reach, by resource, and what it reaches (rows in the page cache)", loc="left")
    axes.legend()
    return figure


def _same_size(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the sweep over features, all of about one size."""
    size = max(row["rows"] * row["features"] for row in found if row["features"] == max(one["features"] for one in found))
    return [row for row in found if abs(row["rows"] * row["features"] / size - 1) < 0.01]


def _feature_ticks(axes: Axes, features: list[int]) -> None:
    axes.set_xticks(sorted(set(features)), [str(number) for number in sorted(set(features))])
    axes.xaxis.set_minor_locator(NullLocator())


def main() -> int:
    parser = argparse.ArgumentParser(description=f"{__doc__.splitlines()[0]} Example: linear_plots.py peers.json linear.json")
    parser.add_argument("results", nargs="+", help="what --json of linear_peers.py, linear.py or run_all.py wrote")
    parser.add_argument("--folder", default=str(ROOT / "docs" / "img"))
    parser.add_argument("--kind", choices=("svg", "png"), default="svg")
    arguments = parser.parse_args()
    details: dict[str, Any] = {}
    for path in arguments.results:
        written = json.loads(Path(path).read_text())
        for part in [written, *written.get("scripts", {}).values()]:
            details.update(part.get("details", {}))
    figures: dict[str, Figure] = {}
    with plt.rc_context(_LOOK):
        sizes = [name for name, found in details.items() if name.startswith("peers of ") and _has_curves(found)]
        for name in sizes:
            figures["linear-peers"] = peers(name, details[name])
        if "scaling" in details:
            figures["linear-scaling"] = scaling(details["scaling"])
        if "roofline" in details:
            figures["linear-roofline"] = roofline(details["roofline"])
        Path(arguments.folder).mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            path = Path(arguments.folder, f"{name}.{arguments.kind}")
            figure.savefig(path, dpi=120, metadata={"Date": None} if arguments.kind == "svg" else None)
            print(path)
    return 0


def _has_curves(found: dict[str, Any]) -> bool:
    return any(len(turn["curve"]) > 1 for turns in found["turns"].values() for turn in turns[-1:])


if __name__ == "__main__":
    sys.exit(main())
