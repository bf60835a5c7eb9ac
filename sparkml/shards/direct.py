"""Row groups of local files read past the page cache: into memory of our own, ahead of their decoding.

For rows that do not fit the page cache anyway. There every byte would take a fresh page and a copy out of it, which costs a core
more than decoding does, and would drive out what other passes could use.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from sparkml.shards.copies import MemoryFile
from sparkml.shards.footers import described, ranges_of

_BLOCK = 4096  # of a disk: where direct reads begin and end
_AHEAD = 2  # row groups on their way while one is decoded: the disk has one request at least
LARGEST = 128 << 20  # bytes of a row group that is read so: three of them are held
_CACHED = 0.4  # of the memory: files may take so much of it
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's; the page cache counts, too
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux has it


def page_cache() -> int:
    """Return how many bytes of files are likely to stay in this host's, or container's, page cache from one pass to the next."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # there is none, or it says "max"
        memory = min(memory, int(_LIMIT.read_text()))
    return int(_CACHED * memory)


def direct_files(groups: Sequence[tuple[str, int]], columns: Sequence[str]) -> Generator[pq.ParquetFile]:
    """Yield the file of each row group; of it nothing else may be read, and nothing at all once the next one is asked for.

    Holds the bytes of three row groups, in memory that is used again and again.

    Parameters
    ----------
    groups
        Path and number of each.
    columns
        Only these are read.

    Raises
    ------
    StorageError
        A file is not what its manifest describes.
    """
    footers: dict[str, pq.FileMetaData] = {}

    def read(path: str, index: int, memory: _Memory) -> tuple[MemoryFile, _Memory]:
        metadata = footers.get(path)
        if metadata is None:
            metadata = footers[path] = pq.read_metadata(path)
        ranges = ranges_of(metadata, index, columns, Path(path).as_uri())
        file = _opened(path)
        try:
            return MemoryFile(os.fstat(file).st_size, memory.filled(file, ranges), metadata), memory
        finally:
            os.close(file)

    free, following = [_Memory() for _ in range(_AHEAD + 1)], iter(groups)
    waiting: deque[Future[tuple[MemoryFile, _Memory]]] = deque()
    with ThreadPoolExecutor(1, "sparkml-direct") as pool:
        try:
            for path, _ in groups:
                while free and (group := next(following, None)) is not None:
                    waiting.append(pool.submit(read, *group, free.pop()))
                with described(Path(path).as_uri()):
                    content, memory = waiting.popleft().result()
                    file = pq.ParquetFile(
                        content, metadata=content.metadata, pre_buffer=False
                    )  # else columns between are read, too
                try:
                    yield file
                finally:
                    file.close(force=True)
                    free.append(memory)
        finally:  # the consumer may have left early
            pool.shutdown(wait=True, cancel_futures=True)


class _Memory:
    """Pages that are read into, again and again."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, _BLOCK)

    def filled(self, file: int, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, memoryview]]:
        """Return the ranges' bytes by where they begin in the file; those read before are gone."""
        blocks = [(start - start % _BLOCK, end + -end % _BLOCK) for start, end in ranges]
        needed = sum(end - start for start, end in blocks)
        if needed > len(self._pages):
            self._pages = mmap.mmap(-1, needed)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                self._pages.madvise(mmap.MADV_HUGEPAGE)
        view, at, parts = memoryview(self._pages), 0, []
        for (start, end), (first, last) in zip(ranges, blocks, strict=True):
            read = 0
            while first + read < end:
                count = os.preadv(file, [view[at + read : at + last - first]], first + read)
                if not count:
                    raise OSError("the file is shorter than its footer says")
                read += count
            parts.append((start, view[at + start - first : at + end - first]))
            at += last - first
        return parts


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | _DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, os.O_RDONLY)  # a file system in memory, for one
