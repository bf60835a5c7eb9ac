"""The HTML report of a run: one self-contained page, no network, light and dark, phone to printer."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparkml.errors import ConfigError
from sparkml.evaluate import charts
from sparkml.evaluate.evaluation import Estimate, Evaluation
from sparkml.evaluate.lineage_graph import lineage_svg
from sparkml.evaluate.report_data import CandidateReport, ReportData

_CONFUSION_CLASSES = 30  # a larger matrix is unreadable: the most frequent confusions are listed instead
_CONFUSIONS = 8
_IMPORTANCES = 20
_THIN_SPACE = "\u202f"  # between thousands; does not break the line
_LOWER_IS_BETTER = frozenset({"rmse", "mse", "mae", "logLoss", "hammingLoss"})  # MLlib's evaluator metrics


def render_report(data: ReportData) -> str:
    """Return the page as HTML. Every value of `data` is escaped; nothing in it can run."""
    environment = Environment(
        loader=PackageLoader("sparkml.evaluate", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, size=size, duration=duration, percent=percent, interval=interval_text)
    winner = next((item for item in data.candidates if item.name == data.outcome.candidate), None)
    ordered = sorted(data.candidates, key=lambda item: item is not winner)
    measured = ordered[0].evaluation.metrics if ordered else {}
    metric = data.outcome.metric if data.outcome.metric in measured else next(iter(measured), "")
    return environment.get_template("report.html.j2").render(
        data=data,
        winner=winner,
        metric=metric,
        candidates=[_candidate(position, item, data, metric) for position, item in enumerate(ordered)],
        forests=_forests(ordered, metric),
        lineage=lineage_svg(data.lineage_nodes, data.lineage_edges),
        longest=max((stage.seconds for stage in data.stages), default=0.0),
    )


# --- values as text -----------------------------------------------------------------------------------------------------


def number(value: Any, digits: int = 4) -> str:
    """Return a number for people: thousands separated, `digits` significant ones below 1000, ``n/a`` for NaN and null."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or value.is_integer() or 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}".replace(",", _THIN_SPACE)
    return f"{value:.{digits}g}"


def decimals(estimate: Estimate) -> int:
    """Return how many decimals show the width of the interval: 3 to 5."""
    width = estimate.high - estimate.low
    if math.isfinite(width) and width > 0:
        return min(5, max(3, 1 - math.floor(math.log10(width))))
    return 3


def metric_number(value: float, places: int = 3) -> str:
    """Return a metric's value with `places` decimals, with four significant digits from 100 on."""
    if not math.isfinite(value):
        return "n/a"
    return f"{value:.{places}f}" if abs(value) < 100 else number(value)


def interval_text(estimate: Estimate) -> str:
    """Return ``0.981 [0.971, 0.989]``, or ``n/a``."""
    if not math.isfinite(estimate.value):
        return "n/a"
    value, low, high = (metric_number(item, decimals(estimate)) for item in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def size(count: float) -> str:
    """Return a size in bytes for people, decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float | None) -> str:
    """Return ``0.3 s``, ``42 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(share: float) -> str:
    """Return a share as a percentage, with more digits where it is small; never 0 % for some, nor 100 % for not all."""
    value = 100 * share
    if value == 0 or value == 100 or 1 <= value <= 99:
        return f"{value:.0f} %"
    return f"{value:.2f} %" if value > 0.005 and value < 99.995 else ("< 0.01 %" if value < 1 else "> 99.99 %")


# --- parts of the page --------------------------------------------------------------------------------------------------


def _scale(estimates: list[Estimate]) -> tuple[float, float]:
    values = [value for item in estimates for value in (item.value, item.low, item.high) if math.isfinite(value)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 0.5
    return low - pad, high + pad


def _track(estimate: Estimate, scale: tuple[float, float]) -> dict[str, float] | None:
    """Return where the dot and the ends of the interval stand, in percent of the track; ``None`` without a value."""
    if not math.isfinite(estimate.value):
        return None

    def place(value: float) -> float:
        return round(100 * (value - scale[0]) / (scale[1] - scale[0]), 2)

    at = place(estimate.value)
    low, high = (place(value) if math.isfinite(value) else at for value in (estimate.low, estimate.high))
    return {"at": at, "low": low, "width": round(high - low, 2)}


def _forests(candidates: list[CandidateReport], first: str) -> list[dict[str, Any]]:
    """Return, per metric, the candidates on a common scale; the metric that decides comes first."""
    names = list(dict.fromkeys(name for item in candidates for name in item.evaluation.metrics))
    names.sort(key=lambda name: name != first)
    forests = []
    for name in names:
        measured = [(item.name, item.evaluation.metrics[name]) for item in candidates if name in item.evaluation.metrics]
        scale = _scale([estimate for _, estimate in measured])
        rows = [{"name": who, "estimate": estimate, "track": _track(estimate, scale)} for who, estimate in measured]
        some = measured[0][1]
        forests.append({"metric": name, "label": some.label, "greater_is_better": some.greater_is_better, "rows": rows})
    return forests


def _candidate(position: int, item: CandidateReport, data: ReportData, metric: str) -> dict[str, Any]:
    name = f"c{position}"  # not the candidate's own name: it becomes part of ids in the drawings
    evaluation = item.evaluation
    epochs = item.history.get("epochs") or []
    plots = charts.learning_curves(name, epochs) if epochs else []
    for draw in (charts.ranking_curves, charts.reliability, charts.residual_plots):
        plots += draw(name, evaluation)
    return {
        "report": item,
        "plots": [{"title": plot.title, "svg": Markup(plot.svg)} for plot in plots],
        "confusion": _confusion(evaluation),
        "confusions": _confusions(evaluation),
        "slices": _slices(evaluation, metric),
        "importances": _importances(item, data),
        "grid": _grid(item),
        "facts": {key: value for key, value in item.history.items() if isinstance(value, str | int | float) and value != ""},
        "mistakes": [] if item.pictures else _mistakes(evaluation),
    }


def _grid(item: CandidateReport) -> list[dict[str, Any]]:
    """Return the grid results, the best first."""
    sign = 1 if item.history.get("grid_metric") in _LOWER_IS_BETTER else -1
    return sorted(item.history.get("grid") or [], key=lambda row: float(sign * row["metric"]))


def _confusion(evaluation: Evaluation) -> list[dict[str, Any]]:
    if not evaluation.confusion or len(evaluation.classes) > _CONFUSION_CLASSES:
        return []
    found: list[dict[str, Any]] = []
    for name, counts in zip(evaluation.classes, evaluation.confusion, strict=True):
        total = sum(counts) or 1
        found.append({"name": name, "cells": [{"count": count, "share": round(count / total, 4)} for count in counts]})
    return found


def _confusions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the most frequent mistakes as (true, predicted, rows, share of the true class)."""
    matrix = evaluation.confusion
    found = [(count, i, j) for i, counts in enumerate(matrix) for j, count in enumerate(counts) if i != j and count]
    names = evaluation.classes
    return [
        {"truth": names[i], "predicted": names[j], "count": count, "share": count / sum(matrix[i])}
        for count, i, j in sorted(found, reverse=True)[:_CONFUSIONS]
    ]


def _slices(evaluation: Evaluation, metric: str) -> list[dict[str, Any]]:
    """Return, per slice column, its values with the deciding metric on a common scale, all rows first."""
    columns = list(dict.fromkeys(item.column for item in evaluation.slices))
    shown = metric if metric in evaluation.metrics else next(iter(evaluation.metrics))
    names = sorted(evaluation.metrics, key=lambda name: name != shown)
    whole = evaluation.metrics[shown]
    found = []
    for column in columns:
        rows = [item for item in evaluation.slices if item.column == column]
        scale = _scale([whole, *(item.metrics[shown] for item in rows if shown in item.metrics)])
        entries = [
            {
                "value": item.value,
                "rows": item.rows,
                "metrics": item.metrics,
                "track": _track(item.metrics[shown], scale) if shown in item.metrics else None,
            }
            for item in rows
        ]
        known = [name for name in names if name in rows[0].metrics]
        found.append({"column": column, "metric": shown, "names": known, "rows": entries, "all": _track(whole, scale)})
    return found


def _importances(item: CandidateReport, data: ReportData) -> list[dict[str, Any]]:
    values = item.history.get("importances") or []
    names = data.features.names if data.features else []
    if len(names) != len(values):
        names = [f"feature {position}" for position in range(len(values))]
    ranked = sorted(zip(names, values, strict=True), key=lambda pair: -pair[1])[:_IMPORTANCES]
    top = max((value for _, value in ranked), default=0.0) or 1.0
    return [{"name": name, "value": value, "share": round(100 * value / top, 1)} for name, value in ranked if value > 0]


def _mistakes(evaluation: Evaluation) -> list[dict[str, Any]]:
    def shown(value: float) -> str:
        return evaluation.classes[int(value)] if evaluation.classes else metric_number(value)

    return [
        {
            "key": ", ".join(f"{name} {value}" for name, value in item.key.items()),
            "truth": shown(item.label),
            "predicted": shown(item.prediction),
            "probability": item.probability,
            "true_probability": item.true_probability,
            "error": item.prediction - item.label,
        }
        for item in evaluation.worst
    ]


# --- pictures -----------------------------------------------------------------------------------------------------------


def png_data_uri(image: np.ndarray[Any, Any]) -> str:
    """Return an image as a ``data:`` address that a page can show without the network.

    Parameters
    ----------
    image
        Shape (height, width), (height, width, 1) or (height, width, 3). Bytes are taken as they are; floats are stretched from
        their minimum (black) to their maximum (white), since standardised pixels have no fixed range.

    Raises
    ------
    ConfigError
        For another shape.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)) or pixels.size == 0:
        raise ConfigError(f"an image of shape {np.shape(image)} cannot be shown; allowed: (height, width[, 1 or 3])")
    if pixels.dtype != np.uint8:
        finite = np.nan_to_num(pixels.astype(np.float64))
        span = finite.max() - finite.min()
        pixels = np.round(255 * (finite - finite.min()) / (span or 1.0)).astype(np.uint8)
    height, width = pixels.shape[:2]
    # each line starts with filter type 0; colour type 0 is grey, 2 is RGB (PNG specification, W3C 2003)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    chunks = b"".join(_chunk(kind, body) for kind, body in parts)
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
