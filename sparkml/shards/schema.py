"""The columns of shards: scalars are flat primitive columns, tensors fixed-length binary with shape and dtype in the schema.

Sequences of ids and sparse vectors are *compact*: variable-length binary, made dense only when a batch is cut.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

_SHAPE, _DTYPE, _KIND = b"sparkml.shape", b"sparkml.dtype", b"sparkml.kind"
_PAIRS = {name: np.dtype([("index", "<i4"), ("value", f"<f{np.dtype(name).itemsize}")]) for name in ("float32", "float64")}


class Column(BaseModel, frozen=True):
    """One column of the rows.

    Attributes
    ----------
    dtype, shape
        A scalar when `shape` is empty, else a row-major little-endian tensor of that shape.
    kind
        ``plain``: stored as it is read. ``ids``: int32 sequences, padded with 0 (or cut) to ``shape[0]`` when read. ``sparse``:
        the entries that are not zero of a vector of ``shape[0]``, float32 or float64.
    stored_bytes
        What a row takes on average in a compact column; 0 for plain ones.
    vocabulary
        Of integers that could be ids: the largest value + 1; 0 where it is not known.
    parts
        Of files that others wrote: the names of their columns that this one is made of; empty: it is stored under its own name.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    kind: Literal["plain", "ids", "sparse"] = "plain"
    stored_bytes: int = 0
    vocabulary: int = 0
    parts: tuple[str, ...] = ()

    @property
    def compact(self) -> bool:
        return self.kind != "plain"

    @property
    def width(self) -> int:
        """Bytes of one row as it is stored (strings: a guess)."""
        if self.compact:
            return max(1, self.stored_bytes)
        return self.dense_width

    @property
    def dense_width(self) -> int:
        """Bytes of one row as it is read, compact columns made dense."""
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


def as_numpy(array: pa.Array) -> np.ndarray[Any, Any]:
    """Return the values of a column of Arrow's own types, numbers without nulls not copied.

    Arrow's `to_numpy` imports pandas before anything else, a fifth of a second of a rank's start.
    """
    if not array.null_count and (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        kind, memory = np.dtype(array.type.to_pandas_dtype()), array.buffers()[1]
        return np.frombuffer(memory, kind, len(array), array.offset * kind.itemsize) if len(array) else np.empty(0, kind)
    return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def to_numpy(array: pa.Array, column: Column) -> np.ndarray[Any, Any]:
    """Return a column's values as ``(rows, *shape)``, without a copy for tensors and primitives; compact ones are made dense."""
    if not column.shape:
        return as_numpy(array)
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
        A list has another length than the column's shape, or a null among its elements; an entry lies outside of the vector.
    """
    if not column.shape or pa.types.is_binary(array.type) or pa.types.is_fixed_size_binary(array.type):
        return array.cast(column.field().type)
    if column.kind == "ids":
        return _binary(array.value_lengths(), _elements(array, column).astype("<i4"))
    if column.kind == "sparse":
        sizes = np.unique(as_numpy(array.field("size")))
        if len(sizes) and list(sizes) != [column.shape[0]]:
            raise ValueError(f"column {column.name!r} must hold vectors of size {column.shape[0]}, it holds {sizes.tolist()}")
        indices, values = _elements(array.field("indices"), column), _elements(array.field("values"), column)
        _check_places(indices, column)
        pairs = np.empty(len(indices), _PAIRS[column.dtype])
        pairs["index"], pairs["value"] = indices, values
        return _binary(array.field("indices").value_lengths(), pairs)
    size = math.prod(column.shape)
    sizes = as_numpy(array.value_lengths())
    if len(sizes) and (sizes != size).any():
        raise ValueError(f"column {column.name!r} must hold {size} values in every row, one holds {sizes[sizes != size][0]}")
    values = np.ascontiguousarray(_elements(array, column), dtype=column.dtype)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(column.width), len(array), [None, pa.py_buffer(values)])


def check_finite(stored: pa.Array, column: Column) -> None:
    """Raise `ValueError` when numbers among the stored values are NaN or infinite."""
    if column.kind == "sparse":
        values: Any = _items(stored, column)[0]["value"]
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
    return as_numpy(flat)


def _binary(lengths: pa.Array, items: np.ndarray[Any, Any]) -> pa.Array:
    """Return one binary value per row, holding its share of the items."""
    ends = np.concatenate([[0], np.cumsum(as_numpy(lengths), dtype=np.int64)]) * items.dtype.itemsize
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            "more than 2 GiB of ids or sparse entries in one Arrow batch; lower spark.sql.execution.arrow.maxRecordsPerBatch"
        )
    buffers = [None, pa.py_buffer(ends.astype("<i4")), pa.py_buffer(np.ascontiguousarray(items))]
    return pa.Array.from_buffers(pa.binary(), len(ends) - 1, buffers)


def to_csr(array: pa.Array, column: Column) -> Any:
    """Return a sparse column's rows as SciPy's ``csr_array`` of ``(rows, shape[0])``. Raises `ValueError` for a place outside."""
    from scipy.sparse import csr_array

    pairs, counts = _items(array, column)
    _check_places(pairs["index"], column)
    ends = np.concatenate([[0], np.cumsum(counts)])
    kind = np.int32 if ends[-1] <= np.iinfo(np.int32).max else np.int64
    parts = np.ascontiguousarray(pairs["value"]), pairs["index"].astype(kind), ends.astype(kind)
    return csr_array(parts, shape=(len(array), column.shape[0]))


def _check_places(places: np.ndarray[Any, Any], column: Column) -> None:
    if len(places) and not (places.min() >= 0 and places.max() < column.shape[0]):
        wrong = places[(places < 0) | (places >= column.shape[0])]
        raise ValueError(f"column {column.name!r} has an entry at {wrong[0]}: there are places 0 to {column.shape[0] - 1}")


def _items(array: pa.Array, column: Column) -> tuple[Any, np.ndarray[Any, Any]]:
    """Return the items of all rows of a compact column, one after the other, and how many each row has."""
    import pyarrow.compute as pc  # dense rows do without, and ranks start sooner

    item = _PAIRS[column.dtype] if column.kind == "sparse" else np.dtype("<i4")
    counts = as_numpy(pc.binary_length(array)) // item.itemsize
    total = int(counts.sum())
    if not total:
        return np.empty(0, item), counts
    start = int(np.frombuffer(array.buffers()[1], "<i4")[array.offset])
    return np.frombuffer(array.buffers()[2], item, count=total, offset=start), counts


def _dense(array: pa.Array, column: Column) -> np.ndarray[Any, Any]:
    items, counts = _items(array, column)
    dense = np.zeros((len(array), *column.shape), column.dtype)
    rows = np.repeat(np.arange(len(array)), counts)
    if column.kind == "sparse":
        dense[rows, items["index"]] = items["value"]
        return dense
    place = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < column.shape[0]
    dense[rows[kept], place[kept]] = items[kept]
    return dense
