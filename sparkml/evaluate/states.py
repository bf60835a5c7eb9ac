"""What runs inside Spark tasks: rows to additive states, states merged, values read; NumPy and Arrow only.

A *group* is a set of rows that is measured: 0 all rows, then one per slice value. A *block* is a range of replicates whose
states travel in one record of about a megabyte; block -1 is the point estimate with finer histograms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml.evaluate import histogram
from sparkml.evaluate.bootstrap import poisson_weights
from sparkml.evaluate.calibration import calibration_sums
from sparkml.evaluate.metric import Array, Layout, Metric, Rows, binned_sums

if TYPE_CHECKING:
    import pyarrow as pa

POINT = -1
CALIBRATION_BINS = 15
MAX_CONFUSION_CLASSES = 100
_CHUNK_ROWS = 4096  # 200 replicates x 4096 rows of weights are 6.5 MB: stays near the cache
_RECORD_BYTES = 1 << 20
_POINT_BYTES = 64 << 20  # budgets for the histograms that one task holds
_REPLICATE_BYTES = 64 << 20

Statistic = Callable[[Rows, Array, Layout], Array]


@dataclass(frozen=True)
class Plan:
    """What every task needs to know; small, travels in the closure.

    Attributes
    ----------
    slices
        (column, its values) in order; values that are not listed are pooled in one more group.
    """

    metrics: tuple[Metric, ...]
    classes: int
    has_probability: bool
    replicates: int
    seed: int
    slices: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def groups(self) -> int:
        """The number of row sets that are measured."""
        return 1 + sum(len(values) + 1 for _, values in self.slices)

    def layout(self, group: int, block: int) -> Layout:
        """Return the layout of a state: histogram bins as fine as the memory budgets allow, 65,536 at most."""
        cells = 16 * len(histogram.columns(self.classes)) if self.classes else 16  # bytes of one bin of all classes
        if block != POINT:
            bins = _power_of_two(_REPLICATE_BYTES // (cells * (self.replicates + 1) * self.groups), 64, 512)
        elif group == 0:
            bins = _power_of_two(_POINT_BYTES // cells, 1024, 65536)
        else:
            bins = _power_of_two(_POINT_BYTES // (cells * self.groups), 256, 65536)
        return Layout(self.classes, bins)

    def statistics(self, group: int, block: int) -> dict[str, Statistic]:
        """Return the statistics of a state in the order in which they are concatenated."""
        found: dict[str, Statistic] = {metric.statistic or metric.plugin_name(): metric.state for metric in self.metrics}
        if group == 0 and block == POINT and self.classes:
            if self.has_probability:
                found["score_histogram"] = histogram.score_histogram
                found["reliability"] = lambda rows, weights, _: calibration_sums(rows, weights, CALIBRATION_BINS)
            if self.classes <= MAX_CONFUSION_CLASSES:
                found["confusion"] = _confusion
        return found

    def width(self, group: int, block: int) -> dict[str, int]:
        """Return the size S of each statistic, found by measuring no rows."""
        probability = np.zeros((0, self.classes)) if self.has_probability else None
        nothing = Rows(np.zeros(0), np.zeros(0), probability)
        layout = self.layout(group, block)
        return {name: state(nothing, np.zeros((1, 0)), layout).shape[1] for name, state in self.statistics(group, block).items()}


def _power_of_two(limit: int, least: int, most: int) -> int:
    return int(min(most, max(least, 1 << max(0, int(limit).bit_length() - 1))))


def _confusion(rows: Rows, weights: Array, layout: Layout) -> Array:
    return binned_sums(weights, rows.y * layout.classes + rows.prediction, layout.classes**2)


def read_rows(batch: pa.RecordBatch, plan: Plan) -> Rows:
    """Return the rows of a batch with columns label, prediction and, for classes, probability (list of doubles)."""
    y = batch.column("label").to_numpy(zero_copy_only=False)
    prediction = batch.column("prediction").to_numpy(zero_copy_only=False)
    if not plan.has_probability:
        return Rows(y, prediction, None)
    flat = batch.column("probability").flatten().to_numpy(zero_copy_only=False)
    given = flat.reshape(batch.num_rows, -1) if batch.num_rows else np.zeros((0, plan.classes))
    # a model that never saw the last classes in training gives them no column: probability 0
    return Rows(y, prediction, np.pad(given, ((0, 0), (0, plan.classes - given.shape[1]))))


def memberships(batch: pa.RecordBatch, plan: Plan) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    """Yield (group, mask of its rows) for every slice value that occurs in the batch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = 1
    for position, (_, values) in enumerate(plan.slices):
        index = pc.index_in(batch.column(f"slice{position}"), value_set=pa.array(values, pa.string())).fill_null(len(values))
        index = index.to_numpy(zero_copy_only=False)
        for value in np.unique(index):
            yield first + int(value), index == value
        first += len(values) + 1


def partial_states(batches: Iterable[pa.RecordBatch], plan: Plan) -> Iterator[pa.RecordBatch]:
    """Sum the states of one partition (a function for ``mapInArrow``); record: group, block, state as float64 bytes."""
    states: dict[tuple[int, int], Array] = {}

    def add(group: int, rows: Rows, weights: Array) -> None:
        for block, part in ((POINT, weights[:1]), (0, weights)):
            layout = plan.layout(group, block)
            pieces = [statistic(rows, part, layout) for statistic in plan.statistics(group, block).values()]
            state = np.concatenate(pieces, axis=1)
            if (group, block) in states:
                states[group, block] += state
            else:
                states[group, block] = state

    for whole in batches:
        for start in range(0, whole.num_rows, _CHUNK_ROWS):
            batch = whole.slice(start, _CHUNK_ROWS)
            rows = read_rows(batch, plan)
            keys = batch.column("key").to_numpy(zero_copy_only=False)
            # row 0 weighs every row once: its value tells what the coarser histograms of the replicates are off by
            weights = np.concatenate([np.ones((1, len(keys))), poisson_weights(keys, plan.replicates, plan.seed)])
            add(0, rows, weights)
            for group, mask in memberships(batch, plan):
                add(group, rows.take(mask), weights[:, mask])
    for (group, block), state in states.items():
        yield from _records(group, block, state)


def _records(group: int, block: int, state: Array) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    step = len(state) if block == POINT else max(1, _RECORD_BYTES // (8 * state.shape[1]))
    for number, start in enumerate(range(0, len(state), step)):
        part = state[start : start + step]
        yield pa.RecordBatch.from_pydict(
            {
                "group": pa.array([group], pa.int32()),
                "block": pa.array([block if block == POINT else number], pa.int32()),
                "state": pa.array([part.tobytes()], pa.binary()),
            }
        )


def merged_values(batches: Iterable[pa.RecordBatch], plan: Plan) -> Iterator[pa.RecordBatch]:
    """Add up the records of equal group and block and read the values; all records of a pair are in this partition.

    Record: group, block, values (metric-major: all replicates of the first metric, then of the next), details as JSON.
    """
    import pyarrow as pa

    sums: dict[tuple[int, int], Array] = {}
    for batch in batches:
        for group, block, state in zip(*(batch.column(name) for name in ("group", "block", "state")), strict=True):
            array = np.frombuffer(state.as_buffer(), np.float64)
            key = (group.as_py(), block.as_py())
            if key in sums:
                sums[key] += array
            else:
                sums[key] = array.copy()
    for (group, block), flat in sums.items():
        values, details = read_values(flat, group, block, plan)
        yield pa.RecordBatch.from_pydict(
            {
                "group": pa.array([group], pa.int32()),
                "block": pa.array([block], pa.int32()),
                "values": pa.array([values.ravel()], pa.list_(pa.float64())),
                "details": pa.array([json.dumps(details)], pa.string()),
            }
        )


def read_values(flat: Array, group: int, block: int, plan: Plan) -> tuple[Array, dict[str, Any]]:
    """Return the values, shape (metrics, replicates of the block), and for the point estimate of all rows what is drawn of it."""
    widths = plan.width(group, block)
    layout = plan.layout(group, block)
    pieces = np.split(flat.reshape(-1, sum(widths.values())), np.cumsum(list(widths.values()))[:-1], axis=1)
    states = dict(zip(widths, pieces, strict=True))
    values = np.stack([metric.value(states[metric.statistic or metric.plugin_name()], layout) for metric in plan.metrics])
    details: dict[str, Any] = {}
    if "confusion" in states:
        details["confusion"] = states["confusion"].reshape(plan.classes, plan.classes).astype(int).tolist()
    if "reliability" in states:
        details["curves"] = histogram.curves(states["score_histogram"], layout)
        count, confidence, correct = states["reliability"].reshape(3, CALIBRATION_BINS)
        details["calibration"] = [
            {"rows": int(n), "confidence": round(float(c / n), 9), "accuracy": round(float(r / n), 9)}
            for n, c, r in zip(count, confidence, correct, strict=True)
            if n > 0
        ]
    return values, details
