"""HDFS without a JVM: `hdfs-native` speaks the NameNode's and the DataNodes' own protocols."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from typing import Any

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
        from sparkml.storage.hdfs_client import authority

        return fsspec.filesystem("hdfs", **authority(self.root))  # a `PatientHdfs`

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
        except OSError:
            with contextlib.suppress(OSError):
                self._client.delete(scratch, False)
            raise
        return True

    def replace(self, path: str, data: bytes) -> None:
        scratch = self._written(path, data)
        try:
            self._client.rename(scratch, path, True)
        except OSError:
            with contextlib.suppress(OSError):
                self._client.delete(scratch, False)
            raise

    def rename_folder(self, source: str, target: str) -> bool:
        self._client.mkdirs(target.rpartition("/")[0], 0o755, True)
        try:
            self._client.rename(source, target, False)
        except FileExistsError:
            return False
        return True

    def copy_file(self, source: str, target: str) -> None:
        fs = self.filesystem()
        with fs.open(source, "rb") as old, fs.open(target, "wb") as new:
            shutil.copyfileobj(old, new, 1 << 22)

    def _written(self, path: str, data: bytes) -> str:
        scratch = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with self.filesystem().open(scratch, "wb") as file:
                file.write(data)
        except OSError:
            with contextlib.suppress(OSError):
                self._client.delete(scratch, False)
            raise
        return scratch
