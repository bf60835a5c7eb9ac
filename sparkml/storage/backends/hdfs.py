"""HDFS without a JVM: `hdfs-native` speaks the NameNode's and the DataNodes' own protocols."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem

from sparkml.storage.backend import Backend


class Hdfs(Backend):
    """``hdfs://host:port/...``, ``hdfs://nameservice/...``, or ``hdfs:///...`` for the ``fs.defaultFS`` of ``HADOOP_CONF_DIR``.

    Every write goes to a name of its own first: a rename that does not overwrite is the exclusive create, one that does the
    atomic replace. (Java's ``FileSystem.rename`` moves a folder *into* one that is there, and calls it success; this one fails.)
    """

    atomic_rename = True
    requires = {"hdfs_native": "hdfs"}

    def filesystem(self) -> AbstractFileSystem:
        where = urlsplit(self.root)
        return fsspec.filesystem("hdfs", host=where.hostname, port=where.port)  # a `PatientHdfs`

    @property
    def _client(self) -> Any:
        return self.filesystem().client

    def create_exclusive(self, path: str, data: bytes) -> bool:
        scratch = self._written(path, data)
        try:
            self._client.rename(scratch, path, False)
        except FileExistsError:
            self._client.delete(scratch, False)
            return False
        return True

    def replace(self, path: str, data: bytes) -> None:
        self._client.rename(self._written(path, data), path, True)

    def rename_folder(self, source: str, target: str) -> bool:
        self._client.mkdirs(target.rpartition("/")[0], 0o755, True)
        try:
            self._client.rename(source, target, False)
        except FileExistsError:
            return False
        return True

    def swap_folder(self, source: str, target: str) -> None:
        if self.rename_folder(source, target):
            return
        aside = f"{source}.old"  # HDFS cannot exchange two names: a reader may find nothing for a moment, never a mixture
        self._client.rename(target, aside, False)
        self._client.rename(source, target, False)
        self._client.rename(aside, source, False)

    def copy_file(self, source: str, target: str) -> None:
        with self._client.read(source) as old, contextlib.closing(self._client.create(target, _overwrite())) as new:
            shutil.copyfileobj(old, new, 1 << 22)

    def _written(self, path: str, data: bytes) -> str:
        scratch = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with contextlib.closing(self._client.create(scratch, _overwrite())) as file:
                file.write(data)
        except OSError:
            with contextlib.suppress(OSError):
                self._client.delete(scratch, False)
            raise
        return scratch


def _overwrite() -> Any:
    from hdfs_native import WriteOptions

    return WriteOptions(overwrite=True)
