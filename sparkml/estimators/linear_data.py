"""From a DataFrame to the rows that a linear model is fitted on: in place if it is a plain scan, else written once as shards."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sparkml.errors import DataError
from sparkml.estimators.materialise import as_shards, describe, in_place
from sparkml.estimators.plain_parquet import plain_parquet
from sparkml.learners.linear.methods import MANY_COEFFICIENTS
from sparkml.lineage.fingerprint import fingerprint
from sparkml.shards.reader import ShardSet
from sparkml.shards.schema import Column
from sparkml.storage import Store

log = logging.getLogger(__name__)

_GROUPS = 256  # row groups of a small set: shares of nearly equal size for any number of ranks
_FEW_GROUPS = 16  # of sparse rows with more features than entries: a group's sum has a number for each feature
_MAX_ROWS_PER_GROUP = 1 << 18
_FILE_BYTES = 128 << 20
_MIN_FILES = 4
_NUMBERS = re.compile(r"double|float|int|bigint|smallint|tinyint|boolean|decimal\(\d+,\d+\)")
_ARRAYS = re.compile(rf"array<({_NUMBERS.pattern})>")


@dataclass(frozen=True)
class Rows:
    """What a fit reads.

    Attributes
    ----------
    names
        Of the features by position; empty unless the column says them.
    stored
        The features' column, of shards that are read in place.
    """

    url: str
    names: list[str]
    stored: Column | None


class LinearRows:
    """The rows given to ``fit``.

    Raises
    ------
    DataError
        A column is missing or of a type that is no number, or values are null, NaN or infinite.
    """

    def __init__(
        self,
        dataset: DataFrame,
        features: str,
        labels: Sequence[str],
        weight: str | None = None,
        offset: str | None = None,
        fold: str | None = None,
    ) -> None:
        self.features, self.labels = features, list(labels)
        others = {"weight": weight, "offset": offset, "fold": fold}
        self.numbers = [*(("label", name) for name in labels), *((role, name) for role, name in others.items() if name)]
        for name in (features, *(name for _, name in self.numbers)):
            if name not in dataset.columns:
                raise DataError(f"there is no column {name!r}, only {', '.join(dataset.columns)}")
        for role, name in self.numbers:
            kind = dataset.schema[name].dataType.simpleString()
            if not _NUMBERS.fullmatch(kind):
                hint = "index it with a StringIndexer" if kind == "string" else None
                raise DataError(f"the {role} {name!r} is a {kind}, not a number", hint=hint)
        kind = dataset.schema[features].dataType.simpleString()
        self._shards = in_place(dataset)
        if self._shards is None and kind != "vector" and not _ARRAYS.fullmatch(kind):
            raise DataError(
                f"column {features!r} is a {kind}: features are a vector or an array of numbers",
                hint="assemble the columns with a VectorAssembler",
            )
        self._plain = None if self._shards else plain_parquet(dataset, features, [name for _, name in self.numbers])
        self.names = _names_of(dataset.schema[features].metadata)
        self._entries: tuple[float, str] | None = None  # of a row on average, and their type
        self._frame = dataset.select(
            F.col(f"`{features}`"),
            *(F.col(f"`{name}`").cast("double").alias(name) for name in dict.fromkeys(name for _, name in self.numbers)),
        )
        if self._shards is not None:
            self._stored = self._checked([Column.model_validate(item) for item in self._shards[1].extra["columns"]])
            self.rows, self._content = sum(map(sum, self._shards[1].extra["groups"].values())), ""
        elif self._plain is not None:
            self.rows, self._content = self._plain.rows, ""
        else:
            self.rows, self._content = self._looked_at()
        if not self.rows:
            raise DataError("there are no training rows", hint="look at the split and at the contract's quarantine")
        if self._shards is not None:
            self.columns = [self._stored]
        else:
            self.columns = self._plain.columns if self._plain is not None else self._described()

    def _checked(self, columns: list[Column]) -> Column:
        (stored,) = (column for column in columns if column.name == self.features)
        if len(stored.shape) != 1 or stored.kind == "ids":
            what = f"tensors of {' x '.join(map(str, stored.shape))}" if stored.shape else "one number"
            raise DataError(f"column {self.features!r} holds {'ids' if stored.kind == 'ids' else what} a row, not a vector")
        return stored

    def most(self, label: str) -> float:
        """Return the largest value of a label; of files read in place by their footers; of shards NaN if these do not say."""
        if self._shards is not None:
            return ShardSet.open(self._shards[0]).most(label)
        if self._plain is None:
            return self._most[label]
        most = self._plain.most(label)
        if not math.isnan(most):
            return most
        row = self._frame.agg(F.max(F.col(f"`{label}`"))).first()
        return float(row[0] or 0) if row is not None else 0.0

    def _looked_at(self) -> tuple[int, str]:
        """Return the number of rows, and what names them (the same rows in any order give the same); keep the largest labels."""
        content = F.sum(F.xxhash64(*[F.col(f"`{name}`") for name in self._frame.columns]).cast("decimal(38,0)"))
        most = [F.max(F.col(f"`{name}`")).alias(f"most {at}") for at, name in enumerate(self.labels)]
        checks = [F.count("*").alias("rows"), content.alias("content"), *most]
        if self._frame.schema[self.features].dataType.simpleString() == "vector":
            values = F.unwrap_udt(F.col(f"`{self.features}`"))["values"]
            checks.append(F.avg(F.size(values)).alias("entries"))
            checks.append(F.max(F.exists(values, lambda value: value != value.cast("float"))).alias("doubles"))
        for at, (_, name) in enumerate(self.numbers):
            value = F.col(f"`{name}`")
            unusable = value.isNull() | F.isnan(value) | (F.abs(value) == float("inf"))
            checks.append(F.sum(unusable.cast("int")).alias(f"unusable {at}"))
        row = self._frame.agg(*checks).first()
        assert row is not None
        for at, (role, name) in enumerate(self.numbers):
            if wrong := row[f"unusable {at}"]:
                raise DataError(f"the {role} {name!r} is null, NaN or infinite in {wrong} of {row['rows']} rows")
        if "entries" in row.asDict():
            self._entries = float(row["entries"] or 0), "float64" if row["doubles"] else "float32"
        self._most = {name: float(row[f"most {at}"] or 0) for at, name in enumerate(self.labels)}
        return row["rows"], str(row["content"])

    def _described(self) -> list[Column]:
        """Return how columns are stored: doubles as doubles, vectors that are mostly zeros by their entries."""
        columns = describe(self._frame, self._frame.columns, tensors=[self.features], sparse=())
        features, *others = [_precise(self._frame, column) for column in columns]
        if self._entries is not None:
            entries, dtype = self._entries
            stored = (4 + np.dtype(dtype).itemsize) * math.ceil(max(1.0, entries))
            if stored < features.width / 2:
                features = features.model_copy(update={"kind": "sparse", "dtype": dtype, "stored_bytes": stored})
        return [features, *others]

    @property
    def sparse(self) -> bool:
        """Whether features are stored by their entries, and those are few."""
        features = self.columns[0]
        return features.kind == "sparse" and features.width < self.width * np.dtype(features.dtype).itemsize / 2

    @property
    def width(self) -> int:
        """Number of features."""
        return self.columns[0].shape[0]

    def shards(self, store: Store) -> Rows:
        """Write the shards, unless the same rows are there or can be read where they are."""
        if self._shards is not None:
            log.info("reads the shards of %s in place", self._shards[0])
            return Rows(self._shards[0], self.names, self._stored)
        if self._plain is not None:
            log.info("reads %d row groups of %s in place", sum(map(len, self._plain.groups.values())), self._plain.root)
            return Rows(self._plain.published(store), self.names, None)
        columns = self.columns
        groups = _GROUPS
        if self.sparse and self.width > MANY_COEFFICIENTS:
            groups = min(_GROUPS, max(_FEW_GROUPS, self.rows * columns[0].width // (16 * self.width)))
        group_rows = max(1, min(_MAX_ROWS_PER_GROUP, self.rows // groups))
        mark: list[Any] = [self.rows, self._content, group_rows, [column.model_dump() for column in columns]]
        path = f"shards/train-{fingerprint(mark)}"
        width = sum(column.width for column in columns)
        files = max(_MIN_FILES, min(4096, self.rows * width // _FILE_BYTES))  # of the data alone, not of the cluster
        log.info("writes the rows as shards to %s", store.url(path))
        as_shards(self._frame, store, path, columns, group_rows, files, finite=True)
        return Rows(store.url(path), self.names, None)


def _precise(frame: DataFrame, column: Column) -> Column:
    """Keep float64 where a net would be given float32."""
    kind = frame.schema[column.name].dataType.simpleString()
    wide = bool(column.shape) and kind not in ("array<float>", "array<smallint>", "array<tinyint>")
    return column.model_copy(update={"dtype": "float64"}) if wide else column


def _names_of(metadata: dict[str, Any]) -> list[str]:
    """Return the names that a VectorAssembler and its like leave in a column's metadata; empty unless there is one for each."""
    attributes = metadata.get("ml_attr", {})
    found = {item["idx"]: item["name"] for kind in attributes.get("attrs", {}).values() for item in kind if "name" in item}
    count = attributes.get("num_attrs", len(found))
    return [found[at] for at in range(count)] if set(found) == set(range(count)) else []
