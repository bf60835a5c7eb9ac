"""`train_linear`: what a rank does for a linear model. It starts on a sample, and ends with a pass or two over all rows."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sparkml.errors import ConfigError, DataError, TrainingError
from sparkml.launch.worker import Worker
from sparkml.learners.linear.facts import Facts, Looker, Scaling, WrongRowsError
from sparkml.learners.linear.families import Array as Values
from sparkml.learners.linear.families import Family, Gaussian
from sparkml.learners.linear.multinomial import Multinomial, MultinomialAdder
from sparkml.learners.linear.newton import Problem, Result, Step, minimise
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.statistics import describe_fit
from sparkml.learners.linear.sums import Adder, Block, Sums
from sparkml.learners.linear.tree_sum import Array, Node, TreeSum, shares
from sparkml.shards.reader import ShardReader, ShardSet

_SAMPLE_ROWS = 1 << 16  # of the first sample at least; and for each coefficient:
_ROWS_PER_COEFFICIENT = 100
_GROWTH = 8
_LARGEST_SAMPLE = 1 / 8  # of the rows: from there on all of them are read
_SAMPLE_PASSES = 30
_FAR_ETA = 25.0  # probabilities of exp(-25): a coefficient on its way to infinity
_EXACT_NUMBERS = 1 << 24  # of all features: up to there all is done in float64
_PRECISIONS = {"float64": 1e-15, "float32": 2e-9}  # of Gram matrices: their roundings average
_MANY_COEFFICIENTS = 500
MOST_COEFFICIENTS = 4096  # their Gram matrix takes 128 MiB


@dataclass(frozen=True)
class LinearJob:
    """What to fit; travels to the ranks.

    Attributes
    ----------
    shards
        URL of a set with the columns `features` (a tensor of one dimension), `label` and, if named, `weight` and `offset`.
    tolerance
        Distance from the optimum in the norm of the Hessian that is good enough: about the root mean square of what is wrong
        with eta, each row weighted by its curvature.
    passes
        Over all rows, at most.
    memory
        Bytes of rows that are kept from one pass to the next, by all ranks together. What the sums are does not depend on it but
        for the size of the largest sample.
    """

    shards: str
    features: str
    label: str
    family: Family | Multinomial
    penalty: Penalty = field(default_factory=Penalty)
    weight: str | None = None
    offset: str | None = None
    tolerance: float = 1e-6
    passes: int = 100
    seed: int = 7
    memory: int = 512 << 20


def train_linear(worker: Worker, job: LinearJob) -> bytes:
    """Fit, and return the answer as JSON; the same on every rank.

    A rank computes in one thread: how BLAS divides a product among threads changes its last bits.

    Raises
    ------
    DataError
        Labels that the family does not allow, features that are not finite, nothing to learn from.
    TrainingError
        The loss is not finite.
    """
    with threadpool_limits(1, user_api="blas"):
        return json.dumps(_fit(_Rank(worker, job))).encode()


def _fit(rank: _Rank) -> dict[str, Any]:
    job, w = rank.job, rank.start()
    history: dict[str, list[float]] = {}
    plain = w
    for count in rank.samples():
        with contextlib.suppress(_NothingWeighsError):
            found = rank.minimised(count, w, rank.precision(count), _SAMPLE_PASSES)
            w, history[f"{rank.rows_of(count)} rows"] = found.w, [decrement for _, decrement in found.steps]
    try:
        done = rank.minimised(None, w, job.tolerance, job.passes)
    except TrainingError:  # what suits the sample may not suit a row outside of it
        if w is plain:
            raise
        done = rank.minimised(None, plain, job.tolerance, job.passes)
    facts = rank.facts[None]
    return {
        "w": rank.raw(done.w).tolist(),
        "converged": done.converged,
        "passes": len(done.steps),
        "decrements": {**history, "all rows": [decrement for _, decrement in done.steps]},
        "objectives": [objective for objective, _ in done.steps],
        "error": None if np.isinf(done.last.error) else done.last.error,
        "rows": facts.rows,
        "weight": facts.weight,
        "separated": rank.separated,
        "fading": rank.free and job.family.bend == 1 and rank.reached(done.w) > _FAR_ETA,
        "constant": np.flatnonzero(facts.most == facts.least).tolist() if job.penalty.intercept else [],
        "dependent": np.flatnonzero(done.last.solution.dependent.reshape(rank.outputs, -1)[:, :-1].any(axis=0)).tolist(),
        **describe_fit(
            job.family,
            done.last,
            facts,
            rank.scaling,
            intercept=job.penalty.intercept,
            offset=job.offset is not None,
            penalised=bool(job.penalty.strength) or not job.penalty.smooth,
        ),
    }


class _NothingWeighsError(DataError):
    """All of some rows have a weight of 0."""


class _Rank:
    """One rank's rows, and the sums over those of all ranks.

    A set of row groups is named by its `count`: that many of those in the random `order`, or (None) all of them.
    """

    def __init__(self, worker: Worker, job: LinearJob) -> None:
        self.worker, self.job, self.family = worker, job, job.family
        self.set = ShardSet.open(job.shards)
        self.groups = self.set.groups
        if not self.set.num_rows:
            raise DataError("there are no rows to train on")
        (column,) = (column for column in self.set.columns if column.name == job.features)
        self.features = int(np.prod(column.shape, dtype=int))
        exact = self.set.num_rows * self.features <= _EXACT_NUMBERS or column.dtype == "float64"
        self.kind: np.dtype[np.floating[Any]] = np.dtype(np.float64 if exact else np.float32)
        self.outputs = self.family.classes if isinstance(self.family, Multinomial) else 1
        self.size = self.outputs * (self.features + 1)
        if self.size > MOST_COEFFICIENTS:
            raise ConfigError(
                f"{self.size} coefficients: a linear model on ranks takes at most {MOST_COEFFICIENTS}",
                hint="hash or select features",
            )
        # whole subtrees of the sum: fewer partial sums travel, the more so the larger they are
        unevenness = 0.02 if self.size <= _MANY_COEFFICIENTS else 0.1
        self.mine = shares([group.rows for group in self.groups], worker.size, unevenness)[worker.rank]
        self.row_bytes = (self.features + 3) * self.kind.itemsize
        # a sample is a random set of row groups, by the seed alone
        self.order = np.random.default_rng(job.seed).permutation(len(self.groups))
        self.scaling: Scaling | None = None
        self.facts: dict[int | None, Facts] = {}
        self.kept: dict[int, list[Block]] = {}
        self.kept_bytes = self.steps = self.groups_read = 0
        self.free = not (job.penalty.strength or job.penalty.bounded)  # nothing keeps coefficients from infinity
        self.separated, self.label_center = False, 0.0
        self._buffer: Values = np.empty((0, self.features), self.kind)

    # --- samples ---

    def rows_of(self, count: int) -> int:
        return sum(self.groups[number].rows for number in self.order[:count])

    def samples(self) -> Iterator[int]:
        """Yield how many of the row groups in `order` each sample has, the smallest first."""
        rows = max(_SAMPLE_ROWS, _ROWS_PER_COEFFICIENT * self.size)
        ends = np.cumsum([self.groups[number].rows for number in self.order])
        most = min(_LARGEST_SAMPLE * ends[-1], self.job.memory / self.row_bytes)
        before = 0
        while rows <= most:
            count = int(np.searchsorted(ends, rows)) + 1
            if count > before and ends[count - 1] <= 2 * most:
                yield (before := count)
            rows *= _GROWTH

    def precision(self, count: int) -> float:
        """Return the distance below which a sample's optimum is no nearer to that of all rows."""
        return 0.1 * float(np.sqrt(self.size / self.rows_of(count)))

    def start(self) -> Array:
        """Look at some rows, decide on the scaling of the features, and return coefficients to start from."""
        ends = np.cumsum([self.groups[number].rows for number in self.order])
        some = min(int(np.searchsorted(ends, _SAMPLE_ROWS)) + 1, len(ends))
        facts = next((facts for count in (some, len(ends)) if (facts := self._looked_at(count)).weight > 0), None)
        if facts is None:
            raise DataError(f"column {self.job.weight!r}: every row has a weight of 0")
        centred, exact = self.job.penalty.centred, self.kind == np.float64
        self.scaling = Scaling.of(facts, center=centred, always=exact)
        if isinstance(self.family, Gaussian) and centred and not exact:
            self.label_center = facts.label / facts.weight  # so that float32 keeps what labels differ by
            self.kept.clear()
            self.kept_bytes = 0
        if self.scaling is not None:
            for blocks in self.kept.values():
                blocks[:] = [Block(self.scaling.apply(b.x, b.x), b.y, b.weight, b.offset) for b in blocks]
        w = np.zeros(self.size)
        if self.job.penalty.intercept and not isinstance(self.family, Multinomial):
            w[-1] = self.family.start(facts.label / facts.weight - self.label_center)
        return w

    def raw(self, w: Array) -> Array:
        """Return coefficients of the features as they come: (outputs, features + 1)."""
        each = w.reshape(self.outputs, -1)
        each = each.copy() if self.scaling is None else each @ self.scaling.raw().T
        each[:, -1] += self.label_center
        if self.outputs > 1:  # what all classes have in common says nothing: MLlib's choice is 0
            each[:, -1] -= each[:, -1].mean()
            if not self.job.penalty.strength:
                each[:, :-1] -= each[:, :-1].mean(axis=0)
        return each

    def reached(self, w: Array) -> float:
        """Return the largest part of an eta, either way, that comes from one feature."""
        facts = self.facts[None]
        slopes = np.abs(w.reshape(self.outputs, -1)[:, :-1])
        return float((slopes * np.maximum(np.abs(facts.least), np.abs(facts.most))).max(initial=0.0))

    # --- passes ---

    def minimised(self, count: int | None, w: Array, tolerance: float, passes: int) -> Result:
        return minimise(
            lambda at: self._evaluated(count, at),
            w,
            tolerance=tolerance,
            passes=passes,
            told=lambda step: self._told(step, count),
            patient=self.set.num_rows * self.row_bytes <= self.job.memory,
            kind=self.kind,
        )

    def _told(self, step: Step, count: int | None) -> bool:
        self.steps += 1
        if self.worker.rank == 0:
            report = {"step": self.steps, "rows": int(step.sums.rows), "objective": step.objective, "decrement": step.decrement}
            self.worker.report(report)
        return self.separated

    def _evaluated(self, count: int | None, w: Array) -> tuple[Sums, Problem]:
        """Return the sums at `w`, and what is minimised; the first pass over a set of rows finds its facts, too."""
        new = count not in self.facts

        def add(blocks: Iterator[Block]) -> tuple[Array, Array]:
            looker = Looker(self.family, self.features)
            adder = MultinomialAdder(self.family, w) if isinstance(self.family, Multinomial) else Adder(self.family, w)
            for block in blocks:
                if new:
                    looker.take(block)
                adder.take(block)
            sums, extremes = looker.facts().packed() if new else (np.empty(0), np.empty(0))
            return np.concatenate([adder.sums().packed(), sums]), np.append(extremes, adder.margin)

        total, least = self._added_up(count, add)
        cut = 4 + self.size + self.size * (self.size + 1) // 2
        if new:
            self.facts[count] = facts = Facts.unpacked(total[cut:], least[:-1])
            if not facts.weight > 0:
                raise _NothingWeighsError(f"column {self.job.weight!r}: every row has a weight of 0")
            mean = facts.label / facts.weight
            if count is None and (wrong := self.family.check_labels(mean + self.label_center, facts.label_variance)):
                raise DataError(f"column {self.job.label!r}: {wrong}", hint="there is nothing to learn from such labels")
        self.separated = self.free and self.family.separable and float(least[-1]) > 0
        facts = self.facts[count]
        reach = np.append(np.maximum(np.abs(facts.least), np.abs(facts.most)), 1.0)
        terms = self.job.penalty.on(facts, self.scaling, self.outputs)
        problem = Problem(terms, reach, self.family.bend, _PRECISIONS[self.kind.name], self.outputs)
        return Sums.unpacked(total[:cut], self.size), problem

    def _looked_at(self, count: int) -> Facts:
        def look(blocks: Iterator[Block]) -> tuple[Array, Array]:
            looker = Looker(self.family, self.features)
            for block in blocks:  # in float64: nothing is known of their scale yet
                parts = (
                    None if part is None else part.astype(np.float64) for part in (block.x, block.y, block.weight, block.offset)
                )
                looker.take(Block(*parts))  # type: ignore[arg-type]
            return looker.facts().packed()

        return Facts.unpacked(*self._added_up(count, look))

    def _added_up(self, count: int | None, add: Callable[[Iterator[Block]], tuple[Array, Array]]) -> tuple[Array, Array]:
        """Return the sum of what `add` makes of each row group, over all ranks, and the minimum."""
        chosen = range(len(self.groups)) if count is None else sorted(int(number) for number in self.order[:count])
        number_of = {number: at for at, number in enumerate(chosen)}
        tree, least = TreeSum(), None
        for number, blocks in self._blocks([number for number in chosen if number in self.mine]):
            try:
                total, extremes = add(iter(blocks))
            except WrongRowsError as error:
                group, column = self.groups[number], getattr(self.job, error.role)
                where = f"{self.set.url}, {group.path}, row group {group.index}"
                raise DataError(f"column {column!r}: {error}", hint=f"the first rows that are wrong are in {where}") from None
            self.worker.note("data", self.groups_read)
            self.groups_read += 1
            tree.add(number_of[number], total)
            least = extremes if least is None else np.minimum(least, extremes)
        whole = TreeSum()
        self.worker.note("step", self.steps)
        found = [_decoded(payload) for payload in self.worker.all_gather(_encoded(tree, least))]
        for nodes, _ in found:
            whole.merge(nodes)
        return whole.total(len(chosen)), np.min([extremes for _, extremes in found if len(extremes)], axis=0)

    def _blocks(self, numbers: Sequence[int]) -> Iterator[tuple[int, Iterator[Block] | list[Block]]]:
        """Yield row groups: those in memory first. Others are kept as long as there is room."""
        job = self.job
        names = [name for name in (job.features, job.label, job.weight, job.offset) if name]
        missing = [number for number in numbers if number not in self.kept]
        reader = ShardReader(self.set, [self.groups[number] for number in missing], names)
        yield from ((number, self.kept[number]) for number in numbers if number in self.kept)
        for number, (group, batches) in zip(missing, reader.by_group(), strict=True):
            size = group.rows * self.row_bytes
            keep = self.kept_bytes + size <= job.memory / self.worker.size
            blocks = (self._block(batch, keep) for batch in batches)
            if keep:
                self.kept_bytes += size
                self.kept[number] = list(blocks)
                yield number, self.kept[number]
            else:
                yield number, blocks

    def _block(self, batch: dict[str, Any], keep: bool) -> Block:
        job, kind = self.job, self.kind
        labels = batch[job.label].astype(np.float64) - self.label_center if self.label_center else batch[job.label]
        y = labels.astype(kind, copy=keep)
        weight, offset = (None if name is None else batch[name].astype(kind, copy=keep) for name in (job.weight, job.offset))
        x = batch[job.features].reshape(len(y), self.features).astype(kind, copy=keep)
        if self.scaling is not None:
            if not keep and len(self._buffer) < len(x):
                self._buffer = np.empty(x.shape, kind)
            x = self.scaling.apply(x, x if keep else self._buffer[: len(x)])
        return Block(x, y, weight, offset)


def _encoded(tree: TreeSum, least: Array | None) -> bytes:
    file = io.BytesIO()
    nodes = sorted(tree.nodes)
    values = np.array([tree.nodes[node] for node in nodes])
    np.savez(file, nodes=np.array(nodes, np.int64).reshape(-1, 2), values=values, least=np.empty(0) if least is None else least)
    return file.getvalue()


def _decoded(payload: bytes) -> tuple[dict[Node, Array], Array]:
    with np.load(io.BytesIO(payload), allow_pickle=False) as found:
        nodes = {(int(level), int(place)): value for (level, place), value in zip(found["nodes"], found["values"], strict=True)}
        return nodes, found["least"]
