"""A rank's way to its rows: row groups assigned by rows, read straight from the store, shuffled by seed and epoch."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import queue
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparkml.errors import StorageError
from sparkml.shards.copies import Copies, scratch_folders
from sparkml.shards.direct import LARGEST, direct_files
from sparkml.shards.footers import described, most, not_as_described, read_footers
from sparkml.shards.plain import as_stored
from sparkml.shards.schema import Column, to_csr, to_numpy
from sparkml.storage import FileEntry, Store

BLOCK_ROWS = 16_384  # fits the caches; larger blocks only page-fault more
BLOCK_BYTES = 8 << 20  # of wide rows a block holds fewer: several are on their way at once
SHUFFLE_BYTES = 256 << 20
Arrays = dict[str, np.ndarray[Any, Any]]
Block = dict[str, Any]  # like Arrays, compact columns still as Arrow's binary


@dataclass(frozen=True)
class RowGroup:
    """A row group of one file of a shard set."""

    path: str
    index: int
    rows: int


@dataclass(frozen=True)
class ShardSet:
    """What a published folder of shards holds, as its manifest says.

    Attributes
    ----------
    root
        Where the files lie: beside the manifest, or, of plain Parquet that is read in place, below another URL.
    """

    url: str
    columns: tuple[Column, ...]
    groups: tuple[RowGroup, ...]
    files: tuple[FileEntry, ...]
    root: str

    @classmethod
    def open(cls, url: str) -> ShardSet:
        """Read the manifest. Raises `StorageError` when the folder was never published, is torn, or holds something else."""
        manifest = Store(url).manifest("")
        if manifest.kind != "shards":
            raise StorageError(f"{url} holds {manifest.kind!r}, not shards")
        columns = tuple(Column.model_validate(item) for item in manifest.extra["columns"])
        groups = tuple(
            RowGroup(path, index, rows)
            for path, counts in sorted(manifest.extra["groups"].items())
            for index, rows in enumerate(counts)
        )
        files = [FileEntry.model_validate(item) for item in manifest.extra.get("files", [])] or manifest.files
        return cls(url, columns, groups, tuple(files), manifest.extra.get("root", url))

    @property
    def num_rows(self) -> int:
        return sum(group.rows for group in self.groups)

    def most(self, column: str) -> float:
        """Return the largest value of a column of numbers, as the files' footers say it."""
        (parts,) = (known.parts or (column,) for known in self.columns if known.name == column)
        return most(read_footers(Store(self.root), self.files), parts[0])

    def assign(self, rank: int, size: int, seed: int | None = None, epoch: int = 0) -> list[RowGroup]:
        """Return one rank's share of `deal`."""
        return self.deal(size, seed, epoch)[rank]

    def deal(self, size: int, seed: int | None = None, epoch: int = 0) -> list[list[RowGroup]]:
        """Return every rank's row groups: the largest first to the rank with the fewest rows, the same on every run.

        Every group belongs to exactly one rank; with fewer groups than ranks some ranks get none. With a seed the groups are
        dealt anew in every epoch.
        """
        groups = sorted(self.groups, key=lambda group: (-group.rows, group.path, group.index))
        if seed is not None:
            order = np.random.default_rng([seed, epoch]).permutation(len(groups))
            groups = sorted((groups[index] for index in order), key=lambda group: -group.rows)  # sorting is stable
        loads = [(0, other) for other in range(size)]
        shares: list[list[RowGroup]] = [[] for _ in range(size)]
        for group in groups:
            rows, target = heapq.heappop(loads)
            heapq.heappush(loads, (rows + group.rows, target))
            shares[target].append(group)
        return [sorted(share, key=lambda group: (group.path, group.index)) for share in shares]


class ShardReader:
    """Reads row groups as batches of NumPy arrays ``(rows, *shape)``.

    Parameters
    ----------
    shards
        The set, or its URL.
    row_groups
        What to read, usually of `ShardSet.assign`.
    columns
        Names of the columns to read; all by default.
    shuffle_bytes
        Size of the buffer within which rows are shuffled. A rank's rows take this and a few blocks of up to 8 MiB on their way;
        and two row groups, as they are stored, where they lie on another host and there is no scratch disk for copies.
    """

    def __init__(
        self,
        shards: ShardSet | str,
        row_groups: Sequence[RowGroup],
        columns: Sequence[str] | None = None,
        *,
        shuffle_bytes: int = SHUFFLE_BYTES,
    ) -> None:
        if isinstance(shards, str):
            shards = ShardSet.open(shards)
        self._store = Store(shards.root)
        known = {column.name: column for column in shards.columns}
        missing = [name for name in columns or () if name not in known]
        if missing:
            raise StorageError(f"{shards.url} has no column {', '.join(missing)}; it has {', '.join(known)}")
        self._columns = [known[name] for name in columns or known]
        self._groups, self._shuffle_bytes = list(row_groups), shuffle_bytes
        self._names = list(dict.fromkeys(name for column in self._columns for name in column.parts or (column.name,)))
        self._plain = any(column.parts for column in self._columns)
        self._sizes = {file.path: file.size for file in shards.files}
        self._width = max(1, sum(column.width for column in self._columns))
        self._block_rows = max(64, min(BLOCK_ROWS, BLOCK_BYTES // self._width))
        self._copies = Copies(self._store, {file.path: file for file in shards.files}, self._names, scratch_folders())

    @property
    def num_rows(self) -> int:
        return sum(group.rows for group in self._groups)

    def batches(self, batch_size: int, *, shuffle_seed: int | None = None, epoch: int = 0, skip: int = 0) -> Iterator[Arrays]:
        """Yield every row once, in batches of `batch_size` (the last may be shorter), without the first `skip` rows.

        With a seed the order of row groups and of rows within the buffer is a function of (seed, epoch) alone.

        A thread fills the shuffle buffer ahead. In order, blocks are decoded by the caller while they lie in the cache: handing
        them over costs more. Row groups of another host's storage are fetched ahead, see `Copies`.
        """
        if shuffle_seed is not None:
            blocks = _ahead(self._shuffled(np.random.default_rng([shuffle_seed, epoch]), skip))
        else:
            blocks = self._blocks(skip)
        compact = [column for column in self._columns if column.compact]
        for batch in _cut(blocks, batch_size):
            for column in compact:
                batch[column.name] = to_numpy(batch[column.name], column)
            yield batch

    def by_group(self, sparse: Collection[str] = (), cached: float = 1.0) -> Iterator[tuple[RowGroup, Iterator[dict[str, Any]]]]:
        """Yield each row group with its rows in order, in blocks that do not depend on what else is read.

        Those that follow are asked of the disk meanwhile. Columns named in `sparse` are left so, see `to_csr`. Of local files
        only the share `cached` of row groups, evenly chosen, and very large ones go through the page cache.
        """
        made = [to_csr if column.name in sparse else to_numpy for column in self._columns]
        widths = (column.width if column.name in sparse else column.dense_width for column in self._columns)
        block_rows = max(64, min(BLOCK_ROWS, BLOCK_BYTES // max(1, sum(widths))))
        for file, group in (
            self._asked_for(cached) if self._local else zip(self._copies.opened(self._groups), self._groups, strict=True)
        ):
            yield (
                group,
                (
                    {
                        column.name: make(batch.column(at), column)
                        for at, (make, column) in enumerate(zip(made, self._columns, strict=True))
                    }
                    for batch in self._read(file, [group], block_rows)
                ),
            )

    def _asked_for(self, cached: float) -> Iterator[tuple[pq.ParquetFile, RowGroup]]:
        """Yield the file of each local row group, the next ones on their way."""
        through = [
            int((at + 1) * cached) > int(at * cached) or group.rows * self._width > LARGEST
            for at, group in enumerate(self._groups)
        ]
        past = [group for group, by_cache in zip(self._groups, through, strict=True) if not by_cache]
        following = itertools.islice((group for group, by_cache in zip(self._groups, through, strict=True) if by_cache), 1, None)
        with contextlib.closing(
            direct_files([(self._store.at(group.path), group.index) for group in past], self._names)
        ) as files:
            for group, by_cache in zip(self._groups, through, strict=True):
                if not by_cache:
                    yield next(files), group
                    continue
                if ahead := next(following, None):
                    self._ask_for(ahead)
                with described(self._store.url(group.path)):
                    file = pq.ParquetFile(self._store.at(group.path), memory_map=False)
                with file:
                    yield file, group

    def _blocks(self, skip: int) -> Iterator[Block]:
        """Stream blocks in order."""
        position = 0
        while position < len(self._groups) and self._groups[position].rows <= skip:
            skip -= self._groups[position].rows
            position += 1
        for file, groups in self._opened(self._groups[position:], joined=True):
            for batch in self._read(file, groups):
                if skip < len(batch):
                    yield {column.name: _stored(batch.column(at).slice(skip), column) for at, column in enumerate(self._columns)}
                skip = max(0, skip - len(batch))

    def _shuffled(self, random: np.random.Generator, skip: int) -> Iterator[Block]:
        fills = self._fills([self._groups[index] for index in random.permutation(len(self._groups))])
        rows_of = [sum(group.rows for group in fill) for fill in fills]
        ends = np.cumsum(rows_of)
        first = int(np.searchsorted(ends, skip, side="right"))  # of fills that have rows to yield
        files = self._opened([group for fill in fills[first:] for group in fill])
        buffer: Block = {}
        for at, rows in enumerate(rows_of):
            permutation = random.permutation(rows)[max(0, skip - int(ends[at]) + rows) :]  # drawn for skipped fills, too
            if at < first:
                continue
            self._fill(buffer, itertools.islice(files, len(fills[at])), rows)
            for start in range(0, len(permutation), self._block_rows):
                chosen = permutation[start : start + self._block_rows]
                # take is 3 times as fast as values[chosen]
                yield {
                    name: values.take(chosen, axis=0) if isinstance(values, np.ndarray) else values.take(pa.array(chosen))
                    for name, values in buffer.items()
                }

    def _fills(self, order: list[RowGroup]) -> list[list[RowGroup]]:
        """Return the groups that go into the shuffle buffer together, at least one each time."""
        fills: list[list[RowGroup]] = []
        held = 0
        for group in order:
            if not fills or (held + group.rows) * self._width > self._shuffle_bytes:
                fills.append([])
                held = 0
            fills[-1].append(group)
            held += group.rows
        return fills

    def _fill(self, buffer: Block, files: Iterator[tuple[pq.ParquetFile, list[RowGroup]]], rows: int) -> None:
        """Decode groups one after another into the buffer's memory, which is made anew only when it is too small."""
        plain = [column for column in self._columns if not column.compact]
        if any(len(buffer.get(column.name, ())) < rows for column in plain):
            buffer.clear()  # the old memory goes before the new one comes
            kinds = {column.name: object if column.dtype == "str" else column.dtype for column in plain}
            buffer.update({column.name: np.empty((rows, *column.shape), kinds[column.name]) for column in plain})
        compact: dict[str, list[pa.Array]] = {column.name: [] for column in self._columns if column.compact}
        start = 0
        for file, groups in files:
            for batch in self._read(file, groups):
                for place, column in enumerate(self._columns):
                    if column.compact:
                        compact[column.name].append(batch.column(place))
                    else:
                        buffer[column.name][start : start + len(batch)] = to_numpy(batch.column(place), column)
                start += len(batch)
        for name, parts in compact.items():
            buffer[name] = pa.concat_arrays(parts)

    def _read(self, file: pq.ParquetFile, groups: list[RowGroup], block_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the groups' blocks, having checked that they are what the manifest counted."""
        try:
            for group in groups:
                whole = not self._local or os.path.getsize(self._store.at(group.path)) == self._sizes.get(group.path)
                known = group.index < file.num_row_groups and file.metadata.row_group(group.index).num_rows == group.rows
                if not (whole and known):
                    raise not_as_described(self._store.url(group.path))
            indices = [group.index for group in groups]
            with described(self._store.url(groups[0].path)):
                for batch in file.iter_batches(block_rows or self._block_rows, indices, columns=self._names, use_threads=False):
                    yield as_stored(batch, self._columns) if self._plain else batch
        except StorageError:
            for group in groups:
                self._copies.forget(group)
            raise

    def _ask_for(self, group: RowGroup) -> None:
        """Have the kernel read a local row group into its cache; whatever goes wrong is for the reading itself to say."""
        with contextlib.suppress(OSError, IndexError, pa.ArrowException), open(self._store.at(group.path), "rb") as file:
            chunks = pq.read_metadata(file).row_group(group.index)
            for at in range(chunks.num_columns):
                chunk = chunks.column(at)
                if chunk.path_in_schema in self._names:
                    start = chunk.dictionary_page_offset or chunk.data_page_offset
                    os.posix_fadvise(file.fileno(), start, chunk.total_compressed_size, os.POSIX_FADV_WILLNEED)

    def _opened(self, groups: list[RowGroup], *, joined: bool = False) -> Iterator[tuple[pq.ParquetFile, list[RowGroup]]]:
        """Yield the file of each group; `joined`: local files once for all groups that follow one another there."""
        if not self._local:
            for group, file in zip(groups, self._copies.opened(groups), strict=True):
                yield file, [group]
            return
        for path, several in itertools.groupby(groups, lambda group: group.path):
            found = list(several)
            for some in [found] if joined else [[group] for group in found]:
                with described(self._store.url(path)):
                    file = pq.ParquetFile(self._store.at(path), memory_map=False)
                with file:
                    yield file, some

    @property
    def _local(self) -> bool:
        return self._store.scheme == "file"


def _cut(blocks: Iterator[Block], batch_size: int) -> Iterator[Block]:
    """Cut blocks into batches; a batch that lies within one block is a view of it."""
    rest: list[Block] = []
    held = 0
    for block in blocks:
        count = len(next(iter(block.values())))
        start = 0
        if held:
            start = min(batch_size - held, count)
            rest.append({name: values[:start] for name, values in block.items()})
            held += start
            if held == batch_size:
                yield _joined(rest)
                rest, held = [], 0
        while start + batch_size <= count:
            yield {name: values[start : start + batch_size] for name, values in block.items()}
            start += batch_size
        if start < count:
            rest.append({name: values[start:] for name, values in block.items()})
            held += count - start
    if held:
        yield _joined(rest)


def _stored(array: pa.Array, column: Column) -> Any:
    return array if column.compact else to_numpy(array, column)


def _joined(parts: list[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    return {name: _concatenated([part[name] for part in parts]) for name in parts[0]}


def _concatenated(values: list[Any]) -> Any:
    return np.concatenate(values) if isinstance(values[0], np.ndarray) else pa.concat_arrays(values)


_END = object()


def _ahead(blocks: Iterator[Block], depth: int = 2) -> Iterator[Block]:
    """Run `blocks` in a thread, up to `depth` blocks ahead of the consumer; its errors surface at the consumer."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for block in blocks:
                if not put(block):
                    return
            put(_END)
        except BaseException as error:  # handed over to the consumer
            put(error)

    thread = threading.Thread(target=produce, name="sparkml-shards", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
