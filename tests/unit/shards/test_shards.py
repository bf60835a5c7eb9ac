"""Shards written and read back: every row once, exact values, the same order for a seed, refusals that name the column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkml.errors import DataError, StorageError
from sparkml.shards.reader import RowGroup, ShardReader, ShardSet
from sparkml.shards.schema import Column, columns_of, schema_of, to_arrow, to_numpy
from sparkml.shards.writer import rows_per_group, write_shard
from sparkml.storage import Store

COLUMNS = [Column(name="x", dtype="float32", shape=(3,)), Column(name="y", dtype="float64"), Column(name="name", dtype="str")]


def batch(start: int, rows: int) -> pa.RecordBatch:
    numbers = np.arange(start, start + rows)
    x = [[float(n), n + 0.5, -float(n)] for n in numbers]
    return pa.RecordBatch.from_pydict(
        {"x": pa.array(x, pa.list_(pa.float32())), "y": pa.array(numbers * 2.0), "name": [f"row {n}" for n in numbers]}
    )


def publish(folder: Path | str, partitions: list[list[pa.RecordBatch]], group_rows: int = 50) -> str:
    store = Store(str(folder))
    with store.stage() as staging:
        found: list[dict[str, Any]] = []
        for number, batches in enumerate(partitions):
            where: dict[str, Any] = {"root": store.root, "folder": staging.path, "columns": COLUMNS, "group_rows": group_rows}
            for report in write_shard(iter(batches), partition=number, **where):
                found += report.to_pylist()
        extra = {"columns": [c.model_dump() for c in COLUMNS], "groups": {row["path"]: row["groups"] for row in found}}
        checksums = {row["path"]: row["sha256"] for row in found}
        store.publish(staging, "set", kind="shards", fingerprint="f", extra=extra, checksums=checksums)
    return store.url("set")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """230 rows in two files and an empty partition: groups of 50, 50, 20 and 50, 50, 10."""
    return publish(tmp_path, [[batch(0, 70), batch(70, 50)], [], [batch(120, 110)]])


def rows_of(batches: Iterator[dict[str, Any]]) -> list[float]:
    return [float(value) for found in batches for value in found["y"] / 2]


def test_every_row_comes_back_exactly(url: str) -> None:
    shards = ShardSet.open(url)
    assert [group.rows for group in shards.groups] == [50, 50, 20, 50, 50, 10]
    batches = list(ShardReader(url, shards.groups).batches(64))
    assert [len(found["y"]) for found in batches] == [64, 64, 64, 38]
    joined = {name: np.concatenate([found[name] for found in batches]) for name in ("x", "y", "name")}
    numbers = np.arange(230)
    np.testing.assert_array_equal(joined["y"], numbers * 2.0)
    np.testing.assert_array_equal(joined["x"], np.stack([numbers, numbers + 0.5, -numbers], axis=1).astype(np.float32))
    assert list(joined["name"]) == [f"row {n}" for n in numbers]


def test_the_manifest_holds_the_files_real_checksums(url: str) -> None:
    store = Store(url)
    files = store.manifest("").files
    assert len(files) == 2
    for file in files:
        with store.open(file.path) as data:
            assert hashlib.sha256(data.read()).hexdigest() == file.sha256


@pytest.mark.parametrize("size", [1, 2, 3, 7, 9])
def test_ranks_share_the_groups_without_overlap(url: str, size: int) -> None:
    shards = ShardSet.open(url)
    parts = [shards.assign(rank, size) for rank in range(size)]
    assert sorted((g.path, g.index) for part in parts for g in part) == sorted((g.path, g.index) for g in shards.groups)
    loads = [sum(group.rows for group in part) for part in parts]
    assert max(loads) - min(loads) <= 50  # greedy balancing is never off by more than the largest group
    assert parts == [shards.assign(rank, size) for rank in range(size)]


def test_shuffling_is_a_function_of_seed_and_epoch(url: str) -> None:
    reader = ShardReader(url, ShardSet.open(url).groups, shuffle_bytes=2000)
    first = rows_of(reader.batches(32, shuffle_seed=7, epoch=1))
    assert sorted(first) == list(range(230))
    assert first != list(range(230))
    assert rows_of(reader.batches(32, shuffle_seed=7, epoch=1)) == first
    assert rows_of(reader.batches(32, shuffle_seed=7, epoch=2)) != first
    assert rows_of(reader.batches(32, shuffle_seed=8, epoch=1)) != first
    assert rows_of(reader.batches(50, shuffle_seed=7, epoch=1)) == first  # the batch size does not change the order


def test_shuffled_rows_stay_whole_through_every_refill_of_the_buffer(url: str) -> None:
    reader = ShardReader(url, ShardSet.open(url).groups, shuffle_bytes=2000)  # three refills, and they differ in size
    for found in list(reader.batches(32, shuffle_seed=7)):  # all at once: none may be a view of a buffer that is filled again
        numbers = found["y"] / 2
        np.testing.assert_array_equal(found["x"], np.stack([numbers, numbers + 0.5, -numbers], axis=1).astype(np.float32))
        assert list(found["name"]) == [f"row {n:.0f}" for n in numbers]


def test_a_reader_that_is_left_early_ends_its_thread(url: str) -> None:
    import threading

    for _ in ShardReader(url, ShardSet.open(url).groups, shuffle_bytes=1).batches(8, shuffle_seed=7):
        assert [thread for thread in threading.enumerate() if thread.name == "sparkml-shards"]
        break
    assert not [thread for thread in threading.enumerate() if thread.name == "sparkml-shards"]


def test_some_columns_only(url: str) -> None:
    reader = ShardReader(url, ShardSet.open(url).groups, ["y"])
    assert {name for found in reader.batches(100) for name in found} == {"y"}
    with pytest.raises(StorageError, match=r"has no column z; it has x, y, name"):
        ShardReader(url, [], ["z"])


def test_no_groups_no_rows(url: str) -> None:
    assert list(ShardReader(url, []).batches(10)) == []
    assert list(ShardReader(url, []).batches(10, shuffle_seed=1)) == []


@pytest.mark.parametrize("seed", [None, 1])
def test_a_lost_file_surfaces_at_the_consumer(url: str, seed: int | None) -> None:
    groups = [RowGroup("part-gone.parquet", 0, 5)]
    with pytest.raises(OSError, match="part-gone"):
        list(ShardReader(url, groups).batches(10, shuffle_seed=seed))


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("claim", [{"rows": 51}, {"rows": 49}, {"index": 3}])
def test_a_file_that_is_not_the_manifest_s_is_refused(url: str, seed: int | None, claim: dict[str, int]) -> None:
    first = ShardSet.open(url).groups[0]
    with pytest.raises(StorageError, match=rf"{first.path} is not the file that its manifest describes"):
        list(ShardReader(url, [replace(first, **claim)]).batches(10, shuffle_seed=seed))


def test_storage_that_is_not_local_is_read_ahead(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShardReader, "_local", False)
    groups = ShardSet.open(url).groups
    assert rows_of(ShardReader(url, groups).batches(32)) == list(range(230))
    with pytest.raises(StorageError, match="part-gone"):
        list(ShardReader(url, [*groups, RowGroup("part-gone.parquet", 0, 5)]).batches(10))


def test_only_shards_are_opened_as_shards(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.stage() as staging:
        store.replace(f"{staging.path}/a", {})
        store.publish(staging, "table", kind="table", fingerprint="f")
    with pytest.raises(StorageError, match="holds 'table', not shards"):
        ShardSet.open(store.url("table"))
    with pytest.raises(StorageError):
        ShardSet.open(store.url("nothing"))


BAD = {
    "ragged, right in total": ([[1.0, 2.0], [1.0, 2.0, 3.0, 4.0]], "'x' must hold 3 values in every row, one holds 2"),
    "too short": ([[1.0, 2.0]], "must hold 3 values in every row, one holds 2"),
    "empty": ([[]], "one holds 0"),
    "null element": ([[1.0, None, 3.0]], "'x' has 1 null elements"),
    "null row": ([[1.0, 2.0, 3.0], None], "'x' has 1 null values"),
}


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_tensor_is_refused_by_name(tmp_path: Path, values: list[Any], message: str) -> None:
    rows = pa.RecordBatch.from_pydict(
        {"x": pa.array(values, pa.list_(pa.float32())), "y": pa.array([0.0] * len(values)), "name": [""] * len(values)}
    )
    with pytest.raises(DataError, match=message):
        publish(tmp_path, [[rows]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 7), st.integers(0, 20), st.sampled_from(["float32", "float64", "int8", "int32"]), st.integers(1, 4))
def test_tensors_survive_slicing(offset: int, rows: int, dtype: str, width: int) -> None:
    column = Column(name="x", dtype=dtype, shape=(width, 2))
    values = np.arange((offset + rows) * width * 2).astype(dtype).reshape(offset + rows, width * 2)
    listed = pa.array(list(values), pa.list_(pa.from_numpy_dtype(np.dtype(dtype)))).slice(offset)
    stored = to_arrow(listed, column)
    np.testing.assert_array_equal(to_numpy(stored, column), values[offset:].reshape(rows, width, 2))
    np.testing.assert_array_equal(to_numpy(stored.slice(rows // 2), column), values[offset + rows // 2 :].reshape(-1, width, 2))


def test_the_schema_describes_itself() -> None:
    every = [
        *COLUMNS,
        Column(name="i", dtype="int32"),
        Column(name="b", dtype="bool"),
        Column(name="t", dtype="int8", shape=(2, 2)),
    ]
    assert columns_of(schema_of(every)) == every


def test_groups_are_large_but_bounded() -> None:
    assert rows_per_group([Column(name="x", dtype="float32", shape=(784,))]) == (64 << 20) // (784 * 4)
    assert rows_per_group([Column(name="y", dtype="float32")]) == 1 << 20
    assert rows_per_group([Column(name="x", dtype="float32", shape=(100_000_000,))]) == 1024


COMPACT = [
    Column(name="ids", dtype="int32", shape=(4,), kind="ids", stored_bytes=8),
    Column(name="v", dtype="float32", shape=(6,), kind="sparse", stored_bytes=8),
    Column(name="y", dtype="float64"),
]


def compact_url(folder: Path, rows: int = 90, group_rows: int = 25) -> tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows with 0 to 6 ids (the net takes 4) and 0 to 3 entries; returns also the dense arrays that must come out."""
    rng = np.random.default_rng(3)
    ids = [rng.integers(1, 99, rng.integers(0, 7)).tolist() for _ in range(rows)]
    places = [sorted(rng.choice(6, rng.integers(0, 4), replace=False).tolist()) for _ in range(rows)]
    sparse = [{"size": 6, "indices": at, "values": [float(p + 1) for p in at]} for at in places]
    kind = pa.struct({"size": pa.int32(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float64())})
    table = pa.RecordBatch.from_pydict(
        {"ids": pa.array(ids, pa.list_(pa.int32())), "v": pa.array(sparse, kind), "y": np.arange(rows) * 2.0}
    )
    store = Store(str(folder))
    with store.stage() as staging:
        where: dict[str, Any] = {"root": store.root, "folder": staging.path, "columns": COMPACT, "group_rows": group_rows}
        found = [
            row for report in write_shard(iter([table[:40], table[40:]]), partition=0, **where) for row in report.to_pylist()
        ]
        extra = {"columns": [c.model_dump() for c in COMPACT], "groups": {row["path"]: row["groups"] for row in found}}
        checksums = {row["path"]: row["sha256"] for row in found}
        store.publish(staging, "set", kind="shards", fingerprint="f", extra=extra, checksums=checksums)
    padded, dense = np.zeros((rows, 4), np.int32), np.zeros((rows, 6), np.float32)
    for row in range(rows):
        padded[row, : min(4, len(ids[row]))] = ids[row][:4]
        for place in places[row]:
            dense[row, place] = place + 1
    return store.url("set"), padded, dense


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("skip", [0, 7, 25, 60, 90])
def test_ids_are_padded_or_cut_and_sparse_vectors_made_dense(tmp_path: Path, seed: int | None, skip: int) -> None:
    url, padded, dense = compact_url(tmp_path)
    reader = ShardReader(url, ShardSet.open(url).groups, shuffle_bytes=1000)
    found = list(reader.batches(16, shuffle_seed=seed, skip=skip))
    assert all(len(batch["y"]) == 16 for batch in found[:-1])
    numbers = np.concatenate([np.empty(0), *(batch["y"] / 2 for batch in found)]).astype(int)
    assert len(set(numbers)) == len(numbers) == 90 - skip
    if found:
        np.testing.assert_array_equal(np.concatenate([batch["ids"] for batch in found]), padded[numbers])
        np.testing.assert_array_equal(np.concatenate([batch["v"] for batch in found]), dense[numbers])


@pytest.mark.parametrize("seed", [None, 5])
def test_skipping_leaves_the_order_of_the_rest(url: str, seed: int | None) -> None:
    reader = ShardReader(url, ShardSet.open(url).groups, shuffle_bytes=2000)
    every = rows_of(reader.batches(32, shuffle_seed=seed, epoch=4))
    for skip in (1, 32, 50, 64, 130, 229, 230, 500):
        assert rows_of(reader.batches(32, shuffle_seed=seed, epoch=4, skip=skip)) == every[skip:]


def test_groups_are_dealt_anew_in_every_epoch(url: str) -> None:
    shards = ShardSet.open(url)
    first, second = (shards.assign(0, 2, seed=3, epoch=epoch) for epoch in (0, 1))
    assert first == shards.assign(0, 2, seed=3, epoch=0)
    assert any(shards.assign(0, 2, seed=3, epoch=epoch) != first for epoch in range(1, 6)) and second is not None
    for epoch in range(4):
        parts = [shards.assign(rank, 2, seed=3, epoch=epoch) for rank in range(2)]
        assert sorted((g.path, g.index) for part in parts for g in part) == sorted((g.path, g.index) for g in shards.groups)
        assert abs(sum(g.rows for g in parts[0]) - sum(g.rows for g in parts[1])) <= 50


def test_sparse_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    column = COMPACT[1]
    kind = pa.struct({"size": pa.int32(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float64())})
    with pytest.raises(ValueError, match=r"'v' must hold vectors of size 6, it holds \[5, 6\]"):
        to_arrow(pa.array([{"size": size, "indices": [1], "values": [1.0]} for size in (5, 6)], kind), column)
