"""The columns of shards: scalars are flat primitive columns, tensors fixed-length binary with shape and dtype in the schema."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

_SHAPE, _DTYPE = b"sparkml.shape", b"sparkml.dtype"


class Column(BaseModel, frozen=True):
    """One column: a scalar when `shape` is empty, else a row-major little-endian tensor of that shape."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def field(self) -> pa.Field:
        """Return the Arrow field that stores it."""
        if not self.shape:
            kind = pa.string() if self.dtype == "str" else pa.from_numpy_dtype(np.dtype(self.dtype))
            return pa.field(self.name, kind, nullable=False)
        metadata = {_SHAPE: json.dumps(self.shape), _DTYPE: self.dtype}
        return pa.field(self.name, pa.binary(self.width), nullable=False, metadata=metadata)


def schema_of(columns: list[Column]) -> pa.Schema:
    """Return the Arrow schema of a shard file."""
    return pa.schema([column.field() for column in columns])


def columns_of(schema: pa.Schema) -> list[Column]:
    """Read the columns back from a shard file's schema."""
    found = []
    for field in schema:
        metadata = field.metadata or {}
        if _SHAPE in metadata:
            shape = tuple(json.loads(metadata[_SHAPE]))
            found.append(Column(name=field.name, dtype=metadata[_DTYPE].decode(), shape=shape))
        else:
            found.append(
                Column(
                    name=field.name, dtype="str" if pa.types.is_string(field.type) else str(field.type.to_pandas_dtype()().dtype)
                )
            )
    return found


def to_numpy(array: pa.Array, column: Column) -> np.ndarray[Any, Any]:
    """Return a column's values as ``(rows, *shape)``, without a copy for tensors and primitives."""
    if not column.shape:
        return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    count, per_row = len(array), math.prod(column.shape)
    values = np.frombuffer(array.buffers()[1], column.dtype)[array.offset * per_row : (array.offset + count) * per_row]
    return values.reshape(count, *column.shape)


def to_arrow(array: pa.Array, column: Column) -> pa.Array:
    """Return what Spark hands over (primitives, lists of numbers) as the column is stored.

    Raises
    ------
    ValueError
        A list has another length than the column's shape, or a null among its elements.
    """
    if not column.shape:
        return array.cast(column.field().type)
    size = math.prod(column.shape)
    sizes = array.value_lengths().to_numpy(zero_copy_only=False)
    if len(sizes) and (sizes != size).any():
        raise ValueError(f"column {column.name!r} must hold {size} values in every row, one holds {sizes[sizes != size][0]}")
    flat = array.flatten()
    if flat.null_count:
        raise ValueError(f"column {column.name!r} has {flat.null_count} null elements: shards hold none")
    values = np.ascontiguousarray(flat.to_numpy(zero_copy_only=False), dtype=column.dtype)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(column.width), len(array), [None, pa.py_buffer(values)])
