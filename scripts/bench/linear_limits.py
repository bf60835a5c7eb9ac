"""Parts `wide` and `roofline` of linear.py: passes against what arithmetic, memory, decoder and disk allow."""

from __future__ import annotations

import contextlib
import mmap
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.bench.harness import Bench, Taken
from scripts.bench.linear_passes import RANKS, Ranks, copy, gang_fit, gram_flops, one_pass, read, syrk
from scripts.bench.linear_rows import publish
from scripts.bench.linear_scaling import FEATURES, NUMBERS
from sparkml.learners.linear.families import Binomial
from sparkml.shards.reader import BLOCK_BYTES, BLOCK_ROWS

_BIG_BLOCK = 65_536  # rows
_READ_BYTES = 8 << 20


def block_rows(features: int) -> int:
    """Return the rows of a block as the reader makes them."""
    return max(64, min(BLOCK_ROWS, BLOCK_BYTES // (4 * (features + 1))))


def wide(bench: Bench, folder: str, rows: int, features: int = 1000) -> None:
    """The rate of passes over wide rows against BLAS's syrk alone, a thread for each rank, all ranks at once."""
    url = publish(folder, rows, features)
    print(f"\n{rows:,} rows x {features}, {rows * features * 4 / 1e9:.1f} GB: passes against syrk", flush=True)
    rates: dict[int, list[tuple[float, float]]] = {block_rows(features): [], _BIG_BLOCK: []}
    with Ranks() as ranks:

        def multiply(block: int) -> None:
            rates[block] += ranks.all(syrk, block, features, 3.0)

        sides = {
            "logistic pass": ranks.passing(rows, one_pass, url, Binomial()),
            f"syrk, blocks of {block_rows(features)} rows": lambda: multiply(block_rows(features)),
            f"syrk, blocks of {_BIG_BLOCK} rows": lambda: multiply(_BIG_BLOCK),
        }
        passes = bench.compare(sides, repeats=5)["logistic pass"]
    for at, (what, seconds) in enumerate((("second", passes.wall_median * RANKS), ("second of CPU", passes.cpu_median))):
        reached = gram_flops(rows, features) / seconds
        for block, found in rates.items():
            rate = statistics.median(one[at] for one in found)
            bench.add(f"linear: syrk, {block} x {features}, per core and {what}", rate / 1e9, "Gflop")
        most = max(statistics.median(one[at] for one in found) for found in rates.values())
        bench.add(f"linear: pass of {features} features, per core and {what}", reached / 1e9, "Gflop")
        bench.add(f"linear: pass of {features} features / syrk, {what}", reached / most, "x", at_least=0.5 if at == 0 else None)
    fit = bench.compare({"fit, 2 ranks": lambda: gang_fit(url, RANKS)}, repeats=1, warm_up=False)["fit, 2 ranks"]
    bench.add(f"linear: fit of {rows:,} x {features}", fit.wall_median, "s")


def roofline(bench: Bench, folder: str, rows: int) -> None:
    """Rows per second of a pass at each width, and what each resource alone would allow."""
    numbers = min(NUMBERS, 10 * rows)
    first = publish(folder, numbers // FEATURES[0], FEATURES[0])
    disk = statistics.median(_direct(first) for _ in range(3))
    found = bench.details["roofline"] = {"disk_bytes": disk, "widths": []}
    with Ranks() as ranks:
        memory = found["memory_bytes"] = sum(ranks.all(copy, 3.0))
        bench.add("linear: disk, direct and sequential", disk / 1e9, "GB/s")
        bench.add("linear: memory, copied by 2 ranks", memory / 1e9, "GB/s")
        for features in FEATURES:
            count = numbers // features
            url = publish(folder, count, features)
            print(f"\n{count:,} rows x {features}: limits of a pass", flush=True)
            rates: list[float] = []

            def multiply(rates: list[float] = rates, features: int = features) -> Taken:
                began = time.perf_counter(), time.process_time()
                rates.append(sum(rate for rate, _ in ranks.all(syrk, block_rows(features), features, 0.5)))
                return Taken(time.perf_counter() - began[0], time.process_time() - began[1])

            sides = {
                "logistic pass": ranks.passing(count, one_pass, url, Binomial()),
                "decoding alone": ranks.passing(count, read, url),
                "syrk alone, for a while": multiply,
            }
            reached, decoded, _ = bench.compare(sides, repeats=5).values()
            row_bytes = 4 * (features + 1)
            row = {
                "features": features,
                "reached": count / reached.wall_median,
                "decoder": count / decoded.wall_median,
                "disk": disk / row_bytes,
                "memory": memory / row_bytes,
                "arithmetic": statistics.median(rates) / gram_flops(1, features),
            }
            found["widths"].append(row)
            print("  M rows/s: " + ", ".join(f"{name} {value / 1e6:.2f}" for name, value in row.items() if name != "features"))
            least = min(row[name] for name in ("decoder", "arithmetic", "memory"))
            bench.add(f"linear: pass of {features} features / its nearest limit in memory", row["reached"] / least, "x")


def _direct(url: str) -> float:
    """Return the bytes per second at which the set's files come past the page cache, one after another."""
    files = sorted(Path(url.removeprefix("file://")).glob("*.parquet"))
    total, began = 0, time.perf_counter()
    with mmap.mmap(-1, _READ_BYTES) as buffer:  # direct reading wants memory that begins with a page
        for path in files:
            total += sum(_blocks(path, buffer))
    return total / (time.perf_counter() - began)


def _blocks(path: Path, buffer: mmap.mmap) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with contextlib.closing(os.fdopen(file, "rb", buffering=0)) as raw:
        while count := raw.readinto(buffer):
            yield count
