"""Publishers' files: downloaded once into the user's cache, with a checksum, whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path

import platformdirs
from pydantic import model_validator

from sparkml.config import Name, Options
from sparkml.errors import DataError

log = logging.getLogger(__name__)

ATTEMPTS = 4
TIMEOUT_SECONDS = 60.0


class Download(Options):
    """A file of a publisher: its address, its checksum, and the name it gets."""

    url: str
    name: Name
    sha256: str | None = None
    md5: str | None = None

    @model_validator(mode="after")
    def _checked(self) -> Download:
        if not self.sha256 and not self.md5:
            raise ValueError("a download needs its 'sha256' or 'md5'")
        return self


def cached(item: Download) -> Path:
    """Return where a download lies, or would lie, in the user's cache."""
    mark = (item.sha256 or item.md5 or "")[:16]
    return Path(platformdirs.user_cache_path("sparkml")) / "downloads" / mark / item.name


def fetch(items: Sequence[Download]) -> None:
    """Download what is not in the cache yet.

    Raises
    ------
    DataError
        The publisher did not answer after several tries, or sent something with another checksum; nothing is left behind.
    """
    for item in items:
        target = cached(item)
        if not target.exists():
            log.info("downloading %s", item.url)
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch_one(item, target)


def _fetch_one(item: Download, target: Path) -> None:
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                digest = _stream(item, part)
                break
            except (OSError, urllib.error.URLError) as error:
                if attempt == ATTEMPTS:
                    raise DataError(
                        f"cannot download {item.url}: {error} ({ATTEMPTS} tries)",
                        hint="give a copy of your own with --data PATH",
                    ) from None
                time.sleep(0.5 * 2**attempt)
        wanted = item.sha256 or item.md5
        if digest != wanted:
            raise DataError(
                f"{item.url} has the checksum {digest}, expected {wanted}", hint="give a copy of your own with --data PATH"
            )
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _stream(item: Download, part: Path) -> str:
    digest = hashlib.sha256() if item.sha256 else hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(item.url, timeout=TIMEOUT_SECONDS) as answer, part.open("wb") as file:
        length = answer.headers.get("Content-Length")
        while block := answer.read(1 << 20):
            digest.update(block)
            file.write(block)
        if length is not None and file.tell() != int(length):
            raise OSError(f"the connection ended after {file.tell():,} of {int(length):,} bytes")
    return digest.hexdigest()
