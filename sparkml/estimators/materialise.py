"""A DataFrame as shards: read in place when it is one, written once otherwise."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sparkml.errors import DataError, StorageError
from sparkml.shards.schema import Column
from sparkml.shards.writer import FILE_REPORT, rows_per_group, write_shard
from sparkml.storage import Manifest, Store
from sparkml.storage.manifest import MANIFEST

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
_INTEGERS = frozenset({"int", "bigint", "smallint", "tinyint"})
_ARRAYS_OF_IDS = frozenset(f"array<{kind}>" for kind in _INTEGERS)
_ARRAY_OF_NUMBERS = r"array<(?:float|double|int|bigint|smallint|tinyint|decimal\(\d+,\d+\))>"


def describe(
    df: DataFrame,
    names: Sequence[str],
    *,
    tensors: Collection[str] = (),
    longest: int | None = None,
    sparse: Collection[str] | None = None,
) -> list[Column]:
    """Return how columns of a DataFrame are stored in shards.

    Numbers and strings stay as they are. Vectors and arrays of fractional numbers become float32 tensors of the first row's size;
    vectors named in `sparse` (by default those whose first row is) are stored sparse. Arrays of integers are sequences of ids,
    as long as the longest (at most `longest`), except those in `tensors`, which are numbers like the others. Integer columns get
    their largest value + 1.

    Raises
    ------
    DataError
        No rows, no such column or one of a type that no net takes, a negative id, a first row that is null or empty.
    """
    from pyspark.sql import functions as F

    kinds = {field.name: field.dataType.simpleString() for field in df.schema}
    for name in names:
        if name not in kinds:
            raise DataError(f"there is no column {name!r}, only {', '.join(kinds)}")
        if not (kinds[name] in _SCALARS or kinds[name] == "vector" or re.fullmatch(_ARRAY_OF_NUMBERS, kinds[name])):
            raise DataError(f"column {name!r} is a {kinds[name]}: shards hold numbers, strings, vectors and arrays of numbers")
    ids = [name for name in names if kinds[name] in _ARRAYS_OF_IDS and name not in tensors]
    wide = [name for name in names if kinds[name] not in _SCALARS and name not in ids]
    sized = [_size(kinds[name], name).alias(name) for name in wide]
    sparse_kind = [F.unwrap_udt(F.col(f"`{name}`"))["type"].alias(f"type {name}") for name in wide if kinds[name] == "vector"]
    first = df.select(*sized, *sparse_kind).first() if wide else None
    if wide and first is None:
        raise DataError("there are no rows to train on")
    if sparse is None:
        sparse = {name for name in wide if kinds[name] == "vector" and first is not None and first[f"type {name}"] == 0}
    found = _facts(df, kinds, ids, list(sparse), [name for name in names if kinds[name] in _INTEGERS])
    specs = []
    for name in names:
        if name in ids:
            most = max(1, found[f"most {name}"] or 1)
            length = min(most, longest) if longest else most
            facts = {"stored_bytes": 4 * math.ceil(found[f"mean {name}"] or 1), "vocabulary": (found[f"max {name}"] or 0) + 1}
            if (found[f"min {name}"] or 0) < 0:
                raise DataError(f"column {name!r} holds the id {found[f'min {name}']}: ids are not negative, and 0 is padding")
            specs.append(Column(name=name, dtype="int32", shape=(length,), kind="ids", **facts))
        elif name in sparse:
            width = 8 * math.ceil(found[f"mean {name}"] or 1)
            specs.append(Column(name=name, dtype="float32", shape=(_width(first, name),), kind="sparse", stored_bytes=width))
        elif name in wide:
            specs.append(Column(name=name, dtype="float32", shape=(_width(first, name),)))
        else:
            least, vocabulary = found.get(f"min {name}") or 0, (found.get(f"max {name}") or 0) + 1
            specs.append(
                Column(
                    name=name, dtype=_SCALARS[kinds[name]], vocabulary=vocabulary if least >= 0 and f"max {name}" in found else 0
                )
            )
    return specs


def in_place(df: DataFrame) -> tuple[str, Manifest] | None:
    """Return the URL and the manifest of published shards if the frame is their plain scan, at most with columns left out.

    Any other frame, a filtered one too, gives None.
    """
    plan = df._jdf.queryExecution().analyzed()
    while plan.nodeName() == "Project" and all(
        plan.expressions().apply(at).getClass().getSimpleName() == "AttributeReference" for at in range(plan.expressions().size())
    ):
        plan = plan.children().head()
    if plan.nodeName() != "LogicalRelation":
        return None
    files = {unquote(file) for file in df.inputFiles()}
    folders = {file.rpartition("/")[0] for file in files}
    if len(folders) != 1 or len(files) != len(plan.relation().location().inputFiles()):  # the latter: some are read twice
        return None
    (folder,) = folders
    store = Store(folder)
    if not store.exists(MANIFEST):
        return None
    manifest = store.manifest("")
    whole = {file.path for file in manifest.files} == {file.rpartition("/")[2] for file in files}
    return (store.root, manifest) if manifest.kind == "shards" and whole else None


def as_shards(
    df: DataFrame,
    store: Store,
    path: str,
    columns: Sequence[str] | Sequence[Column],
    group_rows: int | None = None,
    partitions: int | None = None,
    *,
    finite: bool = False,
) -> Manifest:
    """Write columns of a DataFrame as shards at `path` unless they are there, and return the manifest.

    Parameters
    ----------
    columns
        What `describe` returned, or names for it.
    group_rows
        Rows per row group: the unit that ranks are assigned. Never more than about 64 MiB.
    partitions
        Number of files; by default one per slot of the cluster.
    finite
        Refuse numbers that are NaN or infinite.

    Raises
    ------
    DataError
        No rows, a null, a number that is not finite, or vectors of unequal size.
    """
    if store.exists(f"{path}/_MANIFEST.json"):
        return store.manifest(path)
    specs = [column if isinstance(column, Column) else describe(df, [column])[0] for column in columns]
    prepared = df.select(*(handed_over(df, spec) for spec in specs))
    groups = min(group_rows or 1 << 20, rows_per_group(specs))
    with store.stage() as staging:
        write = partial(_write_partition, root=store.root, folder=staging.path, columns=specs, group_rows=groups, finite=finite)
        files = _in_hash_order(prepared, partitions).mapInArrow(write, FILE_REPORT).collect()  # one small row per file
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


def _in_hash_order(df: DataFrame, partitions: int | None) -> DataFrame:
    """Place and sort rows by their own hash: the same rows give the same shards, in whatever order and partitions they arrive."""
    from pyspark.sql import functions as F

    count = partitions or df.sparkSession.sparkContext.defaultParallelism
    hashed = df.withColumn("_hash", F.xxhash64(*[F.col(f"`{name}`") for name in df.columns]))
    return hashed.repartition(count, "_hash").sortWithinPartitions("_hash").drop("_hash")


def _size(kind: str, name: str) -> Any:
    from pyspark.sql import functions as F

    column = F.col(f"`{name}`")
    if kind != "vector":
        return F.size(column)
    vector = F.unwrap_udt(column)
    return F.coalesce(vector["size"], F.size(vector["values"]))


def _facts(df: DataFrame, kinds: dict[str, str], ids: list[str], sparse: list[str], integers: list[str]) -> dict[str, Any]:
    """Look once at all rows for what the columns of ids and the sparse ones need."""
    from pyspark.sql import functions as F

    asked = []
    for name in ids:
        column = F.col(f"`{name}`")
        asked += [F.max(F.size(column)).alias(f"most {name}"), F.avg(F.size(column)).alias(f"mean {name}")]
        asked += [F.max(F.array_max(column)).alias(f"max {name}"), F.min(F.array_min(column)).alias(f"min {name}")]
    for name in sparse:
        asked.append(F.avg(F.size(F.unwrap_udt(F.col(f"`{name}`"))["values"])).alias(f"mean {name}"))
    for name in integers:
        asked += [F.max(F.col(f"`{name}`")).alias(f"max {name}"), F.min(F.col(f"`{name}`")).alias(f"min {name}")]
    row = df.agg(*asked).first() if asked else None
    return row.asDict() if row is not None else {}


def handed_over(df: DataFrame, spec: Column) -> Any:
    """Return the Spark column that a task hands to `to_arrow`; vectors become arrays or structs in the JVM."""
    from pyspark.ml.functions import array_to_vector, vector_to_array
    from pyspark.sql import functions as F

    column = F.col(f"`{spec.name}`")
    kind = df.schema[spec.name].dataType.simpleString()
    if kind == "binary":
        pass  # of a scan of shards: it is stored already
    elif spec.kind == "ids":
        column = column.cast("array<int>")
    elif spec.kind == "sparse":
        vector = F.unwrap_udt(column) if kind == "vector" else F.unwrap_udt(array_to_vector(column))
        every = F.sequence(F.lit(0), F.lit(spec.shape[0] - 1))
        parts = F.struct(
            F.coalesce(vector["size"], F.size(vector["values"])).alias("size"),
            F.coalesce(vector["indices"], F.slice(every, 1, F.size(vector["values"]))).alias("indices"),
            vector["values"].alias("values"),
        )
        column = F.when(column.isNotNull(), parts)
    elif kind == "vector":
        column = F.when(
            column.isNotNull(), vector_to_array(column, "float64" if spec.dtype == "float64" else "float32")
        )  # of a null it raises and names no column
    elif spec.shape:
        column = column.cast("array<double>" if spec.dtype == "float64" else "array<float>")
    return column.alias(spec.name)


def _width(first: Any, name: str) -> int:
    if first[name] is None or first[name] < 1:
        raise DataError(f"column {name!r} is null or empty in the first row: every row needs a tensor of one shape")
    return int(first[name])
