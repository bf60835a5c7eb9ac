"""Fingerprints: the same inputs, settings and code give the same hash, on any machine and in any process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import CellType, CodeType
from typing import Any


def fingerprint(value: Any) -> str:
    """Return 16 hex digits of the SHA-256 of a JSON-serialisable value. Key order counts: a CSV's columns are such a mapping."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def is_function(value: Any) -> bool:
    """Return whether `function_fingerprint` sees into a value: Python functions, and partial ones."""
    return isinstance(value, partial) or hasattr(value, "__code__")


def function_fingerprint(function: Callable[..., Any]) -> str:
    """Return the hash of a function's name, byte code, constants, defaults and the plain values and functions in its closure.

    It is the same wherever Python's minor version is. What the function reads from its module is not in it, nor are objects.
    """
    return fingerprint(_described(function, set()))


def _described(value: Any, seen: set[int]) -> Any:
    if isinstance(value, CodeType):
        return [value.co_code.hex(), value.co_names, [_described(constant, seen) for constant in value.co_consts]]
    if isinstance(value, partial):
        return [_described(part, seen) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, bool | int | float | complex | str | bytes | None):
        return repr(value)
    if isinstance(value, list | tuple):
        return [_described(item, seen) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(item) for item in value)
    if isinstance(value, dict):
        return [[repr(key), _described(item, seen)] for key, item in value.items()]
    code = getattr(value, "__code__", None)
    if code is None or id(value) in seen:
        return type(value).__qualname__
    seen.add(id(value))
    closure = [_described(_content(cell), seen) for cell in value.__closure__ or ()]
    defaults = _described([value.__defaults__, value.__kwdefaults__], seen)
    return [value.__name__, _described(code, seen), defaults, closure]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return None


@cache
def code_fingerprint(*rooms: str) -> str:
    """Return the hash of the source files of rooms of this package (``"ingest"``, ``"learners"``, ...)."""
    digest = hashlib.sha256()
    for room in sorted(rooms):
        for name, body in _sources(room):
            digest.update(f"{name}\0{len(body)}\0".encode())
            digest.update(body)
    return digest.hexdigest()[:16]


def _sources(room: str) -> list[tuple[str, bytes]]:
    """Read through importlib: under ``spark-submit --py-files`` the package lies in an archive."""
    found: list[tuple[str, bytes]] = []

    def walk(place: Traversable, name: str) -> None:
        for item in place.iterdir():
            if item.is_dir() and item.name != "__pycache__":
                walk(item, f"{name}/{item.name}")
            elif item.name.endswith(".py"):
                found.append((f"{name}/{item.name}", item.read_bytes()))

    walk(files("sparkml").joinpath(room), room)
    return sorted(found)
