"""The lineage graph as inline SVG: raw files on top, what was made of them below."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from sparkml.evaluate.report_data import LineageNode

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 188, 52, 18, 40
_PER_ROW = 5
_CHARACTERS = 20  # of bold text, what fits into a box


def layers(nodes: Sequence[LineageNode], edges: Sequence[tuple[str, str]]) -> list[list[LineageNode]]:
    """Return the nodes by their longest distance from a raw input; an edge of a cycle or to an unknown node is ignored."""
    depth = {node.id: 0 for node in nodes}
    known = [(start, end) for start, end in edges if start in depth and end in depth]
    for _ in nodes:  # at most as many rounds as the longest path has nodes
        for start, end in known:
            depth[end] = max(depth[end], min(depth[start] + 1, len(nodes) - 1))
    ordered = sorted(set(depth.values()))
    return [[node for node in nodes if depth[node.id] == level] for level in ordered]


def lineage_svg(nodes: Sequence[LineageNode], edges: Sequence[tuple[str, str]]) -> Markup:
    """Return an ``<svg>`` element with one box per node and one arrow per edge; empty when there are no nodes."""
    rows = [level[start : start + _PER_ROW] for level in layers(nodes, edges) for start in range(0, len(level), _PER_ROW)]
    if not rows:
        return Markup("")
    width = max(len(row) for row in rows) * (_WIDTH + _GAP_X) + 3 * _GAP_X
    height = len(rows) * (_HEIGHT + _GAP_Y) - _GAP_Y + 8
    place: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        left = (width - len(row) * (_WIDTH + _GAP_X) + _GAP_X) / 2
        for position, node in enumerate(row):
            place[node.id] = (left + position * (_WIDTH + _GAP_X), 4 + number * (_HEIGHT + _GAP_Y))
    drawn = [
        Markup(
            '<svg class="lineage" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
            'aria-labelledby="lineage-t lineage-d">'
            '<title id="lineage-t">Lineage</title><desc id="lineage-d">{text}</desc>'
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
        ).format(w=width, h=height, text=_in_words(nodes, edges))
    ]
    for start, end in edges:
        if start in place and end in place:
            (x0, y0), (x1, y1) = place[start], place[end]
            x0, x1, y0 = x0 + _WIDTH / 2, x1 + _WIDTH / 2, y0 + _HEIGHT
            bend, c0, c1 = (y1 - y0) / 2, x0, x1
            if y1 - y0 > _GAP_Y:  # passes rows of other boxes: swing out to the side instead of behind them
                c0 = c1 = (width - 6 - (x0 + x1) / 8) / 0.75  # then the middle of the curve is 6 short of the edge
                bend = _GAP_Y
            path = f"M{x0:g} {y0:g}C{c0:g} {y0 + bend:g} {c1:g} {y1 - bend:g} {x1:g} {y1 - 1:g}"
            drawn.append(Markup('<path class="edge" d="{}" marker-end="url(#arrow)"/>').format(path))
    drawn += [_box(node, *place[node.id]) for node in nodes]
    return Markup("").join([*drawn, Markup("</svg>")])


def _box(node: LineageNode, x: float, y: float) -> Markup:
    return Markup(
        '<g class="node {kind}"><title>{full}</title><rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8"/>'
        '<text x="{tx}" y="{ty}" class="name">{label}</text><text x="{tx}" y="{dy}" class="detail">{detail}</text></g>'
    ).format(
        kind=node.kind,
        full=f"{node.label} {node.detail}".strip(),
        x=f"{x:g}",
        y=f"{y:g}",
        w=_WIDTH,
        h=_HEIGHT,
        tx=f"{x + 12:g}",
        ty=f"{y + 22:g}",
        dy=f"{y + 39:g}",
        label=_middle(node.label),
        detail=_middle(node.detail or node.kind, _CHARACTERS + 5),
    )


def _middle(text: str, most: int = _CHARACTERS) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


def _in_words(nodes: Sequence[LineageNode], edges: Sequence[tuple[str, str]]) -> Markup:
    names = {node.id: node.label for node in nodes}
    return escape("; ".join(f"{names[start]} → {names[end]}" for start, end in edges if start in names and end in names))
