"""What the commands print for people: tables, the lineage tree; and JSON for machines."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparkml.lineage.records import RunRecord

WIDTH = 200  # of tables that go to a file or pipe


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=1, default=str))


def print_summary(record: RunRecord, dry_run: bool) -> None:
    """Print a run's stages, candidates, decision and report; of a dry run the plan."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if dry_run:
        for item in record.result["plan"]:
            console.print(f"  {item['stage']:<18} {item['action']}", markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "status", "seconds", "rows", "artifact"):
        table.add_column(column, justify="right" if column in {"seconds", "rows"} else "left", overflow="fold")
    for stage in record.stages:
        rows = "" if stage.rows is None else f"{stage.rows:,}"
        table.add_row(stage.stage, stage.status, f"{stage.seconds:.1f}", rows, stage.artifact.rpartition("/")[2])
    console.print(table)
    _print_candidates(console, record)
    if record.result.get("decision"):
        decision = record.result["decision"]
        console.print(
            f"\n{record.result['version'] or decision['candidate']}: {decision['outcome']}, {decision['reason']}", markup=False
        )
    if record.result.get("predictions"):
        console.print(
            f"predictions by {record.result['scored_by']}: {record.result['predictions']}", markup=False, soft_wrap=True
        )
    if record.report:
        console.print(f"report: {record.report}", markup=False, soft_wrap=True)


def _print_candidates(console: Any, record: RunRecord) -> None:
    from rich.table import Table

    candidates = record.result.get("candidates", {})
    if not candidates:
        return
    metrics = list(dict.fromkeys(name for found in candidates.values() for name in found))
    table = Table("candidate", *metrics, box=None, pad_edge=False, header_style="bold")
    for name, found in candidates.items():
        cells = [f"{item['value']:.4f} [{item['low']:.4f}, {item['high']:.4f}]" for item in found.values()]
        table.add_row(name, *(cell.replace("nan", "n/a") for cell in cells))
    console.print()
    console.print(table)


def print_tree(node: Any) -> None:
    """Print a lineage tree and how many of its nodes changed since."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    colours = {"ok": "green", "changed": "yellow", "missing": "red", "altered": "red"}

    def label(item: Any) -> Text:
        text = Text(f"{item.name}  ", style="bold")
        text.append(f"{item.url}  ", style="")
        text.append(item.state, style=colours[item.state])
        text.append(f"  {item.detail or item.fingerprint}{f'  by {item.made_by}' if item.made_by else ''}", style="dim")
        return text

    def grow(branch: Tree, item: Any) -> Tree:
        for below in item.inputs:
            grow(branch.add(label(below)), below)
        return branch

    console = Console(width=400)  # long lines wrap at the terminal instead of being cut
    console.print(grow(Tree(label(node)), node))
    bad = [item for item in node.walk() if item.state != "ok"]
    console.print(f"{len(bad)} of {len(list(node.walk()))} changed since" if bad else "nothing changed since", highlight=False)


def print_table(rows: list[dict[str, Any]], columns: tuple[str, ...], empty: str) -> None:
    """Print rows of plain values, or a sentence when there are none."""
    from rich.console import Console
    from rich.table import Table

    if not rows:
        print(empty)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH).print(table)
