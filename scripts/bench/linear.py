"""Linear models: passes against bare reading, whole fits to the exact optimum, and MLlib and scikit-learn on the same rows.

    .venv/bin/python scripts/bench/linear.py [--rows 1e9] [--folder FOLDER] [--only PART ...] [--quick] [--json FILE]

Rows are those of linear_rows.py; the largest size that fits the disk is taken, and said. The parts `passes` and `fits` are on
--rows x 10; `mllib` and `sklearn` on 1e7 x 20 and 1e6 x 20. Files larger than the memory come from the disk, smaller ones from
the page cache, where reading costs a copy of fixed size and every ratio to it is at its worst.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes here; ranks have their own

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import PYTHONPATH, Bench
from scripts.bench.linear_rows import BLOCK, block, publish
from sparkml.learners.linear.families import Binomial, Gaussian
from sparkml.learners.linear.rows import RankRows, RowSource
from sparkml.learners.linear.sums import Adder
from sparkml.shards.reader import ShardReader, ShardSet

RANKS = 2
PARTS = ("passes", "fits", "mllib", "sklearn")


class _Alone:
    """A rank that needs no other."""

    size, host = RANKS, "here"

    def __init__(self, rank: int) -> None:
        self.rank = rank


def read(url: str, rank: int) -> int:
    """Decode the features and labels of a rank's row groups, and look at one value of each block."""
    mine = RankRows(_Alone(rank), RowSource(url, "x", ("label",)))  # type: ignore[arg-type]
    rows, seen = 0, 0.0
    for _, blocks in ShardReader(mine.set, [mine.groups[number] for number in mine.mine], ["x", "label"]).by_group():
        for batch in blocks:
            rows += len(batch["label"])
            seen += float(batch["x"][0, 0]) + float(batch["label"][0])
    return rows


def one_pass(url: str, rank: int, family: Any, label: str) -> int:
    """What a rank does in one pass over its rows, nothing kept."""
    mine = RankRows(_Alone(rank), RowSource(url, "x", (label,), memory=0))  # type: ignore[arg-type]
    adder = Adder(family, np.full(mine.features + 1, 0.01))
    for _, several in mine.by_group(list(mine.mine)):
        for rows in several:
            adder.take(rows.of(0))
    return int(adder.sums().rows)


class Peak:
    """The largest sum of RSS of this process and its descendants, looked at every 100 ms. Pages of files are not in it."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.1):
            total = 0
            for process in me.children(recursive=True):
                try:
                    memory = process.memory_info()
                except psutil.NoSuchProcess:
                    continue
                total += memory.rss - memory.shared
            self.bytes = max(self.bytes, total)


def passes(bench: Bench, url: str, rows: int) -> None:
    """Passes of ranks against bare reading of the same columns."""
    with ProcessPoolExecutor(RANKS, mp_context=get_context("spawn")) as pool:

        def ranks(work: Callable[..., int], *more: Any) -> Callable[[], None]:
            def run() -> None:
                found = sum(future.result() for future in [pool.submit(work, url, rank, *more) for rank in range(RANKS)])
                assert found == rows, found

            return run

        sides = {
            "read and decode": ranks(read),
            "logistic pass": ranks(one_pass, Binomial(), "label"),
            "least squares pass": ranks(one_pass, Gaussian(), "value"),
        }
        bare, logistic, squares = bench.compare(sides, repeats=3 if rows >= 1e8 else 9).values()
    bench.add("linear: reading", rows / bare.wall_median / 1e6, "M rows/s")
    bench.add("linear: logistic pass / reading", logistic.wall_median / bare.wall_median, "x", at_most=1.25)
    bench.add("linear: least squares pass / reading", squares.wall_median / bare.wall_median, "x")


def fits(bench: Bench, url: str, rows: int) -> None:
    """Whole jobs, each in a process of its own: Python, JVM, session, gang, sample, passes."""
    found: dict[str, dict[str, Any]] = {}
    peaks: list[int] = []

    def fit(name: str, *arguments: str) -> Callable[[], None]:
        def run() -> None:
            words = [sys.executable, str(Path(__file__).with_name("bare_linear_fit.py")), url, *arguments]
            with Peak() as peak:
                done = subprocess.run(words, env={**os.environ, **PYTHONPATH}, capture_output=True, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            peaks.append(peak.bytes)
            shown = {key: value for key, value in found[name].items() if key != "w"}
            print(f"  {shown}; peak {peak.bytes / 2**30:.2f} GiB", flush=True)

        return run

    def reading() -> None:
        with ProcessPoolExecutor(RANKS, mp_context=get_context("spawn")) as pool:
            assert sum(pool.map(read, [url] * RANKS, range(RANKS))) == rows

    sides = {
        "read and decode, a process for each": reading,
        "logistic regression, tol 1e-9": fit("exact", "logistic", "1e-9"),
        "logistic regression, tol 1e-4": fit("once", "logistic", "1e-4"),
        "linear regression": fit("squares", "linear", "1e-6"),
    }
    large = rows > 3e8
    bare, exact, once, squares = bench.compare(sides, repeats=1 if large else 3, warm_up=not large).values()
    away = float(np.max(np.abs(np.array(found["exact"]["w"]) - found["once"]["w"])))
    bench.add("linear: logistic fit, exact", exact.wall_median, "s")
    bench.add("linear: logistic fit, exact / reading once", exact.wall_median / bare.wall_median, "x", at_most=2.6)
    bench.add("linear: logistic fit, one pass / reading once", once.wall_median / bare.wall_median, "x", at_most=1.4)
    bench.add("linear: one pass, largest error of a coefficient", away * 1e6, "1e-6", at_most=100)
    bench.add("linear: one pass, its own bound", found["once"]["error"] * 1e6, "1e-6", at_most=100)
    bench.add("linear: linear regression / reading once", squares.wall_median / bare.wall_median, "x", at_most=1.2)
    bench.add("linear: peak RSS of a fit", max(peaks) / 2**30, "GiB", at_most=2)


def mllib(bench: Bench, folder: str, rows: int) -> None:
    """MLlib on the same rows, to the same optimum: from Parquet, and from a cached, assembled frame, its best case."""
    import sparkml

    url = publish(folder, rows, 20)
    plain = str(Path(folder, f"plain-{rows}x20"))
    if not Path(plain).exists():
        _plain(Path(plain), rows, 20)
    spark = sparkml.session("local[2]")
    from pyspark.ml.classification import LogisticRegression as Theirs
    from pyspark.ml.feature import VectorAssembler

    from sparkml.estimators import LogisticRegression

    assembler = VectorAssembler(inputCols=[f"x{number}" for number in range(20)], outputCol="x")
    theirs = Theirs(featuresCol="x", regParam=0.0, tol=1e-9, maxIter=100)
    frame = assembler.transform(spark.read.parquet(plain))
    models: dict[str, Any] = {}

    def ours() -> None:
        models["ours"] = LogisticRegression(featuresCol="x", family="binomial", verbose=False).fit(spark.read.parquet(url))

    def from_parquet() -> None:
        models["theirs"] = theirs.fit(frame)

    first, parquet = bench.compare({"ours": ours, "MLlib from Parquet": from_parquet}, repeats=1).values()
    cached = frame.select("x", "label").persist()
    cached.count()

    def from_cache() -> None:
        models["theirs"] = theirs.fit(cached)

    again, cache = bench.compare({"ours": ours, "MLlib from its cache": from_cache}, repeats=1).values()
    spark.stop()
    away = np.max(np.abs(models["ours"].coefficients.toArray() - models["theirs"].coefficients.toArray()))
    bench.add("linear: largest difference to MLlib's coefficients", float(away) * 1e6, "1e-6", at_most=100)
    bench.add("linear: MLlib from Parquet / ours", parquet.wall_median / first.wall_median, "x", at_least=30)
    bench.add("linear: MLlib from its cache / ours", cache.wall_median / again.wall_median, "x", at_least=5)


def sklearn(bench: Bench, folder: str, rows: int) -> None:
    """scikit-learn streaming the same Parquet once, and solving to the optimum in memory at a tenth of the rows."""
    from sklearn.linear_model import LogisticRegression as InMemory
    from sklearn.linear_model import SGDClassifier

    import sparkml
    from sparkml.estimators import LogisticRegression

    url, small = publish(folder, rows, 20), publish(folder, rows // 10, 20)
    test_x, test_y, _ = block(1 << 30, 200_000, 20)
    losses: dict[str, float] = {}
    spark = sparkml.session("local[2]")

    def loss_of(coefficients: Any, intercept: float) -> float:
        eta = test_x @ np.asarray(coefficients, np.float64) + intercept
        return float(np.mean(np.logaddexp(0, eta) - test_y * eta))

    def ours(url: str, name: str) -> Callable[[], None]:
        def run() -> None:
            model = LogisticRegression(featuresCol="x", family="binomial", verbose=False).fit(spark.read.parquet(url))
            losses[name] = loss_of(model.coefficients.toArray(), model.intercept)

        return run

    def streaming() -> None:
        sgd, shards = SGDClassifier(loss="log_loss", random_state=7), ShardSet.open(url)
        for _, blocks in ShardReader(shards, shards.groups, ["x", "label"]).by_group():
            for batch in blocks:
                sgd.partial_fit(batch["x"], batch["label"], classes=[0, 1])
        losses["partial_fit"] = loss_of(sgd.coef_[0], sgd.intercept_[0])

    def in_memory() -> None:
        shards = ShardSet.open(small)
        parts = [
            batch for _, blocks in ShardReader(shards, shards.groups, ["x", "label"]).by_group() for batch in map(_copy, blocks)
        ]
        x, y = (np.concatenate([part[name] for part in parts]) for name in ("x", "label"))
        model = InMemory(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(x.astype(np.float64), y)
        losses["newton-cholesky"] = loss_of(model.coef_[0], model.intercept_[0])

    stream = {"ours": ours(url, "ours"), "partial_fit, streaming": streaming}
    mine, theirs = bench.compare(stream, repeats=3).values()
    at_once = {"ours, reading included": ours(small, "small"), "newton-cholesky, reading included": in_memory}
    few, exact = bench.compare(at_once, repeats=5).values()
    spark.stop()
    print(f"log-loss on {len(test_y)} other rows: {losses}")
    bench.add("linear: partial_fit / ours", theirs.wall_median / mine.wall_median, "x", at_least=3)
    bench.add("linear: log-loss of partial_fit less ours", (losses["partial_fit"] - losses["ours"]) * 1e6, "1e-6", at_least=0)
    bench.add("linear: newton-cholesky / ours", exact.wall_median / few.wall_median, "x", at_least=1)


def _copy(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: values.copy() for name, values in batch.items()}


def _plain(folder: Path, rows: int, features: int) -> None:
    """Write the same rows as Parquet with one column per feature, as others take them."""
    folder.mkdir()
    for number in range(-(-rows // BLOCK)):
        x, label, _ = block(number, min(BLOCK, rows - number * BLOCK), features)
        columns = {**{f"x{at}": x[:, at] for at in range(features)}, "label": label.astype(np.float64)}
        pq.write_table(pa.table(columns), folder / f"part-{number:05d}.parquet", compression="none", use_dictionary=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], add_help=False)
    parser.add_argument("--rows", type=lambda text: int(float(text)))
    parser.add_argument("--folder")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    bench = Bench(f"{__doc__.splitlines()[0]} Also: --rows N, --folder FOLDER, --only {'|'.join(PARTS)}.")
    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as temporary:
        folder = arguments.folder or temporary
        os.makedirs(folder, exist_ok=True)
        rows = arguments.rows or (10_000_000 if bench.quick else 100_000_000)
        room = int(shutil.disk_usage(folder).free * 0.9 / 48)
        if {"passes", "fits"} & set(arguments.only):
            if rows > room and not Path(folder, f"linear-{rows}x10").exists():
                print(f"{rows:,} rows do not fit the disk: {room:,} do")
                rows = room
            url = publish(folder, rows, 10)
            memory = psutil.virtual_memory().total
            print(f"{rows:,} rows x 10, {rows * 44 / 1e9:.1f} GB read in a pass; {memory / 1e9:.0f} GB of memory", flush=True)
            if "passes" in arguments.only:
                passes(bench, url, rows)
            if "fits" in arguments.only:
                fits(bench, url, rows)
        peers = 1_000_000 if bench.quick else 10_000_000
        if "mllib" in arguments.only:
            mllib(bench, folder, peers)
        if "sklearn" in arguments.only:
            sklearn(bench, folder, peers)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
