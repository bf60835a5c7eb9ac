"""Reading shards by ranks: against a bare PyArrow loop over the same row groups, and against Spark's mapInArrow.

Two ranks, each a process of its own that lives through all rounds, read a 20 x float32 tensor and a label. All sides decode
every column of every row and look at one value per block, so that no side may skip its work.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import Bench
from sparkml.shards.reader import BLOCK_ROWS, RowGroup, ShardReader, ShardSet
from sparkml.shards.schema import Column
from sparkml.shards.writer import write_shard
from sparkml.storage import Store

RANKS, FEATURES, FILES = 2, 20, 4
GROUP_ROWS = 1 << 18  # 21 MB: what 1e7 rows over two ranks are cut into is still some 40 groups
COLUMNS = [Column(name="x", dtype="float32", shape=(FEATURES,)), Column(name="y", dtype="float32")]


def make(folder: str, rows: int) -> str:
    """Publish `rows` rows as shards and return their URL."""
    store = Store(folder)
    random = np.random.default_rng(7)
    with store.stage() as staging:
        found: list[dict[str, Any]] = []
        for partition in range(FILES):
            count = rows // FILES
            report = write_shard(
                _batches(random, count),
                partition=partition,
                root=store.root,
                folder=staging.path,
                columns=COLUMNS,
                group_rows=GROUP_ROWS,
            )
            found += [row for batch in report for row in batch.to_pylist()]
        extra = {"columns": [column.model_dump() for column in COLUMNS], "groups": {row["path"]: row["groups"] for row in found}}
        store.publish(staging, "bench", kind="shards", fingerprint="bench", extra=extra)
    return store.url("bench")


def _batches(random: np.random.Generator, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, rows, GROUP_ROWS):
        count = min(GROUP_ROWS, rows - start)
        values = pa.array(random.random(count * FEATURES, dtype=np.float32))
        offsets = pa.array(np.arange(0, count * FEATURES + 1, FEATURES, dtype=np.int32))
        label = pa.array(random.integers(0, 2, count).astype(np.float32))
        yield pa.RecordBatch.from_arrays([pa.ListArray.from_arrays(offsets, values), label], names=["x", "y"])


def by_rank(url: str, rank: int, batch_size: int, seed: int | None) -> int:
    """What a rank does: its row groups in batches of arrays."""
    rows, seen = 0, 0.0
    for batch in ShardReader(url, ShardSet.open(url).assign(rank, RANKS)).batches(batch_size, shuffle_seed=seed):
        rows += len(batch["y"])
        seen += float(batch["x"][0, 0]) + float(batch["y"][0])
    return rows


def bare(url: str, rank: int) -> int:
    """The same row groups by PyArrow alone, in the blocks that are fastest here."""
    rows, seen = 0, 0.0
    store = Store(url)
    for path, indices in _by_file(ShardSet.open(url).assign(rank, RANKS)).items():
        with pq.ParquetFile(store.at(path)) as file:
            for batch in file.iter_batches(BLOCK_ROWS, indices, use_threads=False):
                x = np.frombuffer(batch.column(0).buffers()[1], np.float32)
                seen += float(x[0]) + float(batch.column(1).to_numpy()[0])
                rows += batch.num_rows
    return rows


def _by_file(groups: list[RowGroup]) -> dict[str, list[int]]:
    files: dict[str, list[int]] = {}
    for group in groups:
        files.setdefault(group.path, []).append(group.index)
    return files


def map_in_arrow(spark: Any, url: str, rows: int) -> Callable[[], None]:
    """The same files through the JVM and the pipe to Python, in Spark's default batches."""
    frame = spark.read.parquet(url)

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total, seen = 0, 0.0
        for batch in batches:
            if batch.num_rows:
                seen += np.frombuffer(batch.column(0)[0].as_py(), np.float32)[0] + batch.column(1)[0].as_py()
            total += batch.num_rows
        yield pa.RecordBatch.from_pydict({"rows": [total]})

    def run() -> None:
        found = sum(row.rows for row in frame.mapInArrow(count, "rows long").collect())
        assert found == rows, found

    return run


def main() -> int:
    bench = Bench(__doc__.splitlines()[0])
    rows = 1_000_000 if bench.quick else 10_000_000
    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as folder:
        url = make(folder, rows)
        with ProcessPoolExecutor(RANKS, mp_context=get_context("spawn")) as pool:

            def ranks(work: Callable[..., int], *arguments: Any) -> Callable[[], None]:
                def run() -> None:
                    found = sum(future.result() for future in [pool.submit(work, url, r, *arguments) for r in range(RANKS)])
                    assert found == rows, found

                return run

            mine = {"ranks, batches of 4096": ranks(by_rank, 4096, None)}
            bare_loop, shuffled = ranks(bare), ranks(by_rank, 4096, 7)
            reading = bench.compare({**mine, "bare PyArrow loop": bare_loop, "ranks, shuffled": shuffled}, repeats=25)
            spark = _session(folder)  # only now: an idle JVM is not idle
            against = bench.compare({**mine, "mapInArrow": map_in_arrow(spark, url, rows)})
            spark.stop()
    for name, timing in {**against, **reading}.items():
        bench.add(f"shards: {name}", rows / timing.wall_median / 1e6, "M rows/s")
    (first, to_bare, _), (second, to_arrow) = reading.values(), against.values()
    bench.add("shards: ranks / bare PyArrow loop", to_bare.wall_median / first.wall_median, "x", at_least=0.8)
    bench.add("shards: ranks / mapInArrow", to_arrow.wall_median / second.wall_median, "x", at_least=5)
    return bench.finish()


def _session(folder: str) -> Any:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master(f"local[{RANKS}]")
        .config("spark.driver.memory", "2g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.local.dir", folder)
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return session


if __name__ == "__main__":
    sys.exit(main())
