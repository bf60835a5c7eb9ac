"""The file system of any URL, for files that lie in no store, and what it says of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

# the classes are imported when they are first needed; fsspec's own for HDFS needs a JVM in the process
fsspec.register_implementation("hdfs", "sparkml.storage.hdfs_client.PatientHdfs", clobber=True)
fsspec.register_implementation("s3", "sparkml.storage.s3_client.PatientS3", clobber=True)


def modified(info: Mapping[str, Any]) -> str:
    """Return when a file was modified, or what else its storage says to tell contents apart; `info` is fsspec's."""
    if "mtime" in info:
        return datetime.fromtimestamp(info["mtime"], UTC).isoformat()
    if "modification_time" in info:  # HDFS, in milliseconds
        return datetime.fromtimestamp(info["modification_time"] / 1000, UTC).isoformat()
    return str(info.get("ETag") or info.get("LastModified") or info.get("created") or "")


def opened(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URL or local path, and the path inside it.

    Raises
    ------
    ImportError, ValueError
        Its scheme is unknown, or what it needs is not installed.
    """
    fs, inside = fsspec.url_to_fs(url.replace("s3a://", "s3://", 1))
    return fs, str(inside)
