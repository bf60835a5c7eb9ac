"""Plots as inline SVG: drawn once, coloured by the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sparkml.evaluate.evaluation import Evaluation

# matplotlib wants real colours: each of these stands for one CSS variable and is replaced after drawing
_INK, _MUTED, _LINE = "#010203", "#010204", "#010205"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
_VARIABLES = {_INK: "ink", _MUTED: "muted", _LINE: "line"} | {colour: f"s{number}" for number, colour in enumerate(SERIES, 1)}
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")


class Plot(NamedTuple):
    """A drawing and its heading."""

    title: str
    svg: str


def figure(name: str, title: str, description: str, draw: Callable[[Any], None], size: tuple[float, float] = (4.4, 3.1)) -> Plot:
    """Return an ``<svg>`` element with its title.

    Parameters
    ----------
    name
        Unique on the page: prefixes every id in the drawing.
    title, description
        Read out by screen readers, shown as a tooltip.
    draw
        Called with the matplotlib axes.
    size
        Width and height in inches; the page scales it to the column.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "svg.id": name,
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _MUTED,
        "axes.edgecolor": _LINE,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": _LINE,
        "grid.linewidth": 0.6,
        "xtick.color": _LINE,
        "ytick.color": _LINE,
        "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _MUTED,
        "lines.linewidth": 1.8,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
    }
    with matplotlib.rc_context(style):
        drawing = Figure(figsize=size, layout="constrained")
        axes = drawing.add_subplot()
        draw(axes)
        drawing.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(drawing).print_svg(buffer, metadata=nothing)
    return Plot(title, _inline(buffer.getvalue(), name, title, description))


def _inline(svg: str, name: str, title: str, description: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', svg)
    assert view is not None
    head = (
        f'<svg class="chart" viewBox="{view.group(1)}" role="img" aria-labelledby="{name}-t {name}-d" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{name}-t">{html.escape(title)}</title><desc id="{name}-d">{html.escape(description)}</desc>'
    )
    body = svg[svg.index(">") + 1 :]
    # ids must be unique on the page, not only in one drawing
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"\n\s*", "\n", body)
    return head + body.strip()


def learning_curves(name: str, epochs: Sequence[dict[str, Any]]) -> list[Plot]:
    """Return one plot per quantity of the epochs, training and validation (``val_``) together."""
    numeric = [key for key in epochs[0] if key not in {"epoch", "rank"} and all(_is_number(row.get(key)) for row in epochs)]
    shown = [key for key in numeric if not key.startswith("val_") and (f"val_{key}" in numeric or key in {"loss", "accuracy"})]
    x = [row.get("epoch", number) for number, row in enumerate(epochs, 1)]
    plots = []
    for key in shown[:4]:
        sides = (("training", key), ("validation", f"val_{key}"))
        series = {label: [row[column] for row in epochs] for label, column in sides if column in numeric}

        def draw(axes: Any, series: dict[str, list[float]] = series, key: str = key) -> None:
            from matplotlib.ticker import MaxNLocator

            for number, (label, values) in enumerate(series.items()):
                axes.plot(
                    x,
                    values,
                    color=SERIES[number],
                    linestyle=_DASHES[number],
                    marker=_MARKERS[number],
                    markersize=3.5,
                    label=label,
                    markevery=max(1, len(x) // 15),
                )
            axes.set_xlabel("epoch")
            axes.set_ylabel(_short(_words(key)))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            axes.legend()

        last = ", ".join(f"{label} {values[-1]:.4g}" for label, values in series.items())
        title = f"{_words(key).capitalize()} by epoch"
        plots.append(figure(f"{name}-{_slug(key)}", title, f"After {len(epochs)} epochs: {last}.", draw))
    return plots


def ranking_curves(name: str, evaluation: Evaluation) -> list[Plot]:
    """Return the ROC and the precision-recall plot; above six classes the six with the smallest area under the ROC curve."""
    if not evaluation.curves:
        return []

    def area(curve: Any) -> float:
        steps = zip(curve.fpr, curve.fpr[1:], curve.tpr, curve.tpr[1:], strict=False)
        return float(sum((x1 - x0) * (y0 + y1) / 2 for x0, x1, y0, y1 in steps))

    chosen = sorted(evaluation.curves, key=area)[: len(SERIES)]
    labels = [f"{_short(evaluation.classes[curve.class_index])} ({area(curve):.3f})" for curve in chosen]

    def plot(axes: Any, x: str, y: str, labels: list[str]) -> None:
        for number, (curve, label) in enumerate(zip(chosen, labels, strict=True)):
            axes.plot(
                getattr(curve, x), getattr(curve, y), color=SERIES[number], linestyle=_DASHES[number % len(_DASHES)], label=label
            )
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.02)

    def roc(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        plot(axes, "fpr", "tpr", labels)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.legend(loc="lower right", title="class (area)", title_fontsize=8.5)

    def precision_recall(axes: Any) -> None:
        plot(axes, "recall", "precision", [_short(evaluation.classes[curve.class_index]) for curve in chosen])
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.legend(loc="lower left")

    more = ""
    if len(chosen) < len(evaluation.curves):
        more = f" The {len(chosen)} hardest of {len(evaluation.curves)} classes are drawn."
    description = "Area under the ROC curve: " + ", ".join(labels) + "." + more
    return [
        figure(f"{name}-roc", "ROC curves", description, roc),
        figure(f"{name}-pr", "Precision-recall curves", description, precision_recall),
    ]


def reliability(name: str, evaluation: Evaluation) -> list[Plot]:
    """Return the reliability diagram: how often predictions of each confidence are right."""
    bins = evaluation.calibration
    if not bins:
        return []

    def draw(axes: Any) -> None:
        most = max(item.rows for item in bins)
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle=(0, (2, 3)), label="perfectly calibrated")
        axes.plot([item.confidence for item in bins], [item.accuracy for item in bins], color=SERIES[0])
        sizes = [12 + 90 * item.rows / most for item in bins]
        axes.scatter(
            [item.confidence for item in bins],
            [item.accuracy for item in bins],
            s=sizes,
            color=SERIES[0],
            label="model (size: rows)",
        )
        axes.set_xlim(-0.02, 1.05)
        axes.set_ylim(-0.02, 1.08)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share that is right")
        legend = axes.legend(loc="upper left")
        for handle in legend.legend_handles[1:]:
            handle.set_sizes([30])

    text = ", ".join(f"{item.confidence:.2f}: {item.accuracy:.2f} of {item.rows} rows" for item in bins)
    return [figure(f"{name}-cal", "Calibration", f"Confidence and share that is right: {text}.", draw)]


def residual_plots(name: str, evaluation: Evaluation) -> list[Plot]:
    """Return the histogram of the errors and predicted against actual values."""
    residuals = evaluation.residuals
    if residuals is None:
        return []

    def histogram(axes: Any) -> None:
        widths = [high - low for low, high in zip(residuals.edges, residuals.edges[1:], strict=False)]
        axes.bar(residuals.edges[:-1], residuals.counts, width=widths, align="edge", color=SERIES[0], linewidth=0)
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_xlabel("prediction minus target")
        axes.set_ylabel("rows")

    def scatter(axes: Any) -> None:
        values = residuals.sample_target + residuals.sample_prediction
        ends = [min(values), max(values)]
        axes.plot(ends, ends, color=_MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.scatter(residuals.sample_target, residuals.sample_prediction, s=9, color=SERIES[0], alpha=0.55, linewidths=0)
        axes.set_xlabel("target")
        axes.set_ylabel("prediction")

    sampled = f"A sample of {len(residuals.sample_target)} rows; on the dotted line a prediction is exact."
    return [
        figure(f"{name}-residuals", "Errors", f"Histogram of the errors of {evaluation.rows} rows.", histogram),
        figure(f"{name}-scatter", "Predicted against actual", sampled, scatter),
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text)


def _short(text: str, most: int = 22) -> str:
    # matplotlib reads $...$ as mathematics: class names are data
    return (text if len(text) <= most else f"{text[: most - 1]}…").replace("$", r"\$")
