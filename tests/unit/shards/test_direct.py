"""Row groups read past the page cache are those read through it; what goes wrong is named, and nothing is left running."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sparkml.errors import StorageError
from sparkml.shards import direct
from sparkml.shards.direct import direct_files, page_cache
from sparkml.shards.reader import ShardReader, ShardSet
from sparkml.storage import Store
from tests.unit.shards.test_shards import batch, publish


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Two files of 12 and 7 row groups, the last smaller ones; of several blocks of the disk each."""
    return publish(tmp_path, [[batch(0, 23_456)], [batch(23_456, 12_345)]], group_rows=2_000)


def read(url: str, cached: float, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Return all blocks, with the number of the first row of their group."""
    shards = ShardSet.open(url)
    return [
        {"group": group, **block}
        for group, blocks in ShardReader(shards, shards.groups, columns).by_group((), cached)
        for block in blocks
    ]


@pytest.mark.parametrize("cached", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("columns", [None, ["y"], ["name", "x"]])
def test_it_is_what_the_page_cache_gives(url: str, cached: float, columns: list[str] | None) -> None:
    """Blocks that are kept while later row groups come into the same memory stay as they were."""
    expected, found = read(url, 1.0, columns), read(url, cached, columns)
    assert [block["group"] for block in found] == [block["group"] for block in expected]
    for one, other in zip(found, expected, strict=True):
        for name in one.keys() - {"group"}:
            np.testing.assert_array_equal(one[name], other[name])
    if columns is None:
        np.testing.assert_array_equal(np.concatenate([block["y"] for block in found]), np.arange(35_801) * 2.0)


def test_only_a_share_goes_through_the_cache(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same one each time, spread over the pass: the disk works while they are worked on."""
    past: list[int] = []

    def watched(groups: Any, columns: Any) -> Any:
        past.append(len(groups))
        return direct_files(groups, columns)

    monkeypatch.setattr("sparkml.shards.reader.direct_files", watched)
    for cached in (1.0, 0.5, 0.25, 0.0):
        read(url, cached)
    assert past == [0, 10, 15, 19]
    past.clear()
    monkeypatch.setattr("sparkml.shards.reader.LARGEST", 1_500 * 28)
    read(url, 0.0)
    assert past == [2], "three are held in memory: only the small last ones of the two files"


def test_reading_is_direct(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, positions = [], []
    opened, read_at = os.open, os.preadv

    def opening(path: str, flag: int, *rest: Any) -> int:
        flags.append(flag)
        return opened(path, flag, *rest)

    def reading(file: int, views: Any, at: int) -> int:
        positions.append((at, len(views[0])))
        return read_at(file, views, at)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "preadv", reading)
    read(url, 0.0)
    assert len(flags) == 19 and all(flag & os.O_DIRECT for flag in flags)
    assert all(at % 4096 == 0 and size % 4096 == 0 for at, size in positions)


def test_a_file_system_without_direct_reads_is_read_all_the_same(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def opening(path: str, flag: int, *rest: Any) -> int:
        if flag & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flag, *rest)

    monkeypatch.setattr(os, "open", opening)
    assert len(read(url, 0.0)) == 19


def test_the_disk_s_own_errors_are_not_the_manifest_s(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", reading)
    with pytest.raises(OSError, match="Input/output error"):
        read(url, 0.0)


@pytest.mark.parametrize("cached", [0.0, 1.0])
@pytest.mark.parametrize("damage", ["shorter", "gone", "another"])
def test_a_file_that_is_another_by_now_is_named(url: str, cached: float, damage: str) -> None:
    shards = ShardSet.open(url)
    path = Store(url).at(shards.groups[0].path)
    if damage == "shorter":
        os.truncate(path, 100_000)
    elif damage == "gone":
        os.unlink(path)
    else:
        pq.write_table(pq.read_table(path).slice(0, 1_000), path)
    error: Any = FileNotFoundError if damage == "gone" else StorageError
    with pytest.raises(error, match=os.path.basename(path)):
        next(next(ShardReader(shards, shards.groups).by_group((), cached))[1])


def test_a_file_that_shrinks_while_it_is_read_is_named(url: str) -> None:
    path = Store(url).at(ShardSet.open(url).groups[0].path)
    files = direct_files([(path, index) for index in range(12)], ["x"])
    next(files)
    os.truncate(path, 100_000)
    with pytest.raises(StorageError, match="is not the file that its manifest describes"):
        list(files)


def test_one_that_is_left_early_ends_its_thread_and_closes_its_files(url: str) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    shards = ShardSet.open(url)
    for cached in (0.0, 0.5):
        groups = ShardReader(shards, shards.groups).by_group((), cached)
        next(groups)
        groups.close()  # type: ignore[attr-defined]
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_memory_is_used_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(direct, "_Memory", lambda make=direct._Memory: made.append(1) or make())
    read(url, 0.0)
    assert len(made) == 3


def test_a_container_s_memory_is_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(direct, "_LIMIT", limit)
    whole = page_cache()
    assert 0 < whole < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit.write_text("max\n")
    assert page_cache() == whole
    limit.write_text("1000000000\n")
    assert page_cache() == 400_000_000
