"""`RankRows`: the rows of one rank, in blocks ready to be worked on, and sums over the rows of all ranks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkml.errors import DataError
from sparkml.launch.worker import Worker
from sparkml.learners.linear.facts import Scaling, WrongRowsError
from sparkml.learners.linear.families import Array as Values
from sparkml.learners.linear.sums import Block, Cut, is_sparse
from sparkml.learners.linear.tree_sum import Array, Node, TreeSum, shares
from sparkml.shards.direct import page_cache
from sparkml.shards.reader import ShardReader, ShardSet

_EXACT_NUMBERS = 1 << 24  # of all features: up to there all is done in float64
_MANY_NUMBERS = 1 << 17  # a partial sum of 1 MiB


@dataclass(frozen=True)
class RowSource:
    """Where rows come from, and how they are dealt with.

    Attributes
    ----------
    shards
        URL of a set with the columns `features` (a tensor of one dimension), `labels` and, if named, `weight` and `offset`.
    folds
        Into how many parts rows are dealt: at random, by the seed and the place of the row, or as the column `fold` says (0 to
        ``folds - 1``). 1: not at all.
    memory
        Bytes of rows that are kept from one pass to the next, by all ranks together.
    sparse
        Whether features that are stored sparse are left so, each row group one block, and worked on in float64.
    """

    shards: str
    features: str
    labels: tuple[str, ...]
    weight: str | None = None
    offset: str | None = None
    folds: int = 1
    fold: str | None = None
    seed: int = 7
    memory: int = 512 << 20
    sparse: bool = False

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.features, *self.labels, self.weight, self.offset, self.fold) if name))


@dataclass(frozen=True)
class Rows:
    """A block with all of its labels, sorted by fold: `cuts` says which rows are of which."""

    x: Any
    labels: tuple[Values, ...]
    weight: Values | None = None
    offset: Values | None = None
    cuts: tuple[Cut, ...] = ()

    def of(self, label: int) -> Block:
        return Block(self.x, self.labels[label], self.weight, self.offset)


class RankRows:
    """One rank's rows. A set of row groups is named by its `count`: that many of those in a random order, or (None) all.

    Attributes
    ----------
    kind
        The precision that blocks are in.
    scaling
        What features have gone through; None: nothing.
    centers
        What was subtracted from each label.
    cached
        The share of row groups that this host's page cache keeps from one pass to the next.
    parts
        Of plain Parquet: the name of each feature.
    """

    def __init__(self, worker: Worker, source: RowSource) -> None:
        """Open the set. Raises `DataError` for one without rows."""
        self.worker, self.source = worker, source
        self.set = ShardSet.open(source.shards)
        self.groups = self.set.groups
        if not self.set.num_rows:
            raise DataError("there are no rows to train on")
        (column,) = (column for column in self.set.columns if column.name == source.features)
        self.features, self.parts = int(np.prod(column.shape, dtype=int)), column.parts
        exact = source.sparse or self.set.num_rows * self.features <= _EXACT_NUMBERS or column.dtype == "float64"
        self.kind: np.dtype[np.floating[Any]] = np.dtype(np.float64 if exact else np.float32)
        self.deal(1)
        numbers = (2 + len(source.labels)) * self.kind.itemsize
        self.row_bytes = numbers + (column.width if source.sparse else self.features * self.kind.itemsize)
        stored = self.set.num_rows * sum(column.width for column in self.set.columns if column.name in source.columns)
        self.cached = min(1.0, page_cache() * worker.size / (stored * worker.local_size))
        # a sample is a random set of row groups, by the seed alone
        self._order = np.random.default_rng(source.seed).permutation(len(self.groups))
        self.ends = np.cumsum([self.groups[number].rows for number in self._order])
        self.scaling: Scaling | None = None
        self.centers = np.zeros(len(source.labels))
        self.steps = 0
        self._kept: dict[int, list[Rows]] = {}
        self._kept_bytes = self._groups_read = 0
        self._buffers: dict[str, Values] = {}

    def deal(self, summands: int) -> None:
        """Deal the row groups to the ranks, for sums of so many numbers."""
        # whole subtrees of the sum: fewer partial sums travel, the more so the larger they are
        unevenness = 0.02 if summands <= _MANY_NUMBERS else 0.1
        self.mine = shares([group.rows for group in self.groups], self.worker.size, unevenness)[self.worker.rank]

    @property
    def all_fit(self) -> bool:
        """Whether all rows are kept in memory, so that later passes are cheap."""
        return self.set.num_rows * self.row_bytes <= self.source.memory

    def rows_of(self, count: int | None) -> int:
        return int(self.ends[-1 if count is None else count - 1])

    def groups_with(self, rows: int) -> int:
        """Return how many row groups, in random order, have this many rows; all if need be."""
        return min(int(np.searchsorted(self.ends, rows)) + 1, len(self.ends))

    def scale(self, scaling: Scaling | None, centers: Array) -> None:
        """Have features and labels from now on scaled and centred so, those that are kept, too."""
        self.scaling, self.centers = scaling, centers
        if centers.any():
            self._kept.clear()
            self._kept_bytes = 0
        if scaling is not None:
            for several in self._kept.values():
                several[:] = [Rows(scaling.apply(r.x, r.x), r.labels, r.weight, r.offset, r.cuts) for r in several]

    def added_up(self, count: int | None, add: Callable[[Iterator[Rows]], tuple[Array, Array]]) -> tuple[Array, Array]:
        """Return the sum of what `add` makes of each row group, over all ranks, and the minimum."""
        chosen = range(len(self.groups)) if count is None else sorted(int(number) for number in self._order[:count])
        number_of = {number: at for at, number in enumerate(chosen)}
        tree, least = TreeSum(), None
        for number, rows in self.by_group([number for number in chosen if number in self.mine]):
            try:
                total, extremes = add(rows)
            except WrongRowsError as error:
                group = self.groups[number]
                column = self.source.labels[error.label] if error.role == "label" else getattr(self.source, error.role)
                where = f"{self.set.root}, {group.path}, row group {group.index}"
                names = ", ".join(repr(self.parts[number]) for number in error.features if self.parts)
                raise DataError(
                    f"column {names or repr(column)}: {error}", hint=f"the first rows that are wrong are in {where}"
                ) from None
            self.worker.note("data", self._groups_read)
            self._groups_read += 1
            tree.add(number_of[number], total)
            least = extremes if least is None else np.minimum(least, extremes)
        whole = TreeSum()
        self.worker.note("step", self.steps)
        found = [_decoded(payload) for payload in self.worker.all_gather(_encoded(tree, least))]
        for nodes, _ in found:
            whole.merge(nodes)
        return whole.total(len(chosen)), np.min([extremes for _, extremes in found if len(extremes)], axis=0)

    def by_group(self, numbers: Sequence[int]) -> Iterator[tuple[int, Iterator[Rows]]]:
        """Yield row groups: those in memory first. Others are kept as long as there is room."""
        source = self.source
        missing = [number for number in numbers if number not in self._kept]
        reader = ShardReader(self.set, [self.groups[number] for number in missing], source.columns)
        yield from ((number, iter(self._kept[number])) for number in numbers if number in self._kept)
        for number, (group, batches) in zip(
            missing, reader.by_group([source.features] if source.sparse else (), self.cached), strict=True
        ):
            if source.sparse:
                batches = _joined(batches)
            size = group.rows * self.row_bytes
            keep = self._kept_bytes + size <= source.memory / self.worker.size
            rows = (self._prepared(batch, folds, keep) for batch, folds in self._dealt(number, group.rows, batches))
            if keep:
                self._kept_bytes += size
                self._kept[number] = list(rows)
                yield number, iter(self._kept[number])
            else:
                yield number, rows

    def _dealt(self, number: int, rows: int, batches: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield the blocks of a row group with the fold of each row, if there are folds."""
        folds, column, start = self.source.folds, self.source.fold, 0
        drawn = None
        if folds > 1 and column is None:
            drawn = np.random.default_rng([self.source.seed, number]).integers(0, folds, rows, np.uint16)
        for batch in batches:
            stop = start + len(batch[self.source.labels[0]])
            if column is not None:
                yield batch, self._fold_numbers(batch[column])
            else:
                yield batch, None if drawn is None else drawn[start:stop]
            start = stop

    def _fold_numbers(self, values: Values) -> Any:
        folds = self.source.folds
        wrong = values[~((values >= 0) & (values < folds) & (values == np.floor(values)))]
        if len(wrong):
            raise DataError(f"column {self.source.fold!r}: a fold of {folds} is 0 to {folds - 1}, not {wrong[0]:g}")
        return values.astype(np.uint16)

    def _prepared(self, batch: dict[str, Any], folds: Any, keep: bool) -> Rows:
        source, kind = self.source, self.kind
        x = batch[source.features] if source.sparse else batch[source.features].reshape(-1, self.features)
        order = None
        cuts: tuple[Cut, ...] = ()
        if folds is not None:
            order = np.argsort(folds, kind="stable")
            ends = np.cumsum(np.bincount(folds, minlength=source.folds)).tolist()
            cuts = tuple(
                (start, stop, fold) for fold, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)) if stop > start
            )
            x = x[order] if source.sparse else x.take(order, 0, self._buffer("taken", x), "clip")

        def numbers(name: str | None, center: float = 0.0) -> Values | None:
            if name is None:
                return None
            values = batch[name] if order is None else batch[name][order]
            return (values.astype(np.float64) - center if center else values).astype(kind, copy=keep)  # type: ignore[no-any-return]

        if self.scaling is not None:
            x = self.scaling.apply(
                x.astype(kind, copy=False), np.empty(x.shape, kind) if keep else self._buffer("scaled", x, kind)
            )
        elif not source.sparse:
            x = x.astype(kind, copy=keep)
        labels = tuple(numbers(name, center) for name, center in zip(source.labels, self.centers.tolist(), strict=True))
        return Rows(x, labels, numbers(source.weight), numbers(source.offset), cuts)  # type: ignore[arg-type]

    def _buffer(self, name: str, x: Values, kind: Any = None) -> Values:
        """Return memory for what will be used up before the next block."""
        kind = np.dtype(kind or x.dtype)
        found = self._buffers.get(name)
        if found is None or len(found) < len(x) or found.dtype != kind:
            found = self._buffers[name] = np.empty(x.shape, kind)
        return found[: len(x)]


def _joined(batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the blocks as one: what they add up to has a number for every feature, however few of them a block has."""
    from scipy.sparse import vstack

    several = list(batches)
    yield {
        name: vstack([batch[name] for batch in several], "csr")
        if is_sparse(values)
        else np.concatenate([b[name] for b in several])
        for name, values in several[0].items()
    }


def _encoded(tree: TreeSum, least: Array | None) -> bytes:
    file, nodes = io.BytesIO(), sorted(tree.nodes)
    places, values = np.array(nodes, np.int64).reshape(-1, 2), [tree.nodes[node] for node in nodes]
    for array in (places, np.empty(0) if least is None else least, *values):
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _decoded(payload: bytes) -> tuple[dict[Node, Array], Array]:
    file = io.BytesIO(payload)
    places, least = (np.load(file, allow_pickle=False) for _ in range(2))
    return {(int(level), int(place)): np.load(file, allow_pickle=False) for level, place in places}, least
