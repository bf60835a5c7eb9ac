"""A store in this process's memory, for unit tests without a disk or a JVM."""

from __future__ import annotations

import threading

import fsspec
from fsspec import AbstractFileSystem

from sparkml.storage.backend import Backend

_lock = threading.Lock()


class Memory(Backend):
    """fsspec's memory file system; it behaves like an object store: no rename, the manifest is the commit point."""

    def filesystem(self) -> AbstractFileSystem:
        return fsspec.filesystem("memory")

    def create_exclusive(self, path: str, data: bytes) -> bool:
        with _lock:
            if self.filesystem().exists(path):
                return False
            self.filesystem().pipe_file(path, data)
            return True

    def replace(self, path: str, data: bytes) -> None:
        with _lock:
            self.filesystem().pipe_file(path, data)
