"""The columns of shards: scalars are flat primitive columns, tensors fixed-length binary with shape and dtype in the schema.

Sequences of ids and sparse vectors are *compact*: variable-length binary, made dense only when a batch is cut.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

_SHAPE, _DTYPE, _KIND = b"sparkml.shape", b"sparkml.dtype", b"sparkml.kind"
_PAIR = np.dtype([("index", "<i4"), ("value", "<f4")])


class Column(BaseModel, frozen=True):
    """One column of the rows.

    Attributes
    ----------
    dtype, shape
        A scalar when `shape` is empty, else a row-major little-endian tensor of that shape.
    kind
        ``plain``: stored as it is read. ``ids``: int32 sequences, padded with 0 (or cut) to ``shape[0]`` when read. ``sparse``:
        the entries that are not zero of a float32 vector of ``shape[0]``.
    stored_bytes
        What a row takes on average in a compact column; 0 for plain ones.
    vocabulary
        Of integers that could be ids: the largest value + 1; 0 where it is not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    kind: Literal["plain", "ids", "sparse"] = "plain"
    stored_bytes: int = 0
    vocabulary: int = 0

    @property
    def compact(self) -> bool:
        return self.kind != "plain"

    @property
    def width(self) -> int:
        """Bytes of one row as it is stored (strings: a guess)."""
        if self.compact:
            return max(1, self.stored_bytes)
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize if self.dtype != "str" else 8

    def field(self) -> pa.Field:
        """Return the Arrow field that stores it."""
        if not self.shape:
            kind = pa.string() if self.dtype == "str" else pa.from_numpy_dtype(np.dtype(self.dtype))
            return pa.field(self.name, kind, nullable=False)
        metadata = {_SHAPE: json.dumps(self.shape), _DTYPE: self.dtype}
        if self.compact:
            return pa.field(self.name, pa.binary(), nullable=False, metadata={**metadata, _KIND: self.kind})
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
            kind = metadata.get(_KIND, b"plain").decode()
            found.append(Column(name=field.name, dtype=metadata[_DTYPE].decode(), shape=shape, kind=kind))
        else:
            found.append(
                Column(
                    name=field.name, dtype="str" if pa.types.is_string(field.type) else str(field.type.to_pandas_dtype()().dtype)
                )
            )
    return found


def to_numpy(array: pa.Array, column: Column) -> np.ndarray[Any, Any]:
    """Return a column's values as ``(rows, *shape)``, without a copy for tensors and primitives; compact ones are made dense."""
    if not column.shape:
        return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    if column.compact:
        return _dense(array, column)
    count, per_row = len(array), math.prod(column.shape)
    values = np.frombuffer(array.buffers()[1], column.dtype)[array.offset * per_row : (array.offset + count) * per_row]
    return values.reshape(count, *column.shape)


def to_arrow(array: pa.Array, column: Column) -> pa.Array:
    """Return what Spark hands over as the column is stored: primitives, lists of numbers, structs (size, indices, values).

    Binary values are those of a stored column already.

    Raises
    ------
    ValueError
        A list has another length than the column's shape, or a null among its elements.
    """
    if not column.shape or pa.types.is_binary(array.type) or pa.types.is_fixed_size_binary(array.type):
        return array.cast(column.field().type)
    if column.kind == "ids":
        return _binary(array.value_lengths(), _elements(array, column).astype("<i4"))
    if column.kind == "sparse":
        sizes = np.unique(array.field("size").to_numpy(zero_copy_only=False))
        if len(sizes) and list(sizes) != [column.shape[0]]:
            raise ValueError(f"column {column.name!r} must hold vectors of size {column.shape[0]}, it holds {sizes.tolist()}")
        pairs = np.empty(len(array.field("indices").flatten()), _PAIR)
        pairs["index"], pairs["value"] = _elements(array.field("indices"), column), _elements(array.field("values"), column)
        return _binary(array.field("indices").value_lengths(), pairs)
    size = math.prod(column.shape)
    sizes = array.value_lengths().to_numpy(zero_copy_only=False)
    if len(sizes) and (sizes != size).any():
        raise ValueError(f"column {column.name!r} must hold {size} values in every row, one holds {sizes[sizes != size][0]}")
    values = np.ascontiguousarray(_elements(array, column), dtype=column.dtype)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(column.width), len(array), [None, pa.py_buffer(values)])


def check_finite(stored: pa.Array, column: Column) -> None:
    """Raise `ValueError` when numbers among the stored values are NaN or infinite."""
    if column.kind == "sparse":
        values: Any = np.frombuffer(stored.buffers()[2], _PAIR)["value"]
    elif column.kind == "ids" or not column.dtype.startswith("float"):
        return
    else:
        values = to_numpy(stored, column)
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise ValueError(f"column {column.name!r} has {wrong} numbers that are NaN or infinite: impute or filter them")


def _elements(lists: pa.Array, column: Column) -> np.ndarray[Any, Any]:
    flat = lists.flatten()
    if flat.null_count:
        raise ValueError(f"column {column.name!r} has {flat.null_count} null elements: shards hold none")
    return flat.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _binary(lengths: pa.Array, items: np.ndarray[Any, Any]) -> pa.Array:
    """Return one binary value per row, holding its share of the items."""
    ends = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)]) * items.dtype.itemsize
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            "more than 2 GiB of ids or sparse entries in one Arrow batch; lower spark.sql.execution.arrow.maxRecordsPerBatch"
        )
    buffers = [None, pa.py_buffer(ends.astype("<i4")), pa.py_buffer(np.ascontiguousarray(items))]
    return pa.Array.from_buffers(pa.binary(), len(ends) - 1, buffers)


def _dense(array: pa.Array, column: Column) -> np.ndarray[Any, Any]:
    item = _PAIR if column.kind == "sparse" else np.dtype("<i4")
    counts = pc.binary_length(array).to_numpy(zero_copy_only=False) // item.itemsize
    start = np.frombuffer(array.buffers()[1], "<i4")[array.offset] if len(array) else 0
    body = array.buffers()[2]
    items: Any = np.frombuffer(body, item, count=int(counts.sum()), offset=int(start)) if counts.sum() else np.empty(0, item)
    dense = np.zeros((len(array), *column.shape), column.dtype)
    rows = np.repeat(np.arange(len(array)), counts)
    if column.kind == "sparse":
        dense[rows, items["index"]] = items["value"]
        return dense
    place = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < column.shape[0]
    dense[rows[kept], place[kept]] = items[kept]
    return dense
