"""A DataFrame as shards: read in place when it is one, written once otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml.errors import DataError, StorageError
from sparkml.shards.schema import Column
from sparkml.shards.writer import FILE_REPORT, rows_per_group, write_shard
from sparkml.storage import Manifest, Store

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_SCALARS = {
    "float": "float32",
    "double": "float64",
    "int": "int32",
    "bigint": "int64",
    "smallint": "int16",
    "tinyint": "int8",
    "boolean": "bool",
    "string": "str",
}


def as_shards(df: DataFrame, store: Store, path: str, columns: Sequence[str], group_rows: int | None = None) -> Manifest:
    """Write columns of a DataFrame as shards at `path` unless they are there, and return the manifest.

    Parameters
    ----------
    columns
        Scalars and strings stay as they are; vectors and arrays of numbers become float32 tensors of one shape.
    group_rows
        Rows per row group: the unit that ranks are assigned. Never more than about 64 MiB.

    Raises
    ------
    DataError
        No rows, a null, or vectors of unequal size.
    """
    if store.exists(f"{path}/_MANIFEST.json"):
        return store.manifest(path)
    prepared, specs = _prepared(df, columns)
    groups = min(group_rows or 1 << 20, rows_per_group(specs))
    with store.stage() as staging:
        write = partial(_write_partition, root=store.root, folder=staging.path, columns=specs, group_rows=groups)
        files = _in_hash_order(prepared).mapInArrow(write, FILE_REPORT).collect()  # one small row per file
        if not files:
            raise DataError("there are no rows to train on")
        wanted = {file.path for file in files}
        if lost := wanted - set(store.files(staging.path)):
            raise StorageError(
                f"{len(lost)} of {len(wanted)} shards that tasks wrote to {staging.url} are not there for the driver",
                hint="the store (or checkpointDir) must be a folder that all hosts share, such as hdfs:// or s3a://",
            )
        for name in store.files(staging.path):  # what failed attempts of a task left behind
            if name.endswith(".parquet") and name not in wanted:
                store.remove(f"{staging.path}/{name}")
        extra: dict[str, Any] = {
            "columns": [spec.model_dump() for spec in specs],
            "groups": {file.path: list(file.groups) for file in files},
            "rows": sum(sum(file.groups) for file in files),
        }
        checksums = {file.path: file.sha256 for file in files}
        return store.publish(staging, path, kind="shards", fingerprint=path.rpartition("/")[2], extra=extra, checksums=checksums)[
            0
        ]


def _write_partition(batches: Iterator[Any], **where: Any) -> Iterator[Any]:
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    return write_shard(batches, partition=context.partitionId(), **where)


def _in_hash_order(df: DataFrame) -> DataFrame:
    """Place and sort rows by their own hash: the same rows give the same shards, in whatever order and partitions they arrive."""
    from pyspark.sql import functions as F

    partitions = df.sparkSession.sparkContext.defaultParallelism
    hashed = df.withColumn("_hash", F.xxhash64(*[F.col(f"`{name}`") for name in df.columns]))
    return hashed.repartition(partitions, "_hash").sortWithinPartitions("_hash").drop("_hash")


def _prepared(df: DataFrame, columns: Sequence[str]) -> tuple[DataFrame, list[Column]]:
    """Vectors to arrays, in the JVM; the width of each is taken from the first row and checked on every other."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    kinds = {field.name: field.dataType.simpleString() for field in df.schema}
    picked = []
    for name in columns:
        column = F.col(f"`{name}`")
        if kinds[name] == "vector":
            column = F.when(column.isNotNull(), vector_to_array(column, "float32"))  # of a null it raises and names no column
        elif kinds[name].startswith("array<"):
            column = column.cast("array<float>")
        picked.append(column.alias(name))
    prepared = df.select(*picked)
    tensors = [name for name in columns if kinds[name] not in _SCALARS]
    first = prepared.select(*[F.size(F.col(f"`{name}`")).alias(name) for name in tensors]).first() if tensors else None
    if tensors and first is None:
        raise DataError("there are no rows to train on")
    specs = [
        Column(name=name, dtype=_SCALARS[kinds[name]])
        if name not in tensors
        else Column(name=name, dtype=np.dtype("float32").name, shape=(_width(first, name),))
        for name in columns
    ]
    return prepared, specs


def _width(first: Any, name: str) -> int:
    if first[name] is None or first[name] < 1:
        raise DataError(f"column {name!r} is null or empty in the first row: every row needs a tensor of one shape")
    return int(first[name])
