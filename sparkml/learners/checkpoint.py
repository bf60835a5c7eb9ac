"""Training checkpoints: arrays and JSON in one ``.npz`` file, written atomically, never unpickled."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparkml.errors import SparkmlError, StorageError
from sparkml.storage import Store

FORMAT = 3
_FAILURES = 20  # that are told, the newest
Arrays = dict[str, npt.NDArray[Any]]
_NAME = re.compile(r"e(\d{6})-s(\d{9})\.npz")


@dataclass(frozen=True)
class Checkpoint:
    """The state after `epoch` epochs and `step` steps of the next.

    Attributes
    ----------
    fingerprint
        Of the data and of every setting that shapes the course of the training.
    size
        Number of ranks that trained.
    arrays
        Parameters, optimizer state and RNG states by name.
    notes
        What else the loop keeps: history, the best epoch so far.
    """

    fingerprint: str
    size: int
    epoch: int
    step: int
    arrays: Arrays
    notes: dict[str, Any]

    @property
    def name(self) -> str:
        """Its file's name; names sort by age."""
        return f"e{self.epoch:06d}-s{self.step:09d}.npz"

    def encode(self) -> bytes:
        head = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "size": self.size,
            "epoch": self.epoch,
            "step": self.step,
            "notes": self.notes,
            "digest": digest(self.arrays),
        }
        file = io.BytesIO()
        np.savez(file, _head=np.frombuffer(json.dumps(head).encode(), np.uint8), **self.arrays)
        return file.getvalue()

    @classmethod
    def decode(cls, body: bytes) -> Checkpoint:
        """Raise `StorageError` when `body` is not a whole checkpoint of this format."""
        try:
            with np.load(io.BytesIO(body), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            head = json.loads(arrays.pop("_head").tobytes())
            if head["format"] != FORMAT:
                raise StorageError(f"the checkpoint has format {head['format']}, this version of sparkml reads {FORMAT}")
            if head["digest"] != digest(arrays):
                raise StorageError("the checkpoint was altered: its arrays are not those that were written")
            return cls(head["fingerprint"], head["size"], head["epoch"], head["step"], arrays, head["notes"])
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise StorageError(f"the checkpoint is torn: {error}") from None


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 of names, types, shapes and values."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        total.update(f"{name}|{value.dtype.str}|{value.shape}|".encode())
        total.update(value.tobytes())
    return total.hexdigest()


class CheckpointFolder:
    """The checkpoints of one training, newest last. Its name is their fingerprint, so that trainings never meet.

    Writes happen in a thread of their own, one after another; a write that fails is told and does not end the training.
    """

    def __init__(self, store: Store, folder: str, fingerprint: str, keep: int) -> None:
        self._store, self._fingerprint, self._keep = store, fingerprint, keep
        self.path = f"{folder}/{fingerprint[:16]}"
        self._parent = folder
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sparkml-checkpoint")
        self._writing: Future[None] | None = None
        self._written = False
        self.failures: list[str] = []

    def names(self) -> list[str]:
        """Return the names of all checkpoints, newest first."""
        return sorted((name for name in self._store.list(self.path) if _NAME.fullmatch(name)), reverse=True)

    def others(self) -> int:
        """Return how many other trainings have checkpoints beside this one's."""
        return len([name for name in self._store.list(self._parent) if name != self.path.rpartition("/")[2]])

    def read(self, name: str) -> bytes:
        return self._store.read(f"{self.path}/{name}")

    def decode(self, body: bytes) -> Checkpoint:
        """Return the checkpoint. Raises `StorageError` for one that is torn, altered, or of another training."""
        saved = Checkpoint.decode(body)
        if saved.fingerprint != self._fingerprint:
            raise StorageError("it belongs to a training with other data or settings")
        return saved

    def newest(self, epochs: int) -> tuple[str, list[str]]:
        """Return the name of the newest good checkpoint within `epochs` ("" for none), and why newer ones were refused."""
        refused: list[str] = []
        for name in self.names():
            try:
                saved = self.decode(self.read(name))
            except StorageError as error:
                refused.append(f"{name} is not used: {error.message}")
                continue
            if (saved.epoch, saved.step) <= (epochs, 0):
                return name, refused
        return "", refused

    def save(self, checkpoint: Checkpoint) -> None:
        """Write in the background. The arrays must not change any more."""
        self.wait()
        self._writing = self._writer.submit(self._write, checkpoint)

    def drop_within(self, epoch: int) -> None:
        """Remove the checkpoints in the middle of an epoch, once what was given to `save` is there."""
        self.wait()
        if self._written:
            for name in self.names():
                if name.startswith(f"e{epoch:06d}-") and not name.endswith("-s000000000.npz"):
                    self._store.remove(f"{self.path}/{name}")

    def wait(self) -> None:
        """Wait until what was given to `save` is in the store."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        self.wait()
        self._writer.shutdown()

    def _write(self, checkpoint: Checkpoint) -> None:
        self._written = False
        try:
            self._store.replace(f"{self.path}/{checkpoint.name}", checkpoint.encode())
            older = [name for name in self.names() if name < checkpoint.name]  # later ones are of a longer training
            for name in older[self._keep - 1 :]:
                self._store.remove(f"{self.path}/{name}")
            self._written = True
        except Exception as error:  # whatever a store raises: the training goes on
            reason = error.message if isinstance(error, SparkmlError) else f"{type(error).__name__}: {error}"
            self.failures.append(f"the checkpoint {checkpoint.name} could not be written: {reason}")
            del self.failures[:-_FAILURES]
            print(f"the checkpoint {checkpoint.name} could not be written: {reason}", flush=True)  # into the rank's log
