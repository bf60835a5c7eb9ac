"""`train_linear`: what a rank does for a linear model. It starts on a sample, and ends with a pass or two over all rows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparkml.errors import DataError
from sparkml.launch.worker import Worker
from sparkml.learners.linear.families import FAMILIES, Family
from sparkml.learners.linear.newton import Penalty, Step, minimise
from sparkml.learners.linear.sums import Block, Sums, add_up
from sparkml.learners.linear.tree_sum import Array, Node, TreeSum, shares
from sparkml.shards.reader import ShardReader, ShardSet

_SAMPLE_ROWS = 1 << 16  # of the first sample at least; and for each coefficient:
_ROWS_PER_COEFFICIENT = 100
_GROWTH = 8
_LARGEST_SAMPLE = 1 / 16  # of the rows: from there on all of them are read
_SAMPLE_BYTES = 256 << 20  # that a rank keeps in memory
_SAMPLE_PASSES = 30


@dataclass(frozen=True)
class LinearJob:
    """What to fit; travels to the ranks.

    Attributes
    ----------
    shards
        URL of a set with the columns `features` (a tensor of one dimension), `label` and, if named, `weight` and `offset`.
    tolerance
        The Newton decrement at which the last step is taken.
    passes
        Over all rows, at most.
    """

    shards: str
    features: str
    label: str
    family: str
    penalty: Penalty = field(default_factory=Penalty)
    weight: str | None = None
    offset: str | None = None
    tolerance: float = 1e-4
    passes: int = 100
    seed: int = 7


def train_linear(worker: Worker, job: LinearJob) -> bytes:
    """Fit, and return the answer as JSON; the same on every rank.

    Raises
    ------
    DataError
        Labels that the family does not allow, features that are not finite, nothing to learn from.
    TrainingError
        The loss is not finite.
    """
    rank = _Rank(worker, job)
    w = np.zeros(rank.features + 1)
    decrements: dict[str, list[float]] = {}
    for count in rank.samples():
        found = minimise(
            rank.evaluator(count), w, job.penalty, tolerance=rank.precision(count), passes=_SAMPLE_PASSES, told=rank.told
        )
        w, decrements[f"{rank.rows_of(count)} rows"] = found.w, found.decrements
    rank.forget()
    done = minimise(rank.evaluator(None), w, job.penalty, tolerance=job.tolerance, passes=job.passes, told=rank.told)
    sums = done.last.sums
    answer = {
        "w": done.w.tolist(),
        "converged": done.converged,
        "passes": len(done.decrements),
        "decrements": {**decrements, "all rows": done.decrements},
        "objective": done.last.objective,
        "rows": sums.rows,
        "weight": sums.weight,
    }
    return json.dumps(answer).encode()


class _Rank:
    """One rank's rows, and the sums over those of all ranks."""

    def __init__(self, worker: Worker, job: LinearJob) -> None:
        self.worker, self.job = worker, job
        self.family: Family = FAMILIES[job.family]
        self.set = ShardSet.open(job.shards)
        self.groups = self.set.groups
        if not self.set.num_rows:
            raise DataError("there are no rows to train on")
        (column,) = (column for column in self.set.columns if column.name == job.features)
        self.features = int(np.prod(column.shape, dtype=int))
        self.mine = shares([group.rows for group in self.groups], worker.size)[worker.rank]
        # a sample is a random set of row groups, by the seed alone
        self.order = np.random.default_rng(job.seed).permutation(len(self.groups))
        self.kept: dict[int, list[Block]] = {}
        self.step = 0

    # --- samples ---

    def rows_of(self, count: int) -> int:
        return sum(self.groups[number].rows for number in self.order[:count])

    def samples(self) -> Iterator[int]:
        """Yield how many of the row groups in `order` each sample has, the smallest first."""
        rows = max(_SAMPLE_ROWS, _ROWS_PER_COEFFICIENT * (self.features + 1))
        ends = np.cumsum([self.groups[number].rows for number in self.order])
        most = min(_LARGEST_SAMPLE * ends[-1], self.worker.size * _SAMPLE_BYTES / (4.0 * self.features + 8))
        before = 0
        while rows <= most:
            count = int(np.searchsorted(ends, rows)) + 1
            if count > before and ends[count - 1] <= 2 * most:
                yield (before := count)
            rows *= _GROWTH

    def precision(self, count: int) -> float:
        """Return the decrement below which a sample's optimum is no nearer to that of all rows."""
        return 0.1 * float(np.sqrt((self.features + 1) / self.rows_of(count)))

    def forget(self) -> None:
        self.kept.clear()

    # --- passes ---

    def told(self, step: Step) -> None:
        self.step += 1
        self.worker.note("step", self.step)
        if self.worker.rank == 0:
            report = {"step": self.step, "rows": int(step.sums.rows), "objective": step.objective, "decrement": step.decrement}
            self.worker.report(report)

    def evaluator(self, count: int | None) -> Any:
        """Return the function that gives the sums over a sample, or (None) over all rows, at given coefficients."""
        chosen = range(len(self.groups)) if count is None else sorted(int(number) for number in self.order[:count])
        number_of = {number: at for at, number in enumerate(chosen)}
        mine = [number for number in chosen if number in self.mine]

        def evaluate(w: Array) -> Sums:
            tree = TreeSum()
            for number, blocks in self._blocks(mine, keep=count is not None):
                tree.add(number_of[number], add_up(blocks, self.family, w).packed())
            whole = TreeSum()
            for payload in self.worker.all_gather(_encoded(tree)):
                whole.merge(_decoded(payload))
            return Sums.unpacked(whole.total(len(chosen)), self.features)

        return evaluate

    def _blocks(self, numbers: Sequence[int], *, keep: bool) -> Iterator[tuple[int, Iterator[Block] | list[Block]]]:
        job = self.job
        names = [name for name in (job.features, job.label, job.weight, job.offset) if name]
        missing = [number for number in numbers if number not in self.kept]
        reader = ShardReader(self.set, [self.groups[number] for number in missing], names)
        yield from ((number, self.kept[number]) for number in numbers if number in self.kept)
        for number, (_, batches) in zip(missing, reader.by_group(), strict=True):
            blocks = (self._block(batch) for batch in batches)
            if keep:
                self.kept[number] = [block.copy() for block in blocks]
                yield number, self.kept[number]
            else:
                yield number, blocks

    def _block(self, batch: dict[str, Any]) -> Block:
        x = batch[self.job.features].reshape(len(batch[self.job.label]), self.features)
        y = batch[self.job.label].astype(x.dtype, copy=False)
        if wrong := self.family.check(y):
            raise DataError(f"column {self.job.label!r}: {wrong}")
        return Block(
            x, y, *(batch[name].astype(x.dtype, copy=False) if name else None for name in (self.job.weight, self.job.offset))
        )


def _encoded(tree: TreeSum) -> bytes:
    file = io.BytesIO()
    nodes = sorted(tree.nodes)
    np.savez(file, nodes=np.array(nodes, np.int64).reshape(-1, 2), values=np.array([tree.nodes[node] for node in nodes]))
    return file.getvalue()


def _decoded(payload: bytes) -> dict[Node, Array]:
    with np.load(io.BytesIO(payload), allow_pickle=False) as found:
        return {(int(level), int(place)): value for (level, place), value in zip(found["nodes"], found["values"], strict=True)}
