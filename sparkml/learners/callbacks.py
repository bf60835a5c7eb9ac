"""Keras callbacks on ranks: each runs where it belongs, and what it keeps comes back when a training goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparkml.errors import ConfigError
from sparkml.learners.checkpoint import Arrays
from sparkml.lineage.fingerprint import function_fingerprint, is_function

# they write files or to the terminal: once is enough
_FIRST_RANK = frozenset({"TensorBoard", "ModelCheckpoint", "CSVLogger", "BackupAndRestore", "RemoteMonitor", "ProgbarLogger"})

_SETTINGS = frozenset({"params", "min_delta"})  # given by the loop; turned negative by Keras itself at every start


class Callbacks:
    """The callbacks of one rank.

    A callback runs on every rank, because it may change the course (early stopping, learning rates) and all ranks must do the
    same: they all see the same logs. Keras's own that only write run on rank 0, as does one with ``first_rank_only = True``.
    """

    def __init__(self, callbacks: Sequence[Any], rank: int) -> None:
        import keras

        for callback in callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise ConfigError(f"callbacks must be keras.callbacks.Callback objects, one is a {type(callback).__name__}")
            if isinstance(callback, keras.callbacks.BackupAndRestore):
                raise ConfigError("BackupAndRestore restores one rank alone", hint="set checkpointDir: a fit goes on by itself")
        self._mine = {at: callback for at, callback in enumerate(callbacks) if rank == 0 or not _writes_only(callback)}
        self._list: Any = None

    def attach(self, model: Any, epochs: int, steps: int) -> None:
        """Bind to the compiled model, before training begins."""
        import keras

        if self._mine:
            self._list = keras.callbacks.CallbackList(
                list(self._mine.values()), model=model, epochs=epochs, steps=steps, verbose=0
            )
            model.stop_training = False

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a hook (``on_epoch_end``) of every callback."""
        if self._list is not None:
            getattr(self._list, hook)(*arguments)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what callbacks keep between epochs: plain values as JSON, weights as arrays."""
        values: dict[str, Any] = {}
        arrays: Arrays = {}
        for place, callback in self._mine.items():
            for name, value in vars(callback).items():
                if name not in _SETTINGS and _is_plain(value):
                    values[f"{place}/{name}"] = json.loads(json.dumps(value))  # a copy: training goes on while it is written
                elif isinstance(value, list) and value and all(isinstance(item, np.ndarray) for item in value):
                    arrays |= {f"{place}/{name}/{index:04d}": item.copy() for index, item in enumerate(value)}
        return values, arrays

    def restore(self, values: dict[str, Any], arrays: Arrays) -> None:
        """Undo `state`, after `attach` and ``on_train_begin``."""
        for key, value in values.items():
            place, name = key.split("/", 1)
            if int(place) in self._mine:
                setattr(self._mine[int(place)], name, value)
        lists: dict[tuple[int, str], list[Any]] = {}
        for key in sorted(arrays):
            place, name, _ = key.split("/")
            lists.setdefault((int(place), name), []).append(arrays[key])
        for (at, name), items in lists.items():
            if at in self._mine:
                setattr(self._mine[at], name, items)


def described(callbacks: Sequence[Any]) -> list[Any]:
    """Return what distinguishes callbacks that were not used yet, of those that may change the course."""
    found = []
    for callback in callbacks:
        own = getattr(callback, "__dict__", {})
        functions = {name: function_fingerprint(value) for name, value in own.items() if is_function(value)}
        settings = {name: value for name, value in own.items() if _is_plain(value)}
        if not _writes_only(callback):
            found.append([type(callback).__qualname__, {**settings, **functions}])
    return found


def _writes_only(callback: Any) -> bool:
    own = any(kind.__name__ in _FIRST_RANK and kind.__module__.startswith("keras.") for kind in type(callback).__mro__)
    return own or bool(getattr(callback, "first_rank_only", False))


def _is_plain(value: Any) -> bool:
    if not isinstance(value, bool | int | float | str | list | dict | None):
        return False
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
