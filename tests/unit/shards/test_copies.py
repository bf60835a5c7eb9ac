"""Row groups of another host's storage: copied to the scratch disk once, into memory each time where it has no room."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sparkml.errors import StorageError
from sparkml.shards import copies, footers
from sparkml.shards.reader import RowGroup, ShardReader, ShardSet
from sparkml.storage import Store
from tests.unit.shards.test_shards import batch, publish, rows_of


@pytest.fixture
def url() -> str:
    """230 rows in two files: groups of 50, 50, 20 and 50, 50, 10."""
    return publish(f"memory://{uuid4().hex}", [[batch(0, 120)], [batch(120, 110)]])


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path}/a,{tmp_path}/b")
    monkeypatch.setenv(copies.ALLOWED, "1")
    monkeypatch.setattr(copies, "KEPT_FREE", 1e-9)  # the disk of this machine may be nearly full; not of MiBs
    return tmp_path


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a shard was read from the store, in ranges."""
    found: Counter[str] = Counter()
    read = Store.read

    def counted(self: Store, path: str, *arguments: Any, **named: Any) -> bytes:
        found["ranges"] += path.endswith(".parquet")
        return read(self, path, *arguments, **named)

    monkeypatch.setattr(Store, "read", counted)
    return found


def test_the_second_epoch_reads_local_files(url: str, scratch: Path, requests: Counter[str]) -> None:
    shards = ShardSet.open(url)
    assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
    assert requests["ranges"] == 2 + 6, "a footer for each file, a range for each row group"
    shuffled = ShardReader(shards, shards.groups, shuffle_bytes=2000).batches(32, shuffle_seed=1, epoch=1)
    assert sorted(rows_of(shuffled)) == list(range(230))
    assert requests["ranges"] == 8, "another rank, another order, the same copies"
    names = [path.name for path in scratch.rglob("*") if path.is_file()]
    assert len(names) == 6 and all(name.endswith(".parquet") for name in names)
    assert [path.stat().st_mode & 0o077 for path in scratch.rglob("*.parquet")] == [0] * 6


def test_other_columns_are_another_copy_of_only_these(url: str, scratch: Path) -> None:
    shards = ShardSet.open(url)
    for found in ShardReader(shards, shards.groups, ["y"]).batches(230):
        assert list(found) == ["y"] and list(found["y"] / 2) == list(range(230))
    assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
    assert sum(1 for path in scratch.rglob("*.parquet")) == 12


def test_a_damaged_copy_is_made_anew(url: str, scratch: Path, requests: Counter[str]) -> None:
    shards = ShardSet.open(url)
    assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
    for path in scratch.rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-20])
    for so_far in (16, 24, 24):  # into memory, to the disk, from the disk
        assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
        assert requests["ranges"] == so_far


@pytest.mark.parametrize("failure", ["full", "fills up", "read-only"])
def test_a_scratch_disk_without_room_costs_speed_only(
    url: str,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    requests: Counter[str],
    caplog: pytest.LogCaptureFixture,
    failure: str,
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failure == "full":
        usage = shutil.disk_usage(scratch)._replace(free=0)
        monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: usage)
    else:
        monkeypatch.setattr(copies.os, "pwrite" if failure == "fills up" else "makedirs", fail)
    shards = ShardSet.open(url)
    reader = ShardReader(shards, shards.groups)
    for _ in range(2):
        assert rows_of(reader.batches(32)) == list(range(230))
    assert requests["ranges"] in range(2 + 6 + 6, 2 + 6 + 6 + copies.THREADS + 1), (
        "a footer of each file; what met the full disk, again"
    )
    assert "are read from memory://" in caplog.text
    assert [path for path in scratch.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("allowed", ["0", None])
def test_no_copies_where_spark_encrypts_its_own(
    url: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, requests: Counter[str], allowed: str | None
) -> None:
    monkeypatch.delenv(copies.ALLOWED) if allowed is None else monkeypatch.setenv(copies.ALLOWED, allowed)
    shards = ShardSet.open(url)
    assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
    assert requests["ranges"] == 8 and not list(scratch.rglob("*.parquet"))


def test_a_lost_file_surfaces_and_an_early_end_leaves_no_thread(url: str, scratch: Path) -> None:
    shards = ShardSet.open(url)
    with pytest.raises(StorageError, match="part-gone"):
        list(ShardReader(shards, [*shards.groups, RowGroup("part-gone.parquet", 0, 5)]).batches(10))
    for _ in ShardReader(shards, shards.groups).batches(8):
        assert [thread for thread in threading.enumerate() if thread.name.startswith("sparkml-copies")]
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparkml-copies")]
    assert not list(scratch.rglob("*.part"))


@pytest.mark.parametrize("full", [False, True])
def test_in_memory_there_is_one_row_group_beside_that_which_is_decoded(
    url: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, requests: Counter[str], full: bool
) -> None:
    if full:  # found out when the first copies are made
        monkeypatch.setattr(copies, "KEPT_FREE", 1.1)
    else:
        monkeypatch.setenv(copies.ALLOWED, "0")
    there: list[copies.MemoryFile] = []
    made = copies.MemoryFile.__init__

    def counted(memory: copies.MemoryFile, *arguments: Any) -> None:
        made(memory, *arguments)
        there.append(memory)

    monkeypatch.setattr(copies.MemoryFile, "__init__", counted)
    shards = ShardSet.open(url)
    files = ShardReader(shards, shards.groups)._copies.opened(shards.groups)
    for number, file in enumerate(files):
        deadline = time.monotonic() + 5
        while len(there) < min(number + 1 + (not full), 6) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)  # no more than that come
        group = shards.groups[number]
        assert file.read_row_group(group.index).num_rows == group.rows
        assert sum(not memory.closed for memory in there) <= 1 + copies.AHEAD_IN_MEMORY
    assert len(there) == 6 and all(memory.closed for memory in there)


def test_a_copy_in_memory_holds_its_row_group_in_pieces_and_no_other(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PIECE_BYTES", 64)
    monkeypatch.setattr(footers, "TAIL_BYTES", 16)  # a small file's usual tail is all of it
    shards = ShardSet.open(url)
    reader = ShardReader(shards, shards.groups)
    assert rows_of(reader.batches(32)) == list(range(230))
    files = reader._copies.opened(shards.groups)
    file = next(files)
    assert file.read_row_group(0).num_rows == 50
    with pytest.raises(OSError, match="were not fetched"):
        file.read_row_group(1)


def test_columns_in_memory_with_another_between_them(url: str) -> None:
    shards = ShardSet.open(url)
    batches = list(ShardReader(shards, shards.groups, ["x", "name"]).batches(230))
    assert list(batches[0]["name"]) == [f"row {n}" for n in range(230)] and batches[0]["x"][229, 0] == 229


@pytest.mark.parametrize("where", ["memory", "disk", "local"])
@pytest.mark.parametrize("damage", ["nothing of it", "its footer", "its pages", "fewer groups"])
def test_a_shard_that_is_another_file_is_named(scratch: Path, monkeypatch: pytest.MonkeyPatch, where: str, damage: str) -> None:
    monkeypatch.setenv(copies.ALLOWED, "1" if where == "disk" else "0")
    root = str(scratch / "store") if where == "local" else f"memory://{uuid4().hex}"
    url = publish(root, [[batch(0, 120)]])
    shards = ShardSet.open(url)
    store, (entry,) = Store(url), shards.files
    whole = store.read(entry.path)
    if damage == "fewer groups":
        other = publish(f"memory://{uuid4().hex}", [[batch(0, 120)]], group_rows=120)
        changed = Store(other).read(ShardSet.open(other).files[0].path)
        changed = changed[:4] + b"\0" * (len(whole) - len(changed)) + changed[4:]  # the manifest knows the size
    else:
        start, end = {"nothing of it": (0, len(whole)), "its footer": (-200, -9), "its pages": (4, 60)}[damage]
        changed = (
            whole[:start] + b"x" * len(whole[start:end]) + whole[end:]
            if start >= 0
            else whole[:start] + b"x" * (end - start) + whole[end:]
        )
    assert len(changed) == len(whole)
    store.replace(entry.path, changed)
    with pytest.raises(StorageError, match=r"part-00000.*is not the file that its manifest describes"):
        list(ShardReader(shards, shards.groups).batches(10))
    store.replace(entry.path, whole)
    assert rows_of(ShardReader(shards, shards.groups).batches(10)) == list(range(120)), "nothing of the other is kept"
