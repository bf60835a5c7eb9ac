"""Stores on HDFS and S3 against local files: what ranks read per second, what publishing costs, how long a listing takes.

    python scripts/bench/storage.py [--quick] [--json FILE] [--only ROW]

``--only`` measures one of these rows alone:

- ``read``: two ranks read a 20 x float32 tensor and a label from shards. Passes over another host's storage are of two kinds: the
  *first* also copies row groups to the scratch disk, *later* ones read these copies. A training is one first pass and then later
  ones; *without copies* every pass asks the storage, as where Spark encrypts what it spills. The *ceilings* beside them are the
  same bytes by the bare client (hdfs-native, boto3), nothing decoded: whole files, and in requests of a row group each, as ranks
  must ask. The S3 endpoint reads a whole object for each such request, whatever its client.
- ``publish``: 1 GB of files staged and published, against a bare copy that is hashed while it is written; and the same where
  hashes are taken by reading back what stands there, as for tables that Spark wrote.
- ``list``: 10,000 files in 100 folders found, and seen not to have changed; beside it the first time, when all are read.

Real services on this machine (``scripts/cluster``): NameNode, DataNodes and the S3 endpoint, a Python server with its objects in
memory, share its cores with the ranks. CPU seconds are of all of them together.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import Bench
from scripts.bench.shards import make
from scripts.devcluster.cluster import Cluster
from sparkml.ingest import files
from sparkml.shards import copies
from sparkml.shards.reader import ShardReader, ShardSet
from sparkml.storage import Store

RANKS, EPOCHS = 2, 10
AT_LEAST = {"hdfs": 0.7, "s3": 0.5}
_MEBIBYTE = 1 << 20
_sets: dict[str, ShardSet] = {}

# --- read: what a rank's process does at its turn ---


def _opened(url: str) -> ShardSet:
    """A training opens its set once."""
    if url not in _sets:
        _sets[url] = ShardSet.open(url)
    return _sets[url]


def one_pass(url: str, rank: int, scratch: str, seed: int | None) -> int:
    os.environ |= {"SPARK_LOCAL_DIRS": scratch, copies.ALLOWED: "1"}  # as a gang has them without spark.io.encryption.enabled
    rows, seen = 0, 0.0
    shards = _opened(url)
    for batch in ShardReader(shards, shards.assign(rank, RANKS)).batches(4096, shuffle_seed=seed):
        rows += len(batch["y"])
        seen += float(batch["x"][0, 0]) + float(batch["y"][0])
    return rows


def bytes_alone(url: str, rank: int, *, by_group: bool) -> int:
    """Every second file by the storage's own client, whole or in as many requests as it has row groups."""
    store, shards, total = Store(url), _opened(url), 0
    read = _client(store)
    for entry in shards.files[rank::RANKS]:
        pieces = sum(group.path == entry.path for group in shards.groups) if by_group else 1
        step = -(-entry.size // pieces)
        for start in range(0, entry.size, step):
            total += sum(map(len, read(store.at(entry.path), start, min(step, entry.size - start))))
    return total


def _client(store: Store) -> Callable[[str, int, int], Iterator[bytes]]:
    """Return what reads some bytes of a file by the storage's own client."""
    if store.scheme == "hdfs":
        import hdfs_native

        hdfs = hdfs_native.Client(store.root.rpartition("/read/")[0])

        def from_hdfs(path: str, start: int, size: int) -> Iterator[bytes]:
            reader = hdfs.read(path)
            reader.seek(start)
            while size > 0 and (data := reader.read(min(8 * _MEBIBYTE, size))):
                size -= len(data)
                yield data

        return from_hdfs
    import boto3

    s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    def from_s3(path: str, start: int, size: int) -> Iterator[bytes]:
        bucket, _, key = path.partition("/")
        body = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + size - 1}")["Body"]
        while data := body.read(8 * _MEBIBYTE):
            yield data

    return from_s3


def read(bench: Bench, roots: dict[str, str], folder: str) -> None:
    rows = 1_000_000 if bench.quick else 4_000_000
    urls = {name: make(f"{root}/read", rows) for name, root in roots.items()}
    size = Store(urls["file"]).manifest("").size
    with ProcessPoolExecutor(RANKS, mp_context=get_context("spawn")) as pool:

        def ranks(work: Callable[..., int], expected: int, *arguments: object) -> Callable[[], None]:
            def run() -> None:
                found = sum(future.result() for future in [pool.submit(work, at, *arguments) for at in range(RANKS)])
                assert found == expected, found

            return run

        def first(name: str, seed: int | None) -> Callable[[], None]:
            own = f"{folder}/first-{name}"

            def run() -> None:
                shutil.rmtree(own, ignore_errors=True)
                ranks(partial(one_pass, urls[name]), rows, own, seed)()

            return run

        ceilings = {
            f"{name}: bytes alone, {how}": ranks(partial(bytes_alone, urls[name], by_group=by_group), size)
            for name in AT_LEAST
            for how, by_group in (("whole files", False), ("by row group", True))
        }
        for seed in (7, None):
            how = "in order" if seed is None else "shuffled"
            print(f"\n{rows:,} rows, {how}", flush=True)
            later = {
                f"{name}: a later pass": ranks(partial(one_pass, urls[name]), rows, f"{folder}/later-{name}", seed)
                for name in roots
            }
            firsts = {f"{name}: first pass": first(name, seed) for name in AT_LEAST}
            plain = {f"{name}: without copies": ranks(partial(one_pass, urls[name]), rows, "", seed) for name in AT_LEAST}
            taken = bench.compare({**later, **firsts, **plain, **ceilings}, repeats=5)
            wall = {side: timing.wall_median for side, timing in taken.items()}
            local = wall["file: a later pass"]
            for side, seconds in wall.items():
                per_core = rows / seconds / 1e6 / min(RANKS, len(os.sched_getaffinity(0)))
                if "bytes" not in side:
                    bench.add(f"storage: {side.replace('file: a later', 'local: a')}, {how}", per_core, "M rows/s/core")
            for name, least in AT_LEAST.items():
                early, late = wall[f"{name}: first pass"], wall[f"{name}: a later pass"]
                training = EPOCHS * local / (early + (EPOCHS - 1) * late)
                bench.add(f"storage: {name} / local, later passes, {how}", local / late, "x", at_least=least)
                judged = {"at_least": least} if seed is not None else {}  # ranks shuffle
                bench.add(f"storage: {name} / local, {EPOCHS} epochs with the first, {how}", training, "x", **judged)
                bench.add(f"storage: {name} / local, first pass alone, {how}", local / early, "x")
                bench.add(f"storage: {name} / local, without copies, {how}", local / wall[f"{name}: without copies"], "x")
                ceiling = wall[f"{name}: bytes alone, by row group"]
                bench.add(f"storage: {name}, bytes alone by row group / local, {how}", local / ceiling, "x")
                bench.add(f"storage: {name}, first pass / bytes alone by row group, {how}", ceiling / early, "x")


# --- publish ---


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(4 * _MEBIBYTE):
            yield block


def publish(bench: Bench, roots: dict[str, str], folder: str) -> None:
    count, size = 8, (12 if bench.quick else 120) * _MEBIBYTE
    source = Path(folder, "source")
    source.mkdir()
    for number in range(count):
        (source / f"part-{number}").write_bytes(os.urandom(size))

    def written(store: Store, target: str) -> dict[str, str]:
        """Copy the source's files, hashed on their way."""
        found = {}
        for path in sorted(source.iterdir()):
            digest = hashlib.sha256()
            with store.open(f"{target}/{path.name}", "wb") as file:
                for block in _blocks(path):
                    digest.update(block)
                    file.write(block)
            found[path.name] = digest.hexdigest()
        return found

    def bare(store: Store, *, again: bool) -> None:
        store.remove("bare")
        os.sync()  # what the other side left to be written is not this one's
        start = time.perf_counter()
        written(store, "bare")
        for name in store.files("bare") if again else ():
            digest = hashlib.sha256()
            with store.open(f"bare/{name}") as file:
                while block := file.read(4 * _MEBIBYTE):
                    digest.update(block)
        taken.append(time.perf_counter() - start)

    def ours(store: Store, *, again: bool) -> None:
        store.remove("ours")
        os.sync()
        start = time.perf_counter()
        with store.stage() as staging:
            known = written(store, staging.path)
            store.publish(staging, "ours", kind="probe", fingerprint="probe", checksums=None if again else known)
        taken.append(time.perf_counter() - start)

    taken: list[float] = []  # what was removed before is not a part of it

    def timed(side: Callable[..., None], store: Store, again: bool) -> Callable[[], float]:
        def run() -> float:
            side(store, again=again)
            return taken[-1]

        return run

    for name, root in roots.items():
        store = Store(f"{root}/publish")
        for again in (False, True):
            how = "hashes read back" if again else "hashed while written"
            print(f"\n{name}: {count * size / 1e6:,.0f} MB, {how}", flush=True)
            sides = {"published": timed(ours, store, again), "bare copy with checksum": timed(bare, store, again)}
            mine, plain = bench.compare(sides, repeats=9).values()
            more = 100 * (mine.wall_median / plain.wall_median - 1)
            judged = {} if bench.quick else {"at_most": 10}  # of a tenth of the size, the few fixed requests are too large a part
            bench.add(f"storage: {name}, publishing, {how}, more than a bare copy", more, "%", **judged)
            bench.add(f"storage: {name}, publishing, {how}", count * size / mine.wall_median / 1e6, "MB/s")
        store.remove("")


# --- list ---


def listing(bench: Bench, roots: dict[str, str], _: str) -> None:
    count = 1_000 if bench.quick else 10_000
    paths = [f"many/d{number // 100:03d}/f{number:05d}.csv" for number in range(count)]
    known: dict[str, dict[str, files.InputFile]] = {}
    for name, root in roots.items():
        store = Store(f"{root}/list")
        for number in range(0, count, 100):
            store.fs.makedirs(store.at(paths[number].rpartition("/")[0]), exist_ok=True)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda path, at=store: at.fs.pipe_file(at.at(path), path.encode()), paths))
        start, cpu = time.perf_counter(), time.process_time()
        found = files.scan(files.expand([store.url("many")]), {})
        seconds = time.perf_counter() - start
        print(f"{name}: {count:,} files hashed for the first time: {seconds:.1f} s, {time.process_time() - cpu:.1f} s CPU here")
        bench.add(f"storage: {name}, {count:,} files, the first time, all read", seconds, "s")
        known[name] = {file.path: file for file in found}

    def again(name: str) -> None:
        found = files.scan(files.expand([Store(f"{roots[name]}/list").url("many")]), known[name])
        assert len(found) == count

    for name, timing in bench.compare({name: partial(again, name) for name in roots}).items():
        bench.add(f"storage: {name}, {count:,} files listed and compared", timing.wall_median, "s", at_most=5)


ROWS: dict[str, Callable[[Bench, dict[str, str], str], None]] = {"read": read, "publish": publish, "list": listing}


@contextmanager
def services(folder: str) -> Iterator[dict[str, str]]:
    """Start HDFS and the S3 endpoint; give the roots of stores, local files first."""
    cluster = Cluster(Path(folder, "cluster"))
    try:
        cluster.up(["hdfs", "s3"])
        os.environ.update(found := cluster.environment())
        yield {"file": f"{folder}/files", "hdfs": found["SPARKML_HDFS"], "s3": found["SPARKML_S3"]}
    finally:
        cluster.down()


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", choices=list(ROWS))
    chosen, sys.argv[1:] = parser.parse_known_args()  # the rest is the harness's
    bench = Bench(__doc__.splitlines()[0] + f" Also: --only {{{','.join(ROWS)}}}.")
    for name in [chosen.only] if chosen.only else ROWS:
        print(f"\n-- {name}; load {os.getloadavg()[0]:.1f}", flush=True)
        with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as folder, services(folder) as roots:
            ROWS[name](bench, roots, folder)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
