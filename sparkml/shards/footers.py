"""What the footers of Parquet files say: read in threads, without the rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from sparkml.errors import StorageError
from sparkml.storage import FileEntry, Store

_AT_ONCE = 16
TAIL_BYTES = 1 << 16


def read_footers(store: Store, files: Sequence[FileEntry]) -> list[pq.FileMetaData]:
    """Return the footer of each file. Raises `StorageError` for a file that is missing or not what its entry describes."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda file: read_footer(store, file)[1], files))


def read_footer(store: Store, file: FileEntry) -> tuple[bytes, pq.FileMetaData]:
    """Return the end of a file, and the footer in it. Raises `StorageError` like `read_footers`."""
    tail = store.read(file.path, max(0, file.size - TAIL_BYTES), file.size)
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    with described(store.url(file.path)):
        if needed > file.size:
            raise pa.ArrowInvalid("the footer is larger than the file")
        if needed > len(tail):
            tail = store.read(file.path, file.size - needed, file.size)
        return tail, pq.read_metadata(pa.BufferReader(tail))


def chunks_of(footer: pq.FileMetaData, names: Collection[str]) -> list[list[pq.ColumnChunkMetaData]]:
    """Return what each row group holds of flat columns."""
    places = [at for at in range(len(footer.schema)) if footer.schema.column(at).path in names]
    groups = map(footer.row_group, range(footer.num_row_groups))
    return [[group.column(at) for at in places] for group in groups]


def most(footers: Sequence[pq.FileMetaData], name: str) -> float:
    """Return the largest value of a column of numbers; NaN where the statistics do not say, as of a group that is all NaN."""
    found = [chunk.statistics for footer in footers for (chunk,) in chunks_of(footer, {name})]
    if any(part is None or not part.has_min_max for part in found):
        return float("nan")
    return max(float(part.max) for part in found)


def ranges_of(metadata: pq.FileMetaData, index: int, columns: Collection[str], url: str) -> list[tuple[int, int]]:
    """Return where a row group's columns lie in its file, neighbours joined. Raises `StorageError` if there is no such group."""
    if index >= metadata.num_row_groups:
        raise not_as_described(url)
    group = metadata.row_group(index)
    found: list[tuple[int, int]] = []
    for at in range(group.num_columns):
        column = group.column(at)
        if column.path_in_schema in columns:
            start = column.dictionary_page_offset or column.data_page_offset
            found.append((start, start + column.total_compressed_size))
    joined: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def not_as_described(url: str) -> StorageError:
    return StorageError(
        f"{url} is not the file that its manifest describes",
        hint="it was replaced or damaged: run again, and if sparkml wrote it remove its folder before",
    )


@contextmanager
def described(url: str) -> Iterator[None]:
    """Raise `not_as_described` for what Arrow says of a file that is damaged or another: it has several exceptions for that."""
    try:
        yield
    except (pa.ArrowInvalid, IndexError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's own, or the network's
            raise
        raise not_as_described(url) from error
