"""What the rows of deep.py train: a lane is a gang that lives through all rounds and trains one epoch whenever it is its turn.

Between its turns a lane of several ranks is stopped (SIGSTOP): Horovod's background thread looks for work all the time and would
slow down the side whose turn it is. A single process is left alone, it only waits; and Keras's own ``fit``, stopped for seconds,
takes up to twice as long for its next epoch, all of it idle. A turn lasts from the word to begin until every rank asks for its
next epoch: steps, metrics, what ranks tell each other and checkpoints are in it; tracing is in the first turn, which is not
measured.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from sparkml.launch.processes import ProcessGang
from sparkml.launch.worker import Worker
from sparkml.learners.feed import Layout, Rows, Shards
from sparkml.learners.inputs import Input, Target
from sparkml.learners.keras_job import KerasJob, train_rows
from sparkml.learners.source import source_of
from sparkml.learners.training import TrainingOptions
from sparkml.shards.schema import Column
from sparkml.shards.writer import write_shard
from sparkml.storage import Store

BATCH, CLASSES, IMAGE, PIXELS = 128, 10, (28, 28, 1), 784
LAYOUT = Layout((Input("features", IMAGE),), (Target("label", "classification", CLASSES),))
COLUMNS = [Column(name="features", dtype="float32", shape=(PIXELS,)), Column(name="label", dtype="float64")]
_FILES, _GROUPS = 4, 256  # as the estimator writes a set of this size
_START_SECONDS = 180.0
_GO, _HERE = b"g", b"h"

Work = Callable[[Worker, "Turns"], None]


class OverError(Exception):
    """No more turns."""


class Turns:
    """A rank's line to its lane."""

    def __init__(self, address: str) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(address)
        self._line.sendall(os.getpid().to_bytes(8, "big"))

    def wait(self) -> None:
        """Say that the last turn is done and wait for the next. Raises `OverError` when there is none."""
        self._line.sendall(_HERE)
        if self._line.recv(1) != _GO:
            raise OverError


class Lane:
    """A gang of `size` ranks on `cores`; several are stopped from their start on except during `turn`."""

    def __init__(self, work: Work, size: int, cores: set[int]) -> None:
        self._failures: list[BaseException] = []
        self._lines: list[socket.socket] = []
        self._pids: list[int] = []
        self._folder = tempfile.TemporaryDirectory(prefix="sparkml-lane-")
        address = f"{self._folder.name}/turns"
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(address)
            door.listen(size)
            door.settimeout(_START_SECONDS)
            self._gang = threading.Thread(
                target=self._run, args=(partial(_serve, work=work, address=address), size, cores), daemon=True
            )
            self._gang.start()
            for _ in range(size):
                self._lines.append(door.accept()[0])
                self._pids.append(int.from_bytes(self._lines[-1].recv(8), "big"))
        self._all_here()

    def turn(self) -> float:
        """Have all ranks do one turn; return its seconds."""
        self._signal(signal.SIGCONT)
        began = time.perf_counter()
        for line in self._lines:
            line.sendall(_GO)
        self._all_here()
        return time.perf_counter() - began

    def close(self) -> None:
        for line in self._lines:
            line.close()
        self._signal(signal.SIGCONT)
        self._gang.join()
        self._folder.cleanup()

    def _run(self, serve: Callable[[Worker], bytes], size: int, cores: set[int]) -> None:
        os.sched_setaffinity(0, cores)  # of this thread, and so of the threads that start the ranks: they share what it may use
        try:
            ProcessGang(stall_timeout=math.inf).run(serve, size)
        except BaseException as error:
            self._failures.append(error)

    def _all_here(self) -> None:
        for line in self._lines:
            if line.recv(1) != _HERE:
                self._gang.join()
                raise RuntimeError("a lane has ended early") from next(iter(self._failures), None)
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        for pid in self._pids if len(self._pids) > 1 else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@contextlib.contextmanager
def lanes(**wanted: tuple[Work, int, set[int]]) -> Iterator[dict[str, Lane]]:
    """Start lanes one after another; they end with the block."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(contextlib.closing(Lane(*each))) for name, each in wanted.items()}


def _serve(worker: Worker, work: Work, address: str) -> bytes:
    turns = Turns(address)
    with contextlib.suppress(OverError):
        work(worker, turns)
    return b""


# --- what lanes do ---


class Arrays:
    """`Rows` in memory, the same for one rank as `plain` trains on."""

    def __init__(self, rows: int) -> None:
        self.x, self.y = images(rows)

    def counts(self, epoch: int) -> list[int]:
        return [len(self.y)]

    def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Iterator[dict[str, Any]]:
        order = np.random.default_rng([7, epoch]).permutation(len(self.y))
        for start in range(skip, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield {"features": self.x[chosen], "label": self.y[chosen]}


class _Paced:
    """`Rows` whose every epoch waits for its turn."""

    def __init__(self, rows: Rows, turns: Turns) -> None:
        self._rows, self._turns = rows, turns

    def counts(self, epoch: int) -> list[int]:
        return self._rows.counts(epoch)

    def batches(self, batch_size: int, *, epoch: int, skip: int = 0) -> Any:
        self._turns.wait()
        return self._rows.batches(batch_size, epoch=epoch, skip=skip)


def ours(worker: Worker, turns: Turns, *, job: KerasJob, rows: int = 0, apart: bool = False) -> None:
    """Train by our loop, on the job's shards or on so many `rows` in memory. Ranks `apart` do not communicate in steps."""
    if apart:
        from sparkml.strategies.allreduce import Allreduce

        Allreduce.connected = lambda self, worker, timeline=None: contextlib.nullcontext()  # type: ignore[method-assign]
    data: Rows = (
        Arrays(rows) if rows else Shards(job.train, job.layout.columns, worker.rank, worker.size, job.seed, job.shuffle_bytes)
    )
    train_rows(worker, job, _Paced(data, turns), None)


def plain(_: Worker, turns: Turns, *, rows: int) -> None:
    """Train the same net by Keras's own ``fit``, with the threads that the gang gave to this process."""
    import keras

    class Pace(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            turns.wait()

    keras.utils.set_random_seed(7)
    net = source_of("cnn").make(LAYOUT.inputs, LAYOUT.targets)
    net.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    net.fit(*images(rows), batch_size=BATCH, epochs=1_000_000, verbose=0, callbacks=[Pace()])


def predict(_: Worker, turns: Turns, *, body: bytes, rows: int, batch: int) -> None:
    """Predict all rows by Keras's own ``predict``, with the threads that the gang gave to this process."""
    from sparkml.learners import keras_file

    net, (x, _) = keras_file.load(body, "the model"), images(rows)
    while True:
        turns.wait()
        net.predict(x, batch_size=batch, verbose=0)


# --- data ---


def images(rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return random images and labels: steps cost what they cost with real ones."""
    random = np.random.default_rng(7)
    return random.random((rows, *IMAGE), dtype=np.float32), random.integers(0, CLASSES, rows).astype(np.float64)


def image_batches(rows: int, at_once: int = 4096) -> Iterator[pa.RecordBatch]:
    """Return the same images as rows of flat lists."""
    x, y = images(rows)
    for start in range(0, rows, at_once):
        count = min(at_once, rows - start)
        values, offsets = pa.array(x[start : start + count].ravel()), np.arange(0, (count + 1) * PIXELS, PIXELS, np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), values)
        ids = pa.array(np.arange(start, start + count))
        yield pa.RecordBatch.from_arrays([ids, lists, pa.array(y[start : start + count])], names=["id", "features", "label"])


def make_shards(folder: str, rows: int) -> str:
    """Publish the same images as shards, without Spark, and return their URL."""
    store = Store(folder)
    batches = list(image_batches(rows, at_once=rows // _FILES))
    found: list[dict[str, Any]] = []
    with store.stage() as staging:
        for partition, batch in enumerate(batches):
            report = write_shard(
                iter([batch]),
                partition=partition,
                root=store.root,
                folder=staging.path,
                columns=COLUMNS,
                group_rows=max(1, rows // _GROUPS),
            )
            found += [row for rows_of in report for row in rows_of.to_pylist()]
        extra = {"columns": [column.model_dump() for column in COLUMNS], "groups": {row["path"]: row["groups"] for row in found}}
        store.publish(staging, "images", kind="shards", fingerprint="images", extra=extra)
    return store.url("images")


def a_job(shards: str = "", checkpoints: str | None = None) -> KerasJob:
    """Return an endless training of the zoo's CNN as it comes: 225,034 parameters."""
    return KerasJob(
        source=source_of("cnn"),
        layout=LAYOUT,
        options=TrainingOptions(epochs=100_000, batch_size=BATCH),
        seed=7,
        train=shards,
        validation=None,
        data_mark="bench",
        store=None if checkpoints is None else Store(checkpoints),
    )
