"""A DataFrame that is a plain scan of Parquet files: what ranks need to know to read these files themselves."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from sparkml.errors import SparkmlError
from sparkml.estimators.scan_plan import Scan, scan_of
from sparkml.learners.linear.methods import MANY_COEFFICIENTS
from sparkml.lineage.fingerprint import fingerprint
from sparkml.shards.footers import chunks_of, most, read_footers
from sparkml.shards.schema import Column
from sparkml.storage import FileEntry, Store

log = logging.getLogger(__name__)

_ARROW = {
    "float": "float",
    "double": "double",
    "boolean": "bool",
    "byte": "int8",
    "short": "int16",
    "integer": "int32",
    "long": "int64",
}
_EXACT = frozenset({"float", "boolean", "byte", "short"})  # in float32
_MIN_GROUPS = 8  # fewer share badly among ranks, and a sample of them says little
_LARGEST_SHARE = 4  # of the rows, in one row group: a quarter
_MIN_ROWS = 4096  # of a row group on average: smaller ones are opened more than they are read
_MAX_GROUP_BYTES = 512 << 20  # a rank holds the columns of one row group as they are stored
_AT_ONCE = 16


@dataclass(frozen=True)
class PlainParquet:
    """Parquet files that are read in place.

    Attributes
    ----------
    root
        URL below which the files lie.
    columns
        The features, then the numbers, with what they are made of.
    files
        With size and, as their checksum, a hash of what the storage says to tell contents apart.
    """

    root: str
    columns: list[Column]
    files: list[FileEntry]
    footers: list[pq.FileMetaData]

    @property
    def groups(self) -> dict[str, list[int]]:
        """The rows of each file's row groups."""
        return {file.path: _rows_of(footer) for file, footer in zip(self.files, self.footers, strict=True)}

    @property
    def rows(self) -> int:
        return sum(footer.num_rows for footer in self.footers)

    def most(self, name: str) -> float:
        """Return the largest value of a number; NaN where the footers do not say."""
        (column,) = (column for column in self.columns if column.name == name)
        return most(self.footers, column.parts[0])

    def published(self, store: Store) -> str:
        """Return the URL of a manifest that describes the files, written unless it is there."""
        extra = {
            "columns": [column.model_dump() for column in self.columns],
            "groups": self.groups,
            "rows": self.rows,
            "root": self.root,
            "files": [file.model_dump() for file in self.files],
        }
        mark = fingerprint(extra)
        with store.stage() as staging:
            store.publish(staging, f"shards/plain-{mark}", kind="shards", fingerprint=mark, extra=extra)
        return store.url(f"shards/plain-{mark}")


def plain_parquet(df: DataFrame, features: str, numbers: Sequence[str]) -> PlainParquet | None:
    """Return the files of a frame whose columns are theirs, or None if it is anything else or its row groups do not suit ranks.

    `features` is what a VectorAssembler or `array` made of columns; `numbers` are columns, renamed or cast at most.
    The answer depends on the frame and its files alone, never on the cluster.
    """
    scan = scan_of(df, features, numbers)
    if scan is None or len(scan.features) > MANY_COEFFICIENTS:  # that many are mostly 0, and better stored by their entries
        return None
    first, last = (url.split("/")[:-1] for url in (scan.files[0], scan.files[-1]))  # they are sorted: others lie between
    root = "/".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    if root.count("/") < 3:  # they have nothing in common but a scheme or a host
        return None
    paths = [url[len(root) + 1 :] for url in scan.files]
    try:
        store = Store(root)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            files = list(pool.map(partial(_entry, store), paths))
        footers = read_footers(store, files)
    except SparkmlError as error:
        log.info("Spark reads %s: %s", root, error)
        return None
    if not (all(_holds(footer, scan.types) for footer in footers) and _suits(footers, set(scan.types))):
        return None
    return PlainParquet(store.root, _columns(scan, features, numbers), files, footers)


def _columns(scan: Scan, features: str, numbers: Sequence[str]) -> list[Column]:
    kind = "float32" if all(scan.types[name] in _EXACT for name in scan.features) else "float64"
    tensor = Column(name=features, dtype=kind, shape=(len(scan.features),), parts=scan.features)
    return [tensor, *(Column(name=name, dtype="float64", parts=(scan.numbers[name],)) for name in dict.fromkeys(numbers))]


def _entry(store: Store, path: str) -> FileEntry:
    size, modified = store.state(path)
    mark = hashlib.sha256("\0".join([store.url(path), str(size), modified]).encode())
    return FileEntry(path=path, size=size, sha256=mark.hexdigest())


def _rows_of(footer: pq.FileMetaData) -> list[int]:
    return [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]


def _holds(footer: pq.FileMetaData, types: Mapping[str, str]) -> bool:
    """Return whether a file has all columns, in the very types that Spark takes them to have."""
    schema = footer.schema.to_arrow_schema()
    if any("." in name for name in schema.names):  # PyArrow takes it for a path
        return False
    found = {name: str(schema.field(at).type) for name in types if (at := schema.get_field_index(name)) >= 0}
    return found == {name: _ARROW[kind] for name, kind in types.items()}


def _suits(footers: Sequence[pq.FileMetaData], names: Collection[str]) -> bool:
    """Return whether row groups are enough, and none is too large."""
    rows = [count for footer in footers for count in _rows_of(footer)]
    if len(rows) < _MIN_GROUPS or sum(rows) < _MIN_ROWS * len(rows) or max(rows) * _LARGEST_SHARE > sum(rows):
        return False
    groups = (group for footer in footers for group in chunks_of(footer, names))
    return all(sum(chunk.total_uncompressed_size for chunk in group) <= _MAX_GROUP_BYTES for group in groups)
