"""Linear models fitted straight from Parquet files: which frames are read in place, and that nothing else changes by it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.ml import Pipeline
from pyspark.ml import classification as mllib
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkml.errors import DataError, StorageError
from sparkml.estimators import CrossValidator, LinearRegression, LogisticRegression
from sparkml.estimators.linear_data import LinearRows
from sparkml.estimators.plain_parquet import plain_parquet
from sparkml.storage import Store

ROWS, FILES, FEATURES = 48_000, 10, ["x0", "x1", "x2", "x3"]


def content() -> pa.Table:
    random = np.random.default_rng(11)
    x = random.normal(size=(ROWS, 3)) * [1, 3, 0.2] + [0, 1, 0]
    count = random.integers(0, 5, ROWS)
    margin = x @ [1.0, -0.4, 2.0] - 0.3 * count + 0.5
    return pa.table(
        {
            "id": np.arange(ROWS),
            "x0": x[:, 0],
            "x1": x[:, 1].astype(np.float32),
            "x2": x[:, 2],
            "x3": count.astype(np.int32),
            "small": count.astype(np.int8),
            "flag": count > 2,
            "bought": (random.random(ROWS) < 1 / (1 + np.exp(-margin))).astype(np.int32),
            "value": margin + random.normal(size=ROWS),
            "weight": random.integers(1, 4, ROWS).astype(np.float32),
            "part": random.integers(0, 4, ROWS).astype(np.int32),
            "name": [f"row {at % 7}" for at in range(ROWS)],
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> str:
    """Files as Spark writes them: snappy and dictionaries, one row group each."""
    raw, path = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("a b") / "rows"
    pq.write_table(content(), raw / "rows.parquet")
    spark.read.parquet(str(raw)).repartition(FILES, "id").write.parquet(str(path))
    return str(path)


@pytest.fixture(scope="module")
def rows(spark: SparkSession, folder: str) -> DataFrame:
    return spark.read.parquet(folder)


def assembled(rows: DataFrame, names: list[str] | None = None) -> DataFrame:
    return VectorAssembler(inputCols=names or FEATURES, outputCol="features").transform(rows)


def plain(frame: DataFrame, *numbers: str) -> bool:
    return plain_parquet(frame, "features", numbers or ("bought",)) is not None


def fit(frame: DataFrame, **params: Any) -> Any:
    return LogisticRegression(verbose=False, labelCol="bought", **params).fit(frame)


def solution(model: Any) -> Any:
    return np.append(model.coefficients.toArray(), model.intercept)


def written(frame: DataFrame) -> DataFrame:
    """The same rows, which have to be written as shards."""
    return frame.where("rand(1) < 2")


IN_PLACE: dict[str, tuple[Callable[[DataFrame], DataFrame], dict[str, Any]]] = {
    "a VectorAssembler": (assembled, {}),
    "an array": (lambda rows: rows.withColumn("features", F.array(*FEATURES)), {}),
    "an array of casts": (
        lambda rows: rows.select(F.array(F.col("small").cast("float"), "x1").alias("features"), "bought"),
        {},
    ),
    "integers and flags": (lambda rows: assembled(rows, ["small", "flag", "x1"]), {}),
    "a weight": (assembled, {"weightCol": "weight"}),
    "a renamed label, cast": (
        lambda rows: assembled(rows.withColumn("label", F.col("bought").cast("long").cast("double"))).drop("bought"),
        {"labelCol": "label"},
    ),
    "renamed features": (lambda rows: assembled(rows.selectExpr("x0 as a", "x1 as `b c`", "bought"), ["a", "b c"]), {}),
    "columns one after another": (
        lambda rows: (
            assembled(rows.withColumn("a", F.col("x0")).withColumn("b", F.col("a")).withColumn("z", F.lit(1)), ["b", "x1"])
            .withColumnRenamed("features", "f")
            .withColumn("features", F.col("f"))
            .drop("f", "name")
        ),
        {},
    ),
    "a view": (
        lambda rows: (rows.createOrReplaceTempView("rows_in_place"), assembled(rows.sparkSession.table("rows_in_place")))[1],
        {},
    ),
    "invalid values kept": (
        lambda rows: VectorAssembler(inputCols=FEATURES, outputCol="features", handleInvalid="keep").transform(rows),
        {},
    ),
    "a cast of a feature's own": (lambda rows: assembled(rows.withColumn("x3", F.col("x3").cast("double"))), {}),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_the_same_coefficients_as_from_shards(rows: DataFrame, case: str) -> None:
    make, params = IN_PLACE[case]
    frame = make(rows)
    assert plain(frame, params.get("labelCol", "bought"), *([params["weightCol"]] if "weightCol" in params else []))
    mine, wanted = (
        LogisticRegression(verbose=False, **{"labelCol": "bought", **params}).fit(it) for it in (frame, written(frame))
    )
    np.testing.assert_allclose(solution(mine), solution(wanted), rtol=1e-9, atol=1e-12)
    assert mine.names == wanted.names


def test_a_pipeline_and_what_it_predicts(rows: DataFrame) -> None:
    stages = [VectorAssembler(inputCols=FEATURES, outputCol="features"), LinearRegression(labelCol="value", verbose=False)]
    mine, wanted = (Pipeline(stages=stages).fit(frame) for frame in (rows, written(rows)))
    np.testing.assert_allclose(solution(mine.stages[1]), solution(wanted.stages[1]), rtol=1e-9)
    assert mine.transform(rows).selectExpr("avg(abs(prediction - value)) < 1").first()[0]


def test_folds_and_several_labels(rows: DataFrame) -> None:
    frame = assembled(rows.withColumn("flagged", F.col("flag").cast("int")), ["x0", "x1"])
    assert plain(frame, "bought", "flagged", "part")
    both = LogisticRegression(verbose=False)
    maps = [{both.labelCol: "bought"}, {both.labelCol: "flagged"}]
    for mine, wanted in zip(both.fit(frame, maps), both.fit(written(frame), maps), strict=True):
        np.testing.assert_allclose(solution(mine), solution(wanted), rtol=1e-9, atol=1e-12)
    one = LogisticRegression(labelCol="bought", verbose=False)
    grid = [{one.regParam: 0.1}, {one.regParam: 0.001}]
    search = CrossValidator(estimator=one, estimatorParamMaps=grid, numFolds=4, foldCol="part")
    np.testing.assert_allclose(search.fit(frame).avgMetrics, search.fit(written(frame)).avgMetrics, rtol=1e-9)


@pytest.mark.parametrize("by", ["bought", "x0"])
def test_files_that_are_sorted_by_a_column(spark: SparkSession, tmp_path: Path, by: str) -> None:
    """A sample of row groups is then nothing like all rows: of one class, or of a narrow range."""
    pq.write_table(content().sort_by(by), tmp_path / "rows.parquet", row_group_size=ROWS // FILES)
    frame = assembled(spark.read.parquet(str(tmp_path)))
    assert plain(frame)
    for params in ({}, {"solver": "l-bfgs"}, {"maxMemoryInMB": 1}):
        mine, wanted = fit(frame, **params), fit(written(frame), **params)
        assert mine.history["converged"] and not mine.history["warnings"]
        np.testing.assert_allclose(solution(mine), solution(wanted), rtol=0, atol=2e-6)


def test_two_ranks_give_the_bits_of_one_and_nothing_is_written_but_the_manifest(
    rows: DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = assembled(rows)
    with caplog.at_level(logging.INFO, "sparkml"):
        models = [fit(frame, numProc=count, checkpointDir=str(tmp_path)) for count in (1, 2)]
    assert solution(models[0]).tobytes() == solution(models[1]).tobytes()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["_MANIFEST.json"], "one, for both"
    assert re.search(rf"reads {FILES} row groups of file://.*/a b0/rows in place", caplog.text)
    (place,) = tmp_path.glob("shards/plain-*")
    assert Store(str(place)).verify("").kind == "shards"


def test_float_columns_are_worked_on_as_floats_and_doubles_as_doubles(rows: DataFrame) -> None:
    for names, kind in ((["x1", "small", "flag"], "float32"), (["x0", "x1"], "float64"), (["x1", "x3"], "float64")):
        assert LinearRows(assembled(rows, names), "features", ["bought"]).columns[0].dtype == kind


def test_the_number_of_classes_is_found_without_statistics(spark: SparkSession, tmp_path: Path) -> None:
    table = content()
    for at in range(FILES):
        part = table.slice(at * ROWS // FILES, ROWS // FILES)
        pq.write_table(part, tmp_path / f"{at}.parquet", write_statistics=False)
    frame = assembled(spark.read.parquet(str(tmp_path)))
    found = LinearRows(frame, "features", ["part"])
    assert plain(frame, "part") and found.most("part") == 3
    assert fit(frame, maxIter=3).numClasses == 2


def partitioned(rows: DataFrame, folder: str) -> DataFrame:
    path = f"{folder}-by-part"
    rows.write.mode("overwrite").partitionBy("part").parquet(path)
    return rows.sparkSession.read.parquet(path)


def grouped(folder: str, sizes: list[int]) -> str:
    """Write the rows in row groups of these sizes, and return the folder, or the one that has it as a partition."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    table, start = content(), 0
    with pq.ParquetWriter(f"{folder}/rows.parquet", table.schema) as writer:
        for size in sizes:
            writer.write_table(table.slice(start, size))
            start += size
    return folder.partition("/part=")[0]


WRITTEN: dict[str, Callable[[DataFrame, str], DataFrame]] = {
    "a filter": lambda rows, _: assembled(rows.where("x0 > 0")),
    "a filter of nulls": lambda rows, _: VectorAssembler(
        inputCols=FEATURES, outputCol="features", handleInvalid="skip"
    ).transform(rows),
    "a join": lambda rows, _: assembled(rows.join(rows.select(F.col("id").alias("other")), F.col("id") == F.col("other"))),
    "a limit": lambda rows, _: assembled(rows.limit(40_000)),
    "a sample": lambda rows, _: assembled(rows.sample(0.9, seed=1)),
    "files that are read twice": lambda rows, folder: assembled(rows.sparkSession.read.parquet(folder, folder)),
    "a union": lambda rows, _: assembled(rows.union(rows)),
    "distinct rows": lambda rows, _: assembled(rows.distinct()),
    "a computed feature": lambda rows, _: assembled(rows.withColumn("x0", F.col("x0") * 2)),
    "a computed label": lambda rows, _: assembled(rows.withColumn("bought", 1 - F.col("bought"))),
    "a label that is cut off": lambda rows, _: assembled(rows.withColumn("bought", (F.col("value") / 99 + 1).cast("int"))),
    "a feature that is cut off": lambda rows, _: assembled(rows.withColumn("x0", F.col("x0").cast("int"))),
    "a feature made narrower": lambda rows, _: assembled(rows.withColumn("x0", F.col("x0").cast("float"))),
    "a constant feature": lambda rows, _: rows.withColumn("features", F.array("x0", F.lit(0.5))),
    "a label that is asserted": lambda rows, _: assembled(
        rows.withColumn("bought", F.when(F.assert_true(F.col("bought") >= 0).isNull(), F.col("bought")))
    ),
    "a partition's column": lambda rows, folder: assembled(partitioned(rows, folder), ["x0", "part"]),
    "a column of the files that is a partition's": lambda rows, folder: assembled(
        rows.sparkSession.read.parquet(grouped(f"{folder}-both/part=9", [4800] * 10)), ["x0", "part"]
    ),
    "one large row group": lambda rows, folder: assembled(
        rows.sparkSession.read.parquet(grouped(f"{folder}-one", [4600] * 7 + [15_800]))
    ),
    "small row groups": lambda rows, folder: assembled(rows.sparkSession.read.parquet(grouped(f"{folder}-small", [4000] * 12))),
    "decimals": lambda rows, _: assembled(rows.withColumn("x0", F.col("x0").cast("decimal(12,6)"))),
    "numbers in text": lambda rows, _: assembled(rows.withColumn("x0", F.col("id").cast("string").cast("double") / 1e4)),
    "two assemblers": lambda rows, _: VectorAssembler(inputCols=["first", "x1"], outputCol="features").transform(
        VectorAssembler(inputCols=["x0", "x2"], outputCol="first").transform(rows)
    ),
    "an explosion": lambda rows, _: assembled(rows.withColumn("twice", F.explode(F.array("x0", "x1")))),
    "rows in a cache": lambda rows, _: assembled(rows).cache(),
    "rows of another format": lambda rows, folder: (
        rows.write.mode("overwrite").orc(f"{folder}-orc"),
        assembled(rows.sparkSession.read.orc(f"{folder}-orc")),
    )[1],
    "few row groups": lambda rows, folder: (
        rows.repartition(7).write.mode("overwrite").parquet(f"{folder}-few"),
        assembled(rows.sparkSession.read.parquet(f"{folder}-few")),
    )[1],
    "a type that the files do not have": lambda rows, folder: assembled(
        rows.sparkSession.read.schema("x0 double, x1 double, bought int").parquet(folder), ["x0", "x1"]
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_other_frames_are_written_and_give_what_mllib_gives(rows: DataFrame, folder: str, case: str) -> None:
    frame = WRITTEN[case](rows, folder)
    assert not plain(frame)
    if case in ("a filter of nulls", "a partition's column", "a computed feature", "decimals", "few row groups"):
        theirs = mllib.LogisticRegression(labelCol="bought", tol=1e-12).fit(frame)
        np.testing.assert_allclose(solution(fit(frame, tol=1e-9)), solution(theirs), rtol=1e-4, atol=1e-6)
    frame.unpersist()


def test_partitions_whose_columns_are_not_needed_are_read_in_place(rows: DataFrame, folder: str) -> None:
    parts = partitioned(rows.withColumn("other", F.col("part")), folder)
    frame = assembled(parts.where("true"))
    assert not plain(frame)
    frame = assembled(parts)
    assert plain(frame) and plain(frame, "other") and not plain(frame, "part")
    np.testing.assert_allclose(solution(fit(frame)), solution(fit(assembled(rows))), rtol=1e-9)


def test_files_that_lack_a_column_are_left_to_spark(spark: SparkSession, folder: str, tmp_path: Path) -> None:
    for at in range(FILES):
        part = content().slice(at * ROWS // FILES, ROWS // FILES)
        pq.write_table(part if at else part.drop_columns(["x3"]), tmp_path / f"{at}.parquet")
    frame = assembled(spark.read.schema(spark.read.parquet(folder).schema).parquet(str(tmp_path)))
    assert not plain(frame)
    with pytest.raises(Exception, match=r"null"):
        fit(frame)


BAD = {
    "a null feature": ("x1", None, r"column 'x1' has 3 null values\s+-> impute or filter them"),
    "a null label": ("bought", None, r"column 'bought' has 3 null values"),
    "a feature that is NaN": ("x1", float("nan"), r"column 'x1': feature 1 is NaN or infinite in 3 of \d+ rows"),
    "an infinite feature": ("x0", float("inf"), r"column 'x0': feature 0 is NaN or infinite in 3 of \d+ rows"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_no_model_takes_is_named(spark: SparkSession, tmp_path: Path, case: str, ranks: int) -> None:
    name, value, message = BAD[case]
    table = content()
    column = table[name].to_pylist()
    column[30_000:30_003] = [value] * 3
    at = table.schema.get_field_index(name)
    pq.write_table(
        table.set_column(at, name, pa.array(column, table.schema.field(at).type)), tmp_path / "rows.parquet", row_group_size=4800
    )
    frame = assembled(spark.read.parquet(str(tmp_path)))
    assert plain(frame)
    with pytest.raises(DataError, match=message):
        fit(frame, numProc=ranks)


def test_a_file_that_changes_under_the_fit_is_named(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(content(), tmp_path / "rows.parquet", row_group_size=ROWS // FILES)
    frame = assembled(spark.read.parquet(str(tmp_path)))
    publish = Store.publish

    def changed(self: Store, *arguments: Any, **named: Any) -> Any:
        found = publish(self, *arguments, **named)
        pq.write_table(content().slice(1), tmp_path / "rows.parquet", row_group_size=ROWS // FILES)
        return found

    monkeypatch.setattr(Store, "publish", changed)
    with pytest.raises(StorageError, match=r"rows.parquet is not the file that its manifest describes"):
        fit(frame)
