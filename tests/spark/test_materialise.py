"""A DataFrame as shards: the same rows whatever their order, and refusals a user can act on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DoubleType, IntegerType, StructType

from sparkml.errors import DataError
from sparkml.estimators.materialise import as_shards, describe, in_place
from sparkml.flow.faults import explained
from sparkml.shards.reader import ShardReader, ShardSet
from sparkml.storage import Store

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def frame(spark: SparkSession, rows: int = 500) -> DataFrame:
    random = np.random.default_rng(5)
    values = random.normal(size=(rows, 4)).astype(np.float32)
    return spark.createDataFrame(
        [(n, Vectors.dense(values[n]), float(n % 3), f"row {n}") for n in range(rows)],
        StructType().add("id", "long").add("x", VectorUDT()).add("y", "double").add("name", "string"),
    )


def read(store: Store, path: str) -> dict[str, Any]:
    url = store.url(path)
    batches = list(ShardReader(url, ShardSet.open(url).groups).batches(100))
    return {name: np.concatenate([found[name] for found in batches]) for name in batches[0]}


def test_values_are_those_of_the_frame(spark: SparkSession, tmp_path: Path) -> None:
    df = frame(spark)
    store = Store(str(tmp_path))
    manifest = as_shards(df, store, "shards/a", ["id", "x", "y", "name"], group_rows=64)
    assert manifest.extra["rows"] == 500
    found = read(store, "shards/a")
    order = np.argsort(found["id"])
    wanted = df.orderBy("id").toPandas()
    np.testing.assert_array_equal(found["x"][order], np.stack([row.toArray() for row in wanted["x"]]).astype(np.float32))
    np.testing.assert_array_equal(found["y"][order], wanted["y"])
    assert list(found["name"][order]) == list(wanted["name"])
    store.verify("shards/a")


def test_the_order_of_rows_is_their_hash_not_their_arrival(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    as_shards(frame(spark), store, "shards/a", ["id", "x"], group_rows=64)
    as_shards(frame(spark).orderBy("y", "id").repartition(5), store, "shards/b", ["id", "x"], group_rows=64)
    np.testing.assert_array_equal(read(store, "shards/a")["id"], read(store, "shards/b")["id"])


def test_shards_that_are_there_are_not_written_again(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = as_shards(frame(spark), store, "shards/a", ["id", "x"])
    again = as_shards(frame(spark, 3), store, "shards/a", ["id", "x"])
    assert again.model_dump_json() == first.model_dump_json()


def failing(spark: SparkSession, kind: str) -> DataFrame:
    rows: dict[str, tuple[list[Any], Any]] = {
        "no rows": ([], StructType().add("x", VectorUDT())),
        "null vector": ([(Vectors.dense([1.0, 2.0]),), (None,)], StructType().add("x", VectorUDT())),
        "vectors of two sizes": (
            [(Vectors.dense([1.0, 2.0]),), (Vectors.dense([1.0]),), (Vectors.dense([1.0] * 3),)],
            StructType().add("x", VectorUDT()),
        ),
        "null element": ([([1.0, 2.0],), ([1.0, None],)], "x array<float>"),
        "null number": ([(1.0,), (None,)], "x double"),
    }
    values, schema = rows[kind]
    return spark.createDataFrame(values, schema).coalesce(1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no rows", "there are no rows to train on"),
        ("null vector", "column 'x' has 1 null values"),
        ("vectors of two sizes", "column 'x' must hold . values in every row, one holds"),
        ("null element", "column 'x' has 1 null elements"),
        ("null number", "column 'x' has 1 null values"),
    ],
)
def test_what_cannot_be_trained_on_is_named(spark: SparkSession, tmp_path: Path, kind: str, message: str) -> None:
    store = Store(str(tmp_path))
    with pytest.raises((DataError, PythonException)) as caught:
        as_shards(failing(spark, kind), store, "shards/a", ["x"])
    shown = explained(caught.value, "train.net")
    assert isinstance(shown, DataError), shown
    assert re.search(message, str(shown)), shown
    assert store.list("_staging") == []
    assert not store.exists("shards/a")


def test_a_plain_scan_of_shards_is_known(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "a b"))
    as_shards(frame(spark), store, "shards/x", ["id", "x", "y"], partitions=3)
    url = store.url("shards/x")
    scan = spark.read.parquet(url)
    for plain in (scan, scan.select("y", "x")):
        found = in_place(plain)
        assert found is not None and found[0] == url and found[1].extra["rows"] == 500
    (one, *_) = sorted((tmp_path / "a b" / "shards" / "x").glob("*.parquet"))
    for other in (
        frame(spark),
        scan.where("y > 0"),
        scan.selectExpr("x", "y + 1 as y"),
        scan.union(scan),
        spark.read.parquet(url, url),
        spark.read.parquet(str(one)),
    ):
        assert in_place(other) is None


def test_stored_values_are_handed_over_as_they_are(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = (
        frame(spark)
        .withColumn("words", F.array((F.col("id") % 7 + 1).cast("int"), F.lit(3)))
        .withColumn("s", F.col("x").alias("s"))
    )
    columns = describe(rows, ["x", "words", "s"], sparse=["s"])
    as_shards(rows, store, "first", columns)
    as_shards(spark.read.parquet(store.url("first")).where("true or rand() > 2"), store, "second", columns)
    first, second = read(store, "first"), read(store, "second")
    order, again = (np.lexsort(found["x"].T) for found in (first, second))
    for name in first:
        np.testing.assert_array_equal(first[name][order], second[name][again])


def test_ids_and_sparse_vectors_are_stored_compact(spark: SparkSession, tmp_path: Path) -> None:
    rows = [
        (0, [3, 1, 4], Vectors.sparse(5, [1, 4], [1.5, 2.5]), 2, [0.5, 1.0]),
        (1, [], Vectors.dense([1.0, 0.0, 0.0, 0.0, 9.0]), 0, [1.5, 2.0]),
        (2, [1, 5, 9, 2, 6], Vectors.sparse(5, [], []), 7, [2.5, 3.0]),
    ]
    ids, numbers = ArrayType(IntegerType()), ArrayType(DoubleType())
    schema = StructType().add("id", "long").add("ids", ids).add("v", VectorUDT()).add("c", "integer").add("t", numbers)
    df = spark.createDataFrame(rows, schema).coalesce(1)
    store = Store(str(tmp_path))
    specs = describe(df, df.columns, longest=4)
    assert [(spec.kind, spec.shape, spec.vocabulary) for spec in specs] == [
        ("plain", (), 3),
        ("ids", (4,), 10),
        ("sparse", (5,), 0),
        ("plain", (), 8),
        ("plain", (2,), 0),
    ]
    as_shards(df, store, "shards/a", specs, group_rows=2, partitions=1)
    found = read(store, "shards/a")
    order = np.argsort(found["id"])
    np.testing.assert_array_equal(found["ids"][order], [[3, 1, 4, 0], [0, 0, 0, 0], [1, 5, 9, 2]])
    np.testing.assert_array_equal(found["v"][order], [[0, 1.5, 0, 0, 2.5], [1, 0, 0, 0, 9], [0] * 5])
    np.testing.assert_array_equal(found["t"][order], [[0.5, 1], [1.5, 2], [2.5, 3]])
    assert describe(df, ["ids"], tensors={"ids"})[0].shape == (3,)


def test_columns_that_no_net_takes_are_named(spark: SparkSession) -> None:
    df = spark.sql("select map('a', 1) m, array(-1, 2) negative, array('a') words")
    with pytest.raises(DataError, match=r"column 'm' is a map<string,int>: shards hold numbers"):
        describe(df, ["m"])
    with pytest.raises(DataError, match=r"'words' is a array<string>"):
        describe(df, ["words"])
    with pytest.raises(DataError, match=r"'negative' holds the id -1"):
        describe(df, ["negative"])
    with pytest.raises(DataError, match=r"no column 'nothing', only m, negative, words"):
        describe(df, ["nothing"])
