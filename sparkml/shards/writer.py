"""Writes shards from Arrow batches, one file per task attempt. Runs inside a Spark task, and imports no Spark."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparkml.errors import DataError
from sparkml.shards.schema import Column, check_finite, schema_of, to_arrow
from sparkml.storage import Store

FILE_REPORT = "path string, sha256 string, groups array<bigint>"
_REPORT = pa.schema([("path", pa.string()), ("sha256", pa.string()), ("groups", pa.list_(pa.int64()))])
BUFFER_BYTES = 64 << 20


class _Hashing:
    """A file that hashes what is written through it, so that nobody reads the shard back for its checksum."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.file.write(data)
        return len(data)

    @property
    def closed(self) -> bool:
        return bool(self.file.closed)

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return int(self.file.tell())


def rows_per_group(columns: list[Column]) -> int:
    """Return rows for row groups of about 64 MiB: large enough to stream, small enough to buffer for shuffling."""
    width = sum(column.width for column in columns)
    return max(1024, min(1 << 20, BUFFER_BYTES // max(1, width)))


def write_shard(
    batches: Iterator[pa.RecordBatch],
    *,
    partition: int,
    root: str,
    folder: str,
    columns: list[Column],
    group_rows: int,
    finite: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Write the batches of one partition as one file and yield one row about it; an empty partition writes nothing.

    File names sort by partition, and are unique per attempt: a retried or speculative task never touches another's file.
    Uncompressed, no dictionary, no statistics on tensors: written once, read every epoch.
    """
    store, schema = Store(root), schema_of(columns)
    path = f"part-{partition:05d}-{uuid.uuid4().hex}.parquet"
    pending: list[pa.RecordBatch] = []
    groups: list[int] = []
    with store.open(f"{folder}/{path}", "wb") as file:
        sink = _Hashing(file)
        scalars = [column.name for column in columns if not column.shape]
        with pq.ParquetWriter(
            pa.PythonFile(sink, mode="w"), schema, compression="none", use_dictionary=False, write_statistics=scalars or False
        ) as writer:
            for batch in batches:
                pending.append(_stored(batch, columns, schema, finite))
                while sum(item.num_rows for item in pending) >= group_rows:
                    pending = _flush(writer, pending, group_rows, groups)
            if any(item.num_rows for item in pending):
                _flush(writer, pending, group_rows, groups)
    if not groups:
        store.remove(f"{folder}/{path}")
        return
    yield pa.RecordBatch.from_pylist([{"path": path, "sha256": sink.digest.hexdigest(), "groups": groups}], schema=_REPORT)


def _stored(batch: pa.RecordBatch, columns: list[Column], schema: pa.Schema, finite: bool) -> pa.RecordBatch:
    arrays = []
    for column in columns:
        array = batch.column(batch.schema.get_field_index(column.name))
        if array.null_count:
            raise DataError(
                f"column {column.name!r} has {array.null_count} null values: shards hold none", hint="impute or filter them"
            )
        try:
            stored = to_arrow(array, column)
            if finite:
                check_finite(stored, column)
            arrays.append(stored)
        except (ValueError, pa.ArrowInvalid) as error:
            raise DataError(str(error)) from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _flush(writer: pq.ParquetWriter, pending: list[pa.RecordBatch], group_rows: int, groups: list[int]) -> list[pa.RecordBatch]:
    table = pa.Table.from_batches(pending)
    head = table.slice(0, group_rows)
    writer.write_table(head, row_group_size=group_rows)
    groups.append(head.num_rows)
    return list(table.slice(group_rows).to_batches())
