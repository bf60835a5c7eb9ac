"""Fingerprints: the same inputs, settings and code give the same hash, on any machine and in any process."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import sparkml


def fingerprint(value: Any) -> str:
    """Return 16 hex digits of the SHA-256 of a JSON-serialisable value, independent of key order."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
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
    place = Path(str(sparkml.__file__)).parent
    if ".zip/" in place.as_posix() or place.suffix == ".zip":  # spark-submit --py-files: the package is read from the archive
        from importlib.resources import files

        root = files("sparkml")
        entries = [(item.name, item.read_bytes()) for item in root.joinpath(room).iterdir() if item.name.endswith(".py")]
        return sorted(entries)
    folder = place / room
    return [(path.relative_to(place).as_posix(), path.read_bytes()) for path in sorted(folder.rglob("*.py"))]
