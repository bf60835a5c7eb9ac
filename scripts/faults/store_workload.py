"""The work that faults of storage are injected into: ``python store_workload.py SETTINGS`` (JSON of `Settings`).

It does with a store what a run does: it holds a lease, writes shards, publishes them, reads them back as the ranks do, replaces
the partitions of an output, and registers a version of a model. What is finished is not done again: the same command, started
again, goes on.

At each *gate* it waits until `Site.open_gate`, so that a fault comes in the middle, however fast the machine is. It prints one
JSON document: what it made, or the error; its log is JSON lines with times.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PARTS, GROUPS, ROWS, WIDTH = 4, 4, 512, 1024  # row groups of 2 MiB: four shards of 8 MiB
DAYS, DAY_BYTES = 3, 1 << 20


@dataclass(frozen=True)
class Settings:
    """One start.

    Attributes
    ----------
    url
        The store.
    folder
        Where the gates' files are.
    gates
        Where to wait: ``writing``, ``publishing``, ``reading``, ``replacing``, ``registering``.
    name
        The artifact's.
    lease
        What to hold; two starts with the same lease exclude each other.
    content
        Another number gives other bytes everywhere.
    model
        The model's name, if not the artifact's.
    """

    url: str
    folder: str
    gates: tuple[str, ...] = ()
    name: str = "work"
    lease: str = "work"
    content: int = 0
    model: str = ""


def as_argument(settings: Settings) -> str:
    """Return what `main` reads."""
    return json.dumps(asdict(settings))


class _Gates:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, name: str) -> None:
        if name not in self._settings.gates:
            return
        there = Path(self._settings.folder, f"{os.getpid()}-{name}")
        there.with_suffix(".reached").touch()
        while not Path(self._settings.folder, f"{name}.open").exists():
            threading.Event().wait(0.01)  # libfaketime breaks time.sleep


def _batches(settings: Settings, part: int, gate: Callable[[str], None]) -> Iterator[Any]:
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng([settings.content, part])
    for group in range(GROUPS):
        if (part, group) == (1, 2):
            gate("writing")
        values = random.standard_normal(ROWS * WIDTH).astype("<f4")
        x = pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH)
        yield pa.RecordBatch.from_arrays([x, pa.array(random.integers(0, 9, ROWS))], names=["x", "label"])


def _shards(store: Any, settings: Settings, gate: Callable[[str], None]) -> str:
    """Publish the shards unless they are there; return their path."""
    from sparkml.errors import StorageError
    from sparkml.shards.schema import Column
    from sparkml.shards.writer import write_shard

    path = f"datasets/{settings.name}/shards/{settings.content:04x}"
    try:
        store.manifest(path)
        return path
    except StorageError as error:
        if store.exists(f"{path}/_MANIFEST.json"):
            logging.warning("%s; it is made again", error.message)
    columns = [Column(name="x", dtype="float32", shape=(WIDTH,)), Column(name="label", dtype="int64")]
    with store.stage() as staging:
        reports = []
        for part in range(PARTS):
            written = write_shard(
                _batches(settings, part, gate),
                partition=part,
                root=store.root,
                folder=staging.path,
                columns=columns,
                group_rows=ROWS,
            )
            reports += [row for batch in written for row in batch.to_pylist()]
        gate("publishing")
        extra = {
            "columns": [column.model_dump() for column in columns],
            "groups": {row["path"]: row["groups"] for row in reports},
        }
        checksums = {row["path"]: row["sha256"] for row in reports}
        store.publish(staging, path, kind="shards", fingerprint=str(settings.content), extra=extra, checksums=checksums)
    return path


def _read(store: Any, path: str, gate: Callable[[str], None]) -> str:
    """Read the shards as two ranks do; return the SHA-256 of all rows."""
    from sparkml.shards.reader import ShardReader, ShardSet

    shards = ShardSet.open(store.url(path))
    digest = hashlib.sha256()
    for rank in range(2):
        for batch in ShardReader(shards, shards.assign(rank, 2)).batches(256):
            digest.update(batch["x"].tobytes() + batch["label"].tobytes())
            if rank == 0:
                gate("reading")
    return digest.hexdigest()


def _output(store: Any, settings: Settings, gate: Callable[[str], None]) -> list[Any]:
    """Replace partitions of an output, as `sparkml score` does; return what its manifest lists."""
    with store.stage() as staging:
        for day in range(DAYS):
            body = hashlib.sha256(f"{settings.content} {day}".encode()).digest() * (DAY_BYTES // 32)
            store.replace(f"{staging.path}/day={day}/rows", body)
        gate("replacing")
        store.replace_artifact(staging, f"out-{settings.name}", kind="predictions", fingerprint="f", partitions=True)
    return [(file.path, file.sha256) for file in store.verify(f"out-{settings.name}").files]


def _version(store: Any, settings: Settings, gate: Callable[[str], None]) -> tuple[int, list[Any]]:
    """Register a version unless this content has one, as registration does; return its number and its files."""
    from sparkml.registry.bundle import Bundle
    from sparkml.registry.registry import Registry

    registry = Registry(store)
    name = settings.model or settings.name
    for version in registry.versions(name):
        if store.manifest(f"models/{name}/{version}").fingerprint == str(settings.content):
            break
    else:
        empty: dict[str, Any] = {}
        bundle = Bundle(
            pipeline=name, candidate="net", task="classification", classes=[], shape=[], feature_names=[], trainer=empty,
            source=empty, contract=empty, target=empty, split=empty, features=empty, signature=empty, test_fingerprint="",
            model_fingerprint=str(settings.content), seed=0,
        )  # fmt: skip
        with store.stage() as staging:
            store.replace(f"{staging.path}/bundle.json", bundle.model_dump_json().encode())
            store.replace(f"{staging.path}/model/weights", str(settings.content).encode() * (1 << 20))
            gate("registering")
            made = registry.publish(name, staging, fingerprint=str(settings.content), lineage={"pid": os.getpid()}, extra={})
            version = made.version
    return version, [(file.path, file.sha256) for file in store.verify(f"models/{name}/{version}").files]


def work(settings: Settings) -> dict[str, Any]:
    """Do it all; return what was made."""
    from sparkml.storage import Store
    from sparkml.storage.lease import lease

    store, gate = Store(settings.url), _Gates(settings)
    made: dict[str, Any] = {}
    with lease(store, f"_leases/{settings.lease}.json", {"run_id": str(os.getpid())}, what=f"the work {settings.lease!r}"):
        store.sweep()
        path = _shards(store, settings, gate)
        made["rows"] = _read(store, path, gate)
        made["output"] = _output(store, settings, gate)
        made["version"], made["model"] = _version(store, settings, gate)
    contents = json.dumps([made.get(name) for name in ("rows", "output", "model")]).encode()
    return {**made, "digest": hashlib.sha256(contents).hexdigest()}


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"time": time.time(), "level": record.levelname, "text": record.getMessage()})


def main() -> None:
    """Work, and say how it went."""
    told = json.loads(sys.argv[1])
    settings = Settings(**{**told, "gates": tuple(told["gates"])})
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    from sparkml.errors import SparkmlError
    from sparkml.storage import retries

    try:
        made = work(settings)
    except (SparkmlError, OSError) as error:
        hint = error.hint if isinstance(error, SparkmlError) else None
        shown = error.message if isinstance(error, SparkmlError) else f"{type(error).__name__}: {error}"
        print(json.dumps({"error": shown, "hint": hint, "retries": dict(retries.taken()), "time": time.time()}), flush=True)
        sys.exit(error.exit_code if isinstance(error, SparkmlError) else 1)
    print(json.dumps({**made, "retries": dict(retries.taken()), "time": time.time()}), flush=True)


if __name__ == "__main__":
    main()
