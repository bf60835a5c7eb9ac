"""sparkml: one config, one shard format, every way to train on Spark.

``import sparkml`` starts neither Spark nor TensorFlow; the names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {"session": "sparkml.spark_session", "split": "sparkml.features.splits"}
__all__ = ["session", "split"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sparkml' has no attribute {name!r}; it offers: {', '.join(__all__)}")
