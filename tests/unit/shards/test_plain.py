"""Parquet files that others wrote, read in place: the batches are those of stored shards, and what no shard holds is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkml.errors import DataError, StorageError
from sparkml.shards.reader import ShardReader, ShardSet
from sparkml.shards.schema import Column
from sparkml.shards.writer import write_shard
from sparkml.storage import FileEntry, Store

COLUMNS = [
    Column(name="x", dtype="float32", shape=(4,), parts=("a", "b", "c", "d")),
    Column(name="y", dtype="float64", parts=("d",)),
]
ROWS, GROUP = 300, 40
KINDS = {"a": np.float32, "b": np.int16, "c": np.int8, "d": np.bool_}


def table(rows: int = ROWS) -> pa.Table:
    """Return columns of several types, one that nobody asks for among them, and the label not last."""
    random = np.random.default_rng(3)
    values = {name: (random.normal(size=rows) * 5).astype(kind) for name, kind in KINDS.items()}
    return pa.table({"text": [str(at) for at in range(rows)], **values})


def publish(folder: str, root: str, columns: list[Column], content: pa.Table, **layout: Any) -> str:
    """Write a table as two files, one in a folder of its own, and the manifest of a set that lies there."""
    there, store = Store(root), Store(folder)
    half = len(content) // 2
    files, groups = [], {}
    for path, part in (("one.parquet", content.slice(0, half)), ("k=2/two.parquet", content.slice(half))):
        with there.open(path, "wb") as file:
            pq.write_table(part, file, row_group_size=GROUP, **layout)
        files.append(FileEntry(path=path, size=there.state(path)[0], sha256=uuid4().hex * 2).model_dump())
        groups[path] = [min(GROUP, len(part) - start) for start in range(0, len(part), GROUP)]
    extra = {"columns": [column.model_dump() for column in columns], "groups": groups, "root": there.root, "files": files}
    with store.stage() as staging:
        store.publish(staging, "set", kind="shards", fingerprint="f", extra=extra)
    return store.url("set")


def stored(folder: str, content: pa.Table) -> str:
    """Write the same rows as shards, in the same files and row groups."""
    store = Store(folder)
    x = np.stack([np.array(content[name]).astype(np.float32) for name in COLUMNS[0].parts], axis=1)
    rows = pa.record_batch({"x": pa.array(x.tolist(), pa.list_(pa.float32())), "y": pa.array(np.array(content["d"], np.float64))})
    own = [column.model_copy(update={"parts": ()}) for column in COLUMNS]
    half, found = len(content) // 2, []
    with store.stage() as staging:
        for number, part in enumerate((rows.slice(half), rows.slice(0, half))):  # k=2/... sorts first
            where: dict[str, Any] = {"root": store.root, "folder": staging.path, "columns": own, "group_rows": GROUP}
            found += [row for report in write_shard(iter([part]), partition=number, **where) for row in report.to_pylist()]
        extra = {"columns": [column.model_dump() for column in own], "groups": {row["path"]: row["groups"] for row in found}}
        store.publish(staging, "stored", kind="shards", fingerprint="f", extra=extra)
    return store.url("stored")


def read(url: str, **order: Any) -> dict[str, Any]:
    batches = list(ShardReader(url, ShardSet.open(url).groups, shuffle_bytes=2500).batches(64, **order))
    return {name: np.concatenate([found[name] for found in batches]) for name in batches[0]}


@pytest.mark.parametrize("layout", [{}, {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"}])
@pytest.mark.parametrize("order", [{}, {"shuffle_seed": 7, "epoch": 3}, {"shuffle_seed": 7, "skip": 130}, {"skip": 130}])
def test_batches_are_those_of_the_same_rows_as_shards(tmp_path: Path, layout: Any, order: Any) -> None:
    folder, content = str(tmp_path), table()
    mine, wanted = (
        read(publish(folder, f"{folder}/raw", COLUMNS, content, **layout), **order),
        read(stored(folder, content), **order),
    )
    for name, values in wanted.items():
        assert mine[name].dtype == values.dtype
        np.testing.assert_array_equal(mine[name], values)
    if not order:
        np.testing.assert_array_equal(mine["y"][: ROWS // 2], np.array(content["d"])[ROWS // 2 :])


def test_row_groups_come_with_their_own_rows(tmp_path: Path) -> None:
    url, content = publish(str(tmp_path), f"{tmp_path}/raw", COLUMNS, table()), table()
    shards = ShardSet.open(url)
    for group, blocks in ShardReader(shards, shards.groups[3:]).by_group():
        start = group.index * GROUP + (ROWS // 2 if group.path.startswith("k=2") else 0)
        (block,) = blocks
        np.testing.assert_array_equal(block["x"][:, 0], np.array(content["a"])[start : start + group.rows])


def test_files_of_another_host_are_copied_by_the_columns_that_are_needed() -> None:
    mark = uuid4().hex
    url = publish(f"memory://{mark}", f"memory://{mark}/raw", COLUMNS, table())
    local = read(url)
    np.testing.assert_array_equal(local["y"], np.roll(np.array(table()["d"], np.float64), -ROWS // 2))


def test_the_largest_value_is_that_of_the_files_column(tmp_path: Path) -> None:
    columns = [COLUMNS[0], Column(name="label", dtype="float64", parts=("b",))]
    url = publish(str(tmp_path), f"{tmp_path}/raw", columns, table())
    assert ShardSet.open(url).most("label") == np.array(table()["b"]).max()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("float64", np.array([0.1, 1e300, -0.0])),
        ("float64", np.array([2**53 + 1, -5, 2**62])),  # rounded as Spark's cast rounds them, not refused
        ("float32", np.array([0.1, np.inf, np.nan], np.float32)),  # are for the learner to refuse
    ],
)
def test_values_are_cast_as_spark_casts_them(tmp_path: Path, kind: str, values: Any) -> None:
    content = pa.table({"a": np.repeat(values, 10)})
    columns = [Column(name="x", dtype=kind, shape=(2,), parts=("a", "a")), Column(name="y", dtype="float64", parts=("a",))]
    found = read(publish(str(tmp_path), f"{tmp_path}/raw", columns, content))
    np.testing.assert_array_equal(np.sort(found["x"], 0), np.sort(np.stack([content["a"]] * 2, 1).astype(kind), 0))
    np.testing.assert_array_equal(np.sort(found["y"]), np.sort(np.array(content["a"]).astype("float64")))


@pytest.mark.parametrize("order", [{}, {"shuffle_seed": 7}])
def test_a_null_is_named(tmp_path: Path, order: Any) -> None:
    content = table().set_column(3, "c", pa.array([None, None, *[1] * (ROWS - 2)], pa.int8()))
    url = publish(str(tmp_path), f"{tmp_path}/raw", COLUMNS, content)
    with pytest.raises(DataError, match=r"column 'c' has 2 null values\s+-> impute or filter them"):
        read(url, **order)


@pytest.mark.parametrize("change", ["a row less", "another size", "another column of the same size"])
def test_a_file_that_was_replaced_is_refused(tmp_path: Path, change: str) -> None:
    content, path = table(), tmp_path / "raw/one.parquet"
    url = publish(str(tmp_path), f"{tmp_path}/raw", COLUMNS, content)
    half, size = content.slice(0, ROWS // 2), path.stat().st_size
    if change == "a row less":
        half = half.slice(1)
    elif change == "another size":
        half = half.set_column(0, "text", pa.array(["longer"] * len(half)))
    else:
        half = half.rename_columns(["text", "a", "b", "c", "e"])
    pq.write_table(half, path, row_group_size=GROUP)
    assert change != "another column of the same size" or path.stat().st_size == size
    with pytest.raises(StorageError, match=r"one.parquet is not the file that its manifest describes"):
        read(url)


def test_the_store_takes_the_manifest_for_whole(tmp_path: Path) -> None:
    url = publish(str(tmp_path), f"{tmp_path}/raw", COLUMNS, table())
    assert Store(url).verify("").files == []
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["_MANIFEST.json"]
