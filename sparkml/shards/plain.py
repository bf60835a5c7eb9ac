"""Parquet files that others wrote, read as if they were shards: flat columns of numbers, several of them as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sparkml.errors import DataError
from sparkml.shards.schema import Column, as_numpy, schema_of


def as_stored(batch: pa.RecordBatch, columns: Sequence[Column]) -> pa.RecordBatch:
    """Return rows of such a file as a shard holds them.

    Raises
    ------
    DataError
        A value is null.
    pyarrow.ArrowInvalid
        The file has no column of that name.
    """
    return pa.RecordBatch.from_arrays([_made(batch, column) for column in columns], schema=schema_of(list(columns)))


def _made(batch: pa.RecordBatch, column: Column) -> pa.Array:
    rows = len(batch)
    memory = pa.allocate_buffer(rows * column.width)
    values = np.frombuffer(memory, column.dtype).reshape(rows, -1)
    for at, name in enumerate(column.parts):
        values[:, at] = _numbers(batch, name)  # as fast as np.stack, RecordBatch.to_tensor and smaller pieces
    kind = column.field().type
    buffers = [None, memory]
    return (
        pa.FixedSizeBinaryArray.from_buffers(kind, rows, buffers) if column.shape else pa.Array.from_buffers(kind, rows, buffers)
    )


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray[tuple[int], np.dtype[Any]]:
    at = batch.schema.get_field_index(name)
    if at < 0:
        raise pa.ArrowInvalid(f"no column {name!r}")
    array = batch.column(at)
    if array.null_count:
        raise DataError(f"column {name!r} has {array.null_count} null values", hint="impute or filter them")
    return as_numpy(array)
