"""What Spark's plan of a DataFrame says of its columns: which of a Parquet scan's columns they are, unless they are computed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from pyspark.sql import DataFrame

_SOURCES = "org.apache.spark.sql.execution.datasources."
_ASSEMBLER = "org.apache.spark.ml.feature.VectorAssembler"
_THROUGH = frozenset({"Project", "SubqueryAlias", "View"})  # rows go through them as they are
_INTEGERS = ("boolean", "byte", "short", "integer", "long")
_NUMBERS = (*_INTEGERS, "float", "double")


@dataclass(frozen=True)
class Scan:
    """The columns of Parquet files that a frame is made of.

    Attributes
    ----------
    files
        Their URLs, sorted.
    features
        Names of the files' columns, by position.
    numbers
        The file's column of each number.
    types
        Spark's type of each of the files' columns: float, double, boolean, byte, short, integer or long.
    """

    files: tuple[str, ...]
    features: tuple[str, ...]
    numbers: dict[str, str]
    types: dict[str, str]


def scan_of(df: DataFrame, features: str, numbers: Sequence[str]) -> Scan | None:
    """Return what a plain scan of Parquet files is made of, by any number of selections; None for every other frame.

    Features are the columns that a VectorAssembler was given, or `array`; numbers may be renamed, and cast without a loss or
    to double. A filter, join or limit, a partition's column, a type that is no number: None.
    """
    nodes = [df._jdf.queryExecution().analyzed()]
    while nodes[-1].nodeName() in _THROUGH:
        nodes.append(nodes[-1].children().head())
    if not _is_parquet(nodes[-1]):
        return None
    columns = _Columns(nodes)
    assembled, found = columns.assembled(features), [columns.number(name) for name in numbers]
    used = [column for column in (*assembled, *found) if column is not None]
    if not assembled or len(used) < len(assembled) + len(found):
        return None
    types = {column.name: column.stored for column in used}
    relation, files = nodes[-1].relation(), sorted({unquote(url) for url in df.inputFiles()})
    if not types.keys().isdisjoint(relation.partitionSchema().fieldNames()):
        return None
    if not files or len(files) != len(relation.location().inputFiles()):  # the rows are in a cache, or a file is read twice
        return None
    names = [column.name for column in used]
    return Scan(tuple(files), tuple(names[: len(assembled)]), dict(zip(numbers, names[len(assembled) :], strict=True)), types)


def _is_parquet(node: Any) -> bool:
    if node.nodeName() != "LogicalRelation" or node.relation().getClass().getName() != f"{_SOURCES}HadoopFsRelation":
        return False
    relation = node.relation()
    own = relation.fileFormat().getClass().getName() == f"{_SOURCES}parquet.ParquetFileFormat"  # Delta's and others' are derived
    return own and not relation.bucketSpec().isDefined()


@dataclass(frozen=True)
class _Number:
    """A column of the files, its type there, and what it was cast to."""

    name: str
    stored: str
    cast: str


@dataclass(frozen=True)
class _Expression:
    """An expression as Spark's JSON has it."""

    fields: dict[str, Any]
    children: list[_Expression]

    @classmethod
    def read(cls, flat: Iterator[dict[str, Any]]) -> _Expression:
        fields = next(flat)
        return cls(fields, [cls.read(flat) for _ in range(fields["num-children"])])

    @property
    def kind(self) -> str:
        return str(self.fields["class"]).rpartition(".")[2]

    @property
    def id(self) -> int:
        return int(self.fields["exprId"]["id"])


class _Columns:
    """The columns of a chain of selections from a relation, the last node; asked of the JVM in one call."""

    def __init__(self, nodes: Sequence[Any]) -> None:
        described = json.loads(nodes[0].toJSON())
        self._nodes = nodes
        self._stored = [_Expression.read(iter(flat)) for flat in described[-1]["output"]]
        self._known = {column.id for column in self._stored}
        self._made: dict[int, tuple[_Expression, int, int]] = {}
        shown = self._stored
        for depth in reversed(range(len(described))):
            if "projectList" in described[depth]:
                shown = [_Expression.read(iter(flat)) for flat in described[depth]["projectList"]]
                made = ((column, at) for at, column in enumerate(shown) if column.kind == "Alias")
                self._made |= {column.id: (column.children[0], depth, at) for column, at in made}
        self._named = {column.fields["name"]: column for column in shown}

    def number(self, name: str) -> _Number | None:
        return self._number(self._named[name])

    def assembled(self, name: str) -> list[_Number | None]:
        """Return what features are made of; empty if not by a VectorAssembler or `array`."""
        column, depth, at = self._named[name], 0, 0
        if column.kind == "Alias":
            column, depth, at = self._made[column.id]
        while column.kind == "AttributeReference" and column.id in self._made:
            column, depth, at = self._made[column.id]
        if column.kind == "CreateArray":
            return [self._number(part) for part in column.children]
        if column.kind == "ScalaUDF" and column.children[0].kind == "CreateNamedStruct":
            function = self._nodes[depth].projectList().apply(at).child().function()
            if function.getClass().getName().startswith(_ASSEMBLER):
                return [self._number(part) for part in column.children[0].children[1::2]]
        return []

    def _number(self, column: _Expression) -> _Number | None:
        if column.kind == "AttributeReference" and column.id in self._known:
            kind = column.fields["dataType"]
            return _Number(column.fields["name"], kind, kind) if kind in _NUMBERS else None
        if column.kind == "AttributeReference" and column.id in self._made:
            return self._number(self._made[column.id][0])
        if column.kind in ("Alias", "Cast"):
            found, to = self._number(column.children[0]), column.fields.get("dataType")
            if found is None or to is None:
                return found
            return replace(found, cast=to) if _keeps(found.cast, to) else None
        return None


def _keeps(kind: str, to: str) -> bool:
    """Return whether a cast keeps every value, or makes it a double, as features and labels become in any case."""
    if kind in _INTEGERS and to in _INTEGERS:
        return _INTEGERS.index(kind) <= _INTEGERS.index(to)
    return to in ("double", kind) or (to == "float" and kind in _INTEGERS[:3])
