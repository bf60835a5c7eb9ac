"""Row groups that lie on another host's storage, fetched ahead of their reading: to this host's scratch disk, or into memory.

Shards are written once and read in every epoch: what crosses the network in the first is a local file in those that follow. A
copy is a sparse file, a row group's bytes and the footer at their own places, so that it is read like the shard itself. Where
there is no disk for them, copies are of the same kind, in memory, and last until they are decoded.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from sparkml.errors import StorageError
from sparkml.shards.footers import described, ranges_of, read_footer
from sparkml.storage import FileEntry, Store

if TYPE_CHECKING:
    from sparkml.shards.reader import RowGroup

log = logging.getLogger(__name__)

PIECE_BYTES = 32 << 20  # of one request: smaller ones are slower, on object stores above all
THREADS, AHEAD, AHEAD_IN_MEMORY = 2, 4, 1  # more threads are no faster; row groups on their way while one is decoded
ALLOWED = "SPARKML_SHARD_COPIES"  # set by sparkml.launch.barrier
KEPT_FREE = 0.1  # of the disk: the scratch disk is Spark's, too


class Copies:
    """The copies of one shard set's row groups on this host, shared by all its ranks.

    Parameters
    ----------
    files
        Of the manifest: a copy is known by the content of its file, not by where it lay.
    columns
        Only these are copied.
    folders
        Where to keep the copies; empty: in memory.
    """

    def __init__(self, store: Store, files: Mapping[str, FileEntry], columns: Sequence[str], folders: Sequence[str]) -> None:
        self._store, self._files, self._columns, self._folders = store, files, list(columns), list(folders)
        self._lock = threading.Lock()
        self._footers: dict[str, tuple[bytes, pq.FileMetaData]] = {}
        self._mark = hashlib.sha256("\0".join(self._columns).encode()).hexdigest()[:16]

    def opened(self, groups: Sequence[RowGroup]) -> Iterator[pq.ParquetFile]:
        """Yield the file of each row group, in this order: a copy that holds this row group and no other.

        Raises
        ------
        StorageError
            A shard is missing, cannot be read, or is not what the manifest describes.
        """
        with ThreadPoolExecutor(THREADS, "sparkml-copies") as pool:
            waiting: deque[Future[str | MemoryFile | None]] = deque()
            try:
                for at, group in enumerate(groups):
                    while at + len(waiting) < len(groups) and len(waiting) <= (AHEAD if self._folders else AHEAD_IN_MEMORY):
                        fetch = self._on_disk if self._folders else self._in_memory
                        waiting.append(pool.submit(fetch, groups[at + len(waiting)]))
                    file = self._open(waiting.popleft().result(), group)
                    try:
                        yield file
                    finally:
                        file.close(force=True)  # one in memory goes before another comes
            finally:  # the consumer may have left early
                pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, copy: str | MemoryFile | None, group: RowGroup) -> pq.ParquetFile:
        if isinstance(copy, str):
            try:
                return pq.ParquetFile(copy, memory_map=False)
            except (OSError, pa.ArrowInvalid) as error:
                log.warning("the copy %s cannot be read, it will be made anew: %s", copy, error)
                with suppress(OSError):
                    os.unlink(copy)
        memory = copy if isinstance(copy, MemoryFile) else self._in_memory(group)
        with described(self._store.url(group.path)):
            return pq.ParquetFile(memory, metadata=memory.metadata, pre_buffer=False)  # else columns between are read, too

    def _in_memory(self, group: RowGroup) -> MemoryFile:
        entry = self._entry(group)
        _, metadata = self._footer(entry)
        ranges = ranges_of(metadata, group.index, self._columns, self._store.url(entry.path))
        memory = MemoryFile(entry.size, [(start, memoryview(bytearray(end - start))) for start, end in ranges], metadata)
        self._fetch(entry, ranges, memory)
        return memory

    def _on_disk(self, group: RowGroup) -> str | None:
        """Return the path of a row group's copy, made now or before; None where there is no room for it."""
        entry, folders = self._entry(group), self._folders
        if not folders:
            return None
        path = self._path(entry, group.index, folders)
        if os.path.exists(path):
            return path
        tail, metadata = self._footer(entry)
        ranges = ranges_of(metadata, group.index, self._columns, self._store.url(entry.path))
        scratch = f"{path}.{uuid.uuid4().hex}.part"
        try:
            with _Scratch(os.path.dirname(path), scratch, sum(end - start for start, end in ranges)) as disk:
                self._fetch(entry, ranges, disk)
                disk.write(entry.size - len(tail), tail)
                disk.keep(path)
        except _NoRoomError as error:
            log.warning("shards are read from %s in every epoch: %s", self._store.root, error)
            self._folders = []
            return None
        return path

    def forget(self, group: RowGroup) -> None:
        """Remove a row group's copy from the disk: the shard was damaged when it was made."""
        if self._folders:
            with suppress(OSError):
                os.unlink(self._path(self._entry(group), group.index, self._folders))

    def _path(self, entry: FileEntry, index: int, folders: Sequence[str]) -> str:
        folder = folders[int(entry.sha256[:8], 16) % len(folders)] + "/sparkml-shards"
        return f"{folder}/{entry.sha256[:32]}-{self._mark}-{index}.parquet"

    def _entry(self, group: RowGroup) -> FileEntry:
        if group.path not in self._files:
            raise StorageError(f"{self._store.url(group.path)} is not in the manifest of its folder")
        return self._files[group.path]

    def _fetch(self, entry: FileEntry, ranges: Sequence[tuple[int, int]], target: _Scratch | MemoryFile) -> None:
        for start, end in ranges:
            for at in range(start, end, PIECE_BYTES):
                target.write(at, self._store.read(entry.path, at, min(at + PIECE_BYTES, end)))

    def _footer(self, entry: FileEntry) -> tuple[bytes, pq.FileMetaData]:
        with self._lock:  # one thread asks, the others want the same
            if entry.path not in self._footers:
                self._footers[entry.path] = read_footer(self._store, entry)
            return self._footers[entry.path]


class _NoRoomError(Exception):
    """The scratch disk takes no copy."""


class _Scratch:
    """A file that gets its name when it is whole; any failure to write it is a `_NoRoomError`."""

    def __init__(self, folder: str, path: str, size: int) -> None:
        self._path = path
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            disk = shutil.disk_usage(folder)
            if disk.free - size < KEPT_FREE * disk.total:
                raise _NoRoomError(f"{folder} has {disk.free >> 20:,} MiB left, of which a tenth of the disk stays free")
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _NoRoomError(f"{folder}: {error.strerror}") from None

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def write(self, at: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self._file, view, at)
                view, at = view[done:], at + done
        except OSError as error:
            raise _NoRoomError(f"{self._path}: {error.strerror}") from None

    def keep(self, path: str) -> None:
        os.replace(self._path, path)


class MemoryFile(io.RawIOBase):
    """A sparse file in memory, for PyArrow to read: only `parts` of its bytes, by where they begin, are there and may be read."""

    def __init__(self, size: int, parts: Sequence[tuple[int, memoryview]], metadata: pq.FileMetaData) -> None:
        self._size, self._at, self.metadata = size, 0, metadata
        self._parts = list(parts)

    def write(self, at: int, data: bytes) -> None:  # type: ignore[override]
        self._part(at, len(data))[:] = data

    def _part(self, at: int, size: int) -> memoryview:
        for start, part in self._parts:
            if start <= at and at + size <= start + len(part):
                return part[at - start : at - start + size]
        raise OSError(f"bytes {at} to {at + size} were not fetched")

    def read(self, size: int = -1) -> memoryview:  # type: ignore[override]
        rest = self._size - self._at
        found = self._part(self._at, rest if size < 0 else min(size, rest))
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._parts = []
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def scratch_folders() -> list[str]:
    """Return the folders that Spark gives its Python workers, and removes with the executor.

    None outside of Spark, and none unless the gang allows it: with `spark.io.encryption.enabled` nothing may lie there plain.
    """
    if os.environ.get(ALLOWED) != "1":
        return []
    return [folder for folder in os.environ.get("SPARK_LOCAL_DIRS", "").split(",") if folder]
