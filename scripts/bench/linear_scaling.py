"""Parts `workers` and `scaling` of linear.py: what a second rank brings, and how seconds grow with rows and features."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from scripts.bench.harness import Bench, Taken
from scripts.bench.linear_passes import RANKS, Ranks, gang_fit, one_pass
from scripts.bench.linear_rows import publish
from sparkml.learners.linear.families import Binomial

FEATURES = (5, 10, 20, 50, 100, 200, 500, 1000)
NUMBERS = 100_000_000  # of features, at every width


def workers(bench: Bench, folder: str, rows: int) -> None:
    """A fit by two ranks against two copies of one rank, each with half of the rows, that know nothing of each other."""
    whole, half = publish(folder, rows, 10), publish(folder, rows // RANKS, 10)
    cores = sorted(os.sched_getaffinity(0))[:RANKS]
    if len(cores) < RANKS:
        print(f"workers: {RANKS} ranks need as many cores, {len(cores)} are here")
        return

    def copies() -> Taken:
        with ThreadPoolExecutor(RANKS) as pool:
            found = list(pool.map(lambda core: gang_fit(half, 1, {core}), cores))
        return Taken(max(one.wall for one in found), sum(one.cpu for one in found))

    sides = {
        "fit, 2 ranks": lambda: gang_fit(whole, RANKS),
        "two copies of 1 rank, half of the rows each": copies,
        "fit, 1 rank": lambda: gang_fit(whole, 1, {cores[0]}),
    }
    print(f"\n{rows:,} rows x 10: workers", flush=True)
    two, ceiling, one = bench.compare(sides, repeats=5).values()
    bench.add("linear: 2 ranks / two independent copies", ceiling.wall_median / two.wall_median, "x", at_least=0.95)
    bench.add("linear: 2 ranks / 1 rank", one.wall_median / two.wall_median, "x")
    bench.add("linear: CPU of 2 ranks / of 1", two.cpu_median / one.cpu_median, "x")


def scaling(bench: Bench, folder: str, rows: int) -> None:
    """Seconds per pass and per fit over rows, over features and over ranks, as lists for the curves."""
    sizes = [(count, 10) for count in (1_000_000, 10_000_000, 100_000_000) if count <= rows]
    sizes += [(min(NUMBERS, 10 * rows) // features, features) for features in FEATURES]
    found = bench.details["scaling"] = []
    for count, features in dict.fromkeys(sizes):
        url = publish(folder, count, features)
        print(f"\n{count:,} rows x {features}: a pass and a fit, by 1 and 2 ranks", flush=True)
        with Ranks(1) as alone, Ranks(RANKS) as both:
            sides = {f"a pass, {ranks.size} ranks": ranks.passing(count, one_pass, url, Binomial()) for ranks in (alone, both)}
            passes = bench.compare(sides, repeats=3)
        fits = bench.compare({f"a fit, {size} ranks": lambda u=url, s=size: gang_fit(u, s) for size in (1, RANKS)}, repeats=3)
        for size in (1, RANKS):
            a_pass, a_fit = passes[f"a pass, {size} ranks"], fits[f"a fit, {size} ranks"]
            row = {"rows": count, "features": features, "ranks": size}
            found.append({**row, "pass_seconds": a_pass.wall_median, "fit_seconds": a_fit.wall_median})
    ten = {row["rows"]: row["fit_seconds"] for row in found if row["features"] == 10 and row["ranks"] == RANKS}
    for count, seconds in ten.items():
        bench.add(f"linear: fit of {count:,} x 10", count / seconds / 1e6, "M rows/s")
