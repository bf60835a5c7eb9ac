"""``_MANIFEST.json``: the list of an artifact's files with sizes and SHA-256, and where the artifact came from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

MANIFEST = "_MANIFEST.json"


def _below(path: str) -> str:
    if not {"", ".", ".."}.isdisjoint(path.split("/")) or "\0" in path:
        raise ValueError(f"{path!r} is no file of an artifact")
    return path


class FileEntry(BaseModel):
    """One file of an artifact: path relative to it, size in bytes, hex SHA-256."""

    path: Annotated[str, AfterValidator(_below)]
    size: int
    sha256: str


class Manifest(BaseModel):
    """The commit point of an artifact; an artifact without a valid one does not exist.

    Attributes
    ----------
    kind
        What the artifact is: ``table``, ``features``, ``shards``, ``model``, ``predictions``, ...
    fingerprint
        Hash of inputs, settings and code that made it.
    lineage
        ``run_id``, ``stage`` and ``inputs`` (name, url, fingerprint of each).
    extra
        What the stage wants to tell its readers: counts, shapes, class names.
    """

    format: int = 1
    kind: str
    fingerprint: str
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    files: list[FileEntry] = []
    lineage: dict[str, Any] = {}
    extra: dict[str, Any] = {}

    @property
    def size(self) -> int:
        """Total bytes of all files."""
        return sum(file.size for file in self.files)
