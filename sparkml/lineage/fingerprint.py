"""Fingerprints: the same inputs, settings and code give the same hash, on any machine and in any process."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any


def fingerprint(value: Any) -> str:
    """Return 16 hex digits of the SHA-256 of a JSON-serialisable value. Key order counts: a CSV's columns are such a mapping."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


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
