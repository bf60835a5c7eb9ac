"""Training checkpoints: arrays and JSON in one ``.npz`` file, replaced atomically, never unpickled."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparkml.errors import StorageError

FORMAT = 1
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """The state after `epoch` epochs.

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
    arrays: Arrays
    notes: dict[str, Any]

    def encode(self) -> bytes:
        head = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "size": self.size,
            "epoch": self.epoch,
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
            return cls(head["fingerprint"], head["size"], head["epoch"], arrays, head["notes"])
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
