"""`opened`: the file system of any URL, for files that lie in no store."""

from __future__ import annotations

import fsspec
from fsspec import AbstractFileSystem

# the classes are imported when they are first needed; fsspec's own for HDFS needs a JVM in the process
fsspec.register_implementation("hdfs", "sparkml.storage.hdfs_client.PatientHdfs", clobber=True)
fsspec.register_implementation("s3", "sparkml.storage.s3_client.PatientS3", clobber=True)


def opened(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URL or local path, and the path inside it.

    Raises
    ------
    ImportError, ValueError
        Its scheme is unknown, or what it needs is not installed.
    """
    fs, inside = fsspec.url_to_fs(url.replace("s3a://", "s3://", 1))
    return fs, str(inside)
