"""Parquet and IDX files: exact rows, and damaged or drifted files refused with the file and column by name."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chispa import assert_df_equality

from sparkml.errors import DataError
from sparkml.ingest.source import ReadContext
from sparkml.ingest.sources.idx_images import IdxImages
from sparkml.ingest.sources.parquet import Parquet
from sparkml.ingest.stage import ingest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COLUMNS = {"id": "bigint", "age": "double", "name": "string", "day": "date", "price": "decimal(10,2)", "tags": "array<string>"}


def table(**changed: Any) -> pa.Table:
    columns: dict[str, Any] = {
        "id": pa.array([1, 2], pa.int64()),
        "age": pa.array([1.5, None], pa.float64()),
        "name": pa.array(["a", "ü"]),
        "day": pa.array([0, 20_000], pa.date32()),
        "price": pa.array([1, 2], pa.int64()).cast(pa.decimal128(21, 2)).cast(pa.decimal128(10, 2)),
        "tags": pa.array([["x"], []], pa.list_(pa.string())),
    }
    columns.update(changed)
    return pa.table({name: values for name, values in columns.items() if values is not None})


def take(spark: SparkSession, source: Any, folder: Path) -> DataFrame:
    target = f"file://{folder}/rows"
    ingest(source, ReadContext(spark=spark, scratch_url=f"file://{folder}/scratch"), target)
    return spark.read.parquet(target)


def parquet(path: Path, **options: Any) -> Parquet:
    return Parquet(Parquet.Options.model_validate({"path": [str(path)], "columns": COLUMNS, **options}))


def test_parquet_rows_are_the_files_rows(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(table(), tmp_path / "in" / "a.parquet")
    pq.write_table(table().select(["tags", "price", "day", "name", "age", "id"]), tmp_path / "in" / "b.parquet")  # another order
    found = take(spark, parquet(tmp_path / "in"), tmp_path / "out")
    wanted = spark.read.parquet(str(tmp_path / "in" / "a.parquet")).unionByName(
        spark.read.parquet(str(tmp_path / "in" / "a.parquet"))
    )
    assert_df_equality(found.drop("_corrupt", "_file"), wanted, ignore_row_order=True)
    assert {row["_file"] for row in found.collect()} == {"a.parquet", "b.parquet"}


DRIFTED = {
    "renamed": ({"age": None, "aeg": pa.array([1.0, 2.0])}, ["age is missing (did you mean 'aeg'", "aeg is not declared"]),
    "retyped": ({"age": pa.array(["1", "2"])}, ["age is string, declared double"]),
    "narrowed": ({"id": pa.array([1, 2], pa.int32())}, ["id is int, declared bigint"]),
    "extra": ({"more": pa.array([1, 2])}, ["more is not declared"]),
    "missing": ({"tags": None}, ["tags is missing"]),
}


@pytest.mark.parametrize(("changed", "messages"), DRIFTED.values(), ids=DRIFTED.keys())
def test_one_drifted_file_among_good_ones_stops_the_run(
    spark: SparkSession, tmp_path: Path, changed: dict[str, Any], messages: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(table(), tmp_path / "in" / "good.parquet")
    pq.write_table(table(**changed), tmp_path / "in" / "drifted.parquet")
    with pytest.raises(DataError) as caught:
        take(spark, parquet(tmp_path / "in"), tmp_path / "out")
    for message in messages:
        assert f"drifted.parquet: {message}" in str(caught.value)
    assert "good.parquet" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_extra_columns_are_dropped_only_when_told_to(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(table(more=pa.array([1, 2])), tmp_path / "a.parquet")
    found = take(spark, parquet(tmp_path / "a.parquet", drop_undeclared=True), tmp_path / "out")
    assert found.columns == [*COLUMNS, "_corrupt", "_file"]


def test_what_is_not_parquet_is_said_so(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("id,age\n1,2\n")
    with pytest.raises(DataError, match=r"a\.parquet is not a whole Parquet file"):
        take(spark, parquet(tmp_path / "a.parquet"), tmp_path / "out")
    whole = tmp_path / "b.parquet"
    pq.write_table(table(), whole)
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"b\.parquet is not a whole Parquet file"):
        take(spark, parquet(whole), tmp_path / "out")


# --- IDX ---

PIXELS = np.random.default_rng(1).integers(0, 256, (2500, 4, 3), dtype=np.uint8)
LABELS = np.random.default_rng(2).integers(0, 10, 2500, dtype=np.uint8)


def idx(values: np.ndarray[Any, Any]) -> bytes:
    return b"\x00\x00\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(folder: Path, part: str, first: int, last: int, *, packed: bool = True) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    images, labels = folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte"
    for path, values in ((images, PIXELS[first:last]), (labels, LABELS[first:last])):
        path.write_bytes(idx(values))
        if packed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return (images.with_name(f"{images.name}.gz"), labels.with_name(f"{labels.name}.gz")) if packed else (images, labels)


def idx_source(folder: Path, **options: Any) -> IdxImages:
    return IdxImages(IdxImages.Options.model_validate({"path": [str(folder)], "images_per_task": 700, **options}))


def test_every_image_and_label_is_read(spark: SparkSession, tmp_path: Path) -> None:
    write_idx(tmp_path / "in", "train", 0, 2000)
    write_idx(tmp_path / "in", "t10k", 2000, 2500, packed=False)
    (tmp_path / "in" / "LICENSE").write_text("MIT")  # other files in the folder do no harm
    rows = take(spark, idx_source(tmp_path / "in"), tmp_path / "out").orderBy("part", "id").collect()
    wanted = np.concatenate([PIXELS[2000:], PIXELS[:2000]])  # parts in the order of their names: t10k, train
    assert [row["id"] for row in rows] == list(range(2500))
    assert b"".join(bytes(row["image"]) for row in rows) == wanted.tobytes()
    assert [row["label"] for row in rows] == [*LABELS[2000:].tolist(), *LABELS[:2000].tolist()]
    assert {(row["height"], row["width"]) for row in rows} == {(4, 3)}
    assert {row["_file"] for row in rows} == {"train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"}


def _truncated_gzip(images: Path, labels: Path) -> None:
    images.write_bytes(images.read_bytes()[:-500])


def _damaged_gzip(images: Path, labels: Path) -> None:
    data = bytearray(images.read_bytes())
    data[-6] ^= 1  # in the checksum
    images.write_bytes(data)


def _fewer_labels(images: Path, labels: Path) -> None:
    labels.write_bytes(gzip.compress(idx(LABELS[:1999])))


def _cut_before_compressing(images: Path, labels: Path) -> None:
    images.write_bytes(gzip.compress(idx(PIXELS[:2000])[:-7]))


def _too_long(images: Path, labels: Path) -> None:
    labels.write_bytes(gzip.compress(idx(LABELS[:2000]) + b"\x01"))


def _not_idx(images: Path, labels: Path) -> None:
    images.write_bytes(gzip.compress(b"\x89PNG" + bytes(100)))


def _no_labels(images: Path, labels: Path) -> None:
    labels.unlink()


DAMAGED = {
    _truncated_gzip: r"train-images.*: the compressed file is truncated or damaged",
    _damaged_gzip: r"train-images.*: the compressed file is truncated or damaged",
    _fewer_labels: r"train-images.* has 2,000 images, .*train-labels.* has 1,999 labels",
    _cut_before_compressing: r"train-images.* ends too early: 7 bytes are missing",
    _too_long: r"train-labels.* is longer than its header says",
    _not_idx: r"train-images.* is not an IDX file of 3 dimensions of bytes: it starts with 89 50 4e 47",
    _no_labels: r"train-images.* has no labels file beside it",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.items(), ids=[item.__name__.strip("_") for item in DAMAGED])
def test_damaged_idx_files_are_named(spark: SparkSession, tmp_path: Path, damage: Any, message: str) -> None:
    damage(*write_idx(tmp_path / "in", "train", 0, 2000))
    with pytest.raises(DataError, match=message):
        take(spark, idx_source(tmp_path / "in"), tmp_path / "out")


def test_a_folder_without_idx_files(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match="none of 1 files is named like an IDX file"):
        take(spark, idx_source(tmp_path), tmp_path / "out")


def test_fashion_mnist_has_the_published_statistics(spark: SparkSession, tmp_path: Path, shared_data: Path) -> None:
    """Mean and standard deviation of the training pixels as Zalando published them: 0.28604 and 0.35302."""
    rows = take(spark, IdxImages(IdxImages.Options(path=[str(shared_data / "fashion-mnist")])), tmp_path / "out")
    counts = {(row["part"], row["label"]): row["count"] for row in rows.groupBy("part", "label").count().collect()}
    assert counts == {**{("train", n): 6000 for n in range(10)}, **{("t10k", n): 1000 for n in range(10)}}
    pixels = np.frombuffer(b"".join(row["image"] for row in rows.where("part = 'train'").select("image").collect()), np.uint8)
    assert pixels.mean() / 255 == pytest.approx(0.28604, abs=5e-6)
    assert pixels.std() / 255 == pytest.approx(0.35302, abs=5e-6)
