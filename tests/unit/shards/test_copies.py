"""Row groups of another host's storage: copied to the scratch disk once, streamed where it has no room."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sparkml.errors import StorageError
from sparkml.shards import copies
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
    return tmp_path


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a shard was read from the store: in ranges, and as a stream."""
    found: Counter[str] = Counter()
    read, stream = Store.read, Store.open

    def counted(self: Store, path: str, *arguments: Any, **named: Any) -> bytes:
        found["ranges"] += path.endswith(".parquet")
        return read(self, path, *arguments, **named)

    def streamed(self: Store, path: str, *arguments: Any, **named: Any) -> Any:
        found["streams"] += path.endswith(".parquet")
        return stream(self, path, *arguments, **named)

    monkeypatch.setattr(Store, "read", counted)
    monkeypatch.setattr(Store, "open", streamed)
    return found


def test_the_second_epoch_reads_local_files(url: str, scratch: Path, requests: Counter[str]) -> None:
    shards = ShardSet.open(url)
    assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
    assert (requests["ranges"], requests["streams"]) == (2 + 6, 0), "a footer for each file, a range for each row group"
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
    assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
    assert requests["streams"] == 6
    assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
    assert requests["streams"] == 6, "the damaged copies were made anew"


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
        usage = shutil.disk_usage(scratch)._replace(free=1 << 20)
        monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: usage)
    else:
        monkeypatch.setattr(copies.os, "pwrite" if failure == "fills up" else "makedirs", fail)
    shards = ShardSet.open(url)
    assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
    assert requests["streams"] == 6
    assert "are read from memory://" in caplog.text
    assert [path for path in scratch.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("allowed", ["0", None])
def test_no_copies_where_spark_encrypts_its_own(
    url: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, requests: Counter[str], allowed: str | None
) -> None:
    monkeypatch.delenv(copies.ALLOWED) if allowed is None else monkeypatch.setenv(copies.ALLOWED, allowed)
    shards = ShardSet.open(url)
    assert rows_of(ShardReader(shards, shards.groups).batches(32)) == list(range(230))
    assert requests["streams"] == 6 and not list(scratch.rglob("*.parquet"))


def test_a_lost_file_surfaces_and_an_early_end_leaves_no_thread(url: str, scratch: Path) -> None:
    shards = ShardSet.open(url)
    with pytest.raises(StorageError, match="part-gone"):
        list(ShardReader(shards, [*shards.groups, RowGroup("part-gone.parquet", 0, 5)]).batches(10))
    for _ in ShardReader(shards, shards.groups).batches(8):
        assert [thread for thread in threading.enumerate() if thread.name.startswith("sparkml-copies")]
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparkml-copies")]
    assert not list(scratch.rglob("*.part"))
