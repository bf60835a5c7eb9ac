"""`quick_import`: Keras and TensorFlow in two thirds of the time that importing them takes."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator

# Keras takes them if they are there, for its scikit-learn wrappers and its charts: a quarter of its own import
_NEVER_USED_BY_RANKS = ("sklearn", "matplotlib")


def quick_import(*modules: str) -> None:
    """Import modules that need Keras, in a process that is there for them alone; nothing is done where they are imported already.

    Most of a rank's start is this import, and a third of the import is Python's collector, which looks again and again
    through objects that stay for good. Keras goes without its scikit-learn wrappers and charts in such a process; the process's
    own later imports of scikit-learn and Matplotlib are as they always were.
    """
    if all(module in sys.modules for module in modules):  # to freeze again would keep what should be collected
        return
    with _without_collector(), _hidden(_NEVER_USED_BY_RANKS):
        for module in modules:
            importlib.import_module(module)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor is there anything to find in them later
        if was:
            gc.enable()


@contextlib.contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Have ``import`` find no such package while the block runs, unless it is imported already."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
