"""Deep nets: what ranks, checkpoints, submission, scoring and shards cost, against Keras alone.

    python scripts/bench/deep.py [--quick] [--json FILE] [--only ROW]

``--only`` measures one of these rows alone:

- ``single``: one rank in a gang against ``keras.fit``, one thread each, on the same arrays.
- ``ranks``: two ranks of one thread against their ceiling, two ranks that do not communicate, each on its own core like ours; and
  against ``keras.fit`` with two threads on the whole machine.
- ``checkpoint``: two ranks with a checkpoint after every epoch against two without. The bound is narrow, so the ratio is the
  median over pairs of neighbouring turns.
- ``submit``, ``transform``, ``memory``: see deep_spark.py.

The net is the zoo's CNN, 225,034 parameters, 28 x 28 x 1, batches of 128 per rank. Sides of the first three rows are lanes
(deep_ranks.py): processes that live through all rounds and train an epoch at their turn; the first one is not measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench import deep_spark
from scripts.bench.deep_ranks import BATCH, a_job, lanes, make_shards, ours, plain
from scripts.bench.harness import ROOT, Bench

RANKS = 2
CORES = sorted(os.sched_getaffinity(0))


def single(bench: Bench, folder: str) -> None:
    rows = BATCH * (25 if bench.quick else 100)
    job, one = a_job(make_shards(folder, rows)), set(CORES[:1])
    with lanes(
        ours=(partial(ours, job=job, rows=rows), 1, one),
        plain=(partial(plain, rows=rows), 1, one),
        shards=(partial(ours, job=job), 1, one),
    ) as lane:
        taken = bench.compare(
            {
                "1 rank, arrays": lane["ours"].turn,
                "keras.fit, 1 thread, the same arrays": lane["plain"].turn,
                "1 rank, shards": lane["shards"].turn,
            },
            repeats=6,
        )
    first, fit, shards = (timing.wall_median for timing in taken.values())
    bench.add("deep: 1 rank", rows / first, "images/s")
    bench.add("deep: keras.fit, 1 thread", rows / fit, "images/s")
    bench.add("deep: 1 rank / keras.fit, arrays", fit / first, "x", at_least=0.95)
    bench.add("deep: 1 rank on shards / keras.fit on arrays", fit / shards, "x")


def ranks(bench: Bench, folder: str) -> None:
    rows = BATCH * RANKS * (25 if bench.quick else 100)
    job, both = a_job(make_shards(folder, rows)), set(CORES[:RANKS])
    with lanes(
        ours=(partial(ours, job=job), RANKS, both),
        ceiling=(partial(ours, job=job, apart=True), RANKS, both),
        plain=(partial(plain, rows=rows), 1, both),
    ) as lane:
        taken = bench.compare(
            {
                "2 ranks x 1 thread": lane["ours"].turn,
                "ceiling: 2 ranks that do not communicate": lane["ceiling"].turn,
                "keras.fit, 2 threads": lane["plain"].turn,
            },
            repeats=6,
        )
    first, ceiling, fit = (timing.wall_median for timing in taken.values())
    for name, seconds in {"2 ranks": first, "ceiling of 2 ranks": ceiling, "keras.fit, 2 threads": fit}.items():
        bench.add(f"deep: {name}", rows / seconds, "images/s")
    bench.add("deep: 2 ranks / ceiling", ceiling / first, "x", at_least=0.90)
    bench.add("deep: 2 ranks / keras.fit, 2 threads", fit / first, "x", at_least=1)


def checkpoint(bench: Bench, folder: str) -> None:
    rows = BATCH * RANKS * (25 if bench.quick else 100)
    shards, both = make_shards(folder, rows), set(CORES[:RANKS])
    with lanes(
        without=(partial(ours, job=a_job(shards)), RANKS, both),
        kept=(partial(ours, job=a_job(shards, f"{folder}/kept")), RANKS, both),
    ) as lane:
        sides = {"2 ranks, no checkpoints": lane["without"].turn, "2 ranks, one every epoch": lane["kept"].turn}
        without, kept = bench.compare(sides, repeats=4 if bench.quick else 10).values()
    more = [100 * (late / early - 1) for early, late in zip(without.wall, kept.wall, strict=True)]
    epoch = f"an epoch of {rows:,} images"
    bench.add("deep: a checkpoint, CPU", 1e3 * (kept.cpu_median - without.cpu_median), "ms")
    bench.add(f"deep: a checkpoint, of {epoch}", statistics.median(more), "%", at_most=2)


ROWS: dict[str, Callable[[Bench, str], None]] = {
    "single": single,
    "ranks": ranks,
    "checkpoint": checkpoint,
    "submit": deep_spark.submit,
    "transform": deep_spark.transform,
    "memory": deep_spark.memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", choices=list(ROWS))
    chosen, sys.argv[1:] = parser.parse_known_args()  # the rest is the harness's
    bench = Bench(__doc__.splitlines()[0] + f" Also: --only {{{','.join(ROWS)}}}.")
    if len(CORES) < RANKS:
        sys.exit(f"deep.py: {RANKS} ranks of a core each need {RANKS} cores, this process may use {len(CORES)}")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # of Spark's workers
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    for name in [chosen.only] if chosen.only else ROWS:
        print(f"\n-- {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as folder:
            ROWS[name](bench, folder)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
