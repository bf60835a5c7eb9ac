"""The rows of the linear benchmarks: correlated features of known true weights, the same for every number of processes.

    .venv/bin/python scripts/bench/linear_rows.py FOLDER --rows 1e8 --features 10

publishes a set of shards at FOLDER/linear-ROWSxFEATURES (float32, neither compressed nor encoded), unless it is there. Each block
of 2**20 rows, fewer if they are wide, is drawn from a generator of its own, seeded by the number of the block.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from sparkml.shards.schema import Column
from sparkml.shards.writer import write_shard
from sparkml.storage import Store
from sparkml.storage.manifest import MANIFEST

BLOCK = 1 << 20
BLOCKS_PER_FILE = 8
SEED = 20_261_122
_WIDE = 32  # features


def truth(features: int) -> Any:
    """Return the true coefficients and, last, the intercept: (features + 1,)."""
    random = np.random.default_rng([SEED, features])
    size = 0.5 * np.sqrt(min(1, 20 / features))  # of many features each says less, or they told the classes apart
    return np.append(random.normal(size=features) * size, -0.25).astype(np.float32)


def block(number: int, rows: int, features: int) -> tuple[Any, Any, Any]:
    """Return features (rows, features), a label of two classes and a continuous one, all float32.

    Two thirds of a feature's variance are shared with the others; means and scales differ.
    """
    random = np.random.default_rng([SEED, features, number])
    x = random.standard_normal((rows, features), np.float32)
    x *= np.float32(np.sqrt(1 / 3))
    x += random.standard_normal((rows, 1), np.float32) * np.float32(np.sqrt(2 / 3))
    at = np.arange(features)
    x *= (0.5 + (at % 4) / 2).astype(np.float32)
    x += ((at % 3) - 1).astype(np.float32)
    true = truth(features)
    eta = x @ true[:-1] + true[-1]
    label = (random.random(rows, np.float32) < 1 / (1 + np.exp(-eta))).astype(np.float32)
    return x, label, eta + random.standard_normal(rows, np.float32)


def block_rows(features: int) -> int:
    """Return rows per block: fewer of wide ones, which would fill the memory."""
    return BLOCK if features <= _WIDE else 1 << ((BLOCK * _WIDE // features).bit_length() - 1)


def group_rows(rows: int, features: int) -> int:
    """Return rows per row group: 32 groups at least, so that ranks and Spark's tasks get equal shares of a small set, too."""
    return min(block_rows(features), max(1 << 14, -(-rows // 32)))


def columns(features: int) -> list[Column]:
    return [
        Column(name="x", dtype="float32", shape=(features,)),
        Column(name="label", dtype="float32"),
        Column(name="value", dtype="float32"),
    ]


def largest(folder: str, rows: int, row_bytes: int) -> int:
    """Return how many rows of so many bytes fit the disk, `rows` at most, and say so if these do not."""
    room = int(shutil.disk_usage(folder).free * 0.9 / row_bytes)
    if rows > room:
        print(f"{rows:,} rows do not fit the disk: {room:,} do")
    return min(rows, room)


def publish(folder: str, rows: int, features: int, processes: int | None = None) -> str:
    """Write the set unless it is there, and return its URL. Raises `SystemExit` when the disk has no room for it."""
    name = f"linear-{rows}x{features}"
    store = Store(folder)
    if store.exists(f"{name}/{MANIFEST}"):
        return store.url(name)
    needed = rows * 4 * (features + 2)
    os.makedirs(folder, exist_ok=True)
    if needed * 1.05 > (free := shutil.disk_usage(folder).free):
        raise SystemExit(f"{needed / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free: take fewer --rows")
    files = -(-rows // (block_rows(features) * BLOCKS_PER_FILE))
    with store.stage() as staging, ProcessPoolExecutor(processes or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_file, store.root, staging.path, file, rows, features) for file in range(files)]
        found = [row for job in jobs for row in job.result()]
        extra = {
            "columns": [column.model_dump() for column in columns(features)],
            "groups": {row["path"]: row["groups"] for row in found},
            "rows": rows,
        }
        checksums = {row["path"]: row["sha256"] for row in found}
        store.publish(staging, name, kind="shards", fingerprint=name, extra=extra, checksums=checksums)
    return store.url(name)


def _file(root: str, folder: str, file: int, rows: int, features: int) -> list[dict[str, Any]]:
    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(file * BLOCKS_PER_FILE, (file + 1) * BLOCKS_PER_FILE):
            size = block_rows(features)
            count = min(size, rows - number * size)
            if count <= 0:
                return
            x, label, value = block(number, count, features)
            tensor = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * features), count, [None, pa.py_buffer(x)])
            yield pa.RecordBatch.from_arrays([tensor, pa.array(label), pa.array(value)], ["x", "label", "value"])

    layout = {"columns": columns(features), "group_rows": group_rows(rows, features)}
    reports = write_shard(batches(), partition=file, root=root, folder=folder, **layout)
    return [row for report in reports for row in report.to_pylist()]


def plain(folder: str, rows: int, features: int, processes: int | None = None) -> str:
    """Write the same rows as Parquet with one float32 column per feature (x0, x1, ...) and the label, unless they are there.

    That is how others take them: neither compressed nor dictionary-encoded, which every reader decodes fastest.
    """
    path = Path(folder, f"plain-{rows}x{features}")
    done = path / "_SUCCESS"
    if not done.exists():
        path.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=get_context("spawn")) as pool:
            parts = range(-(-rows // block_rows(features)))
            for job in [pool.submit(_plain_file, path, number, rows, features) for number in parts]:
                job.result()
        done.touch()
    return str(path)


def _plain_file(path: Path, number: int, rows: int, features: int) -> None:
    size = block_rows(features)
    x, label, _ = block(number, min(size, rows - number * size), features)
    table = pa.table({**{f"x{at}": x[:, at] for at in range(features)}, "label": label})
    layout = {"compression": "none", "use_dictionary": False, "row_group_size": group_rows(rows, features)}
    pq.write_table(table, path / f"part-{number:05d}.parquet", **layout)


def held_out(folder: str, features: int, rows: int = 200_000) -> str:
    """Write other rows, on which log-losses are compared, as an npz file with x and y; return its path."""
    path = Path(folder, f"test-{rows}x{features}.npz")
    if not path.exists():
        x, y, _ = block(1 << 30, rows, features)
        np.savez(path, x=x, y=y)
    return str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--rows", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--features", type=int, default=10)
    arguments = parser.parse_args()
    print(publish(arguments.folder, arguments.rows, arguments.features))
    return 0


if __name__ == "__main__":
    sys.exit(main())
