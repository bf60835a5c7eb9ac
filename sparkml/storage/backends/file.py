"""Local and network-mounted POSIX folders."""

from __future__ import annotations

import ctypes
import errno
import os
import uuid
from pathlib import Path

import fsspec
from fsspec import AbstractFileSystem

from sparkml.storage.backend import Backend

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class File(Backend):
    """POSIX: ``link(2)`` is the exclusive create, ``rename(2)`` the atomic replace and the folder commit."""

    atomic_rename = True

    def filesystem(self) -> AbstractFileSystem:
        return fsspec.filesystem("file")

    def absolute(self, url: str) -> str:
        return f"file://{Path(url.removeprefix('file://')).expanduser().resolve()}"  # not percent-encoded: fsspec does not decode

    def create_exclusive(self, path: str, data: bytes) -> bool:
        scratch = self._written(path, data)
        try:
            os.link(scratch, path)  # the file appears whole or not at all
        except FileExistsError:
            return False
        finally:
            os.unlink(scratch)
        return True

    def replace(self, path: str, data: bytes) -> None:
        os.replace(self._written(path, data), path)

    def rename_folder(self, source: str, target: str) -> bool:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True

    def exchange_folders(self, first: str, second: str) -> bool:
        """By Linux's ``renameat2(RENAME_EXCHANGE)``, which not every file system has."""
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        names = os.fsencode(first), os.fsencode(second)
        return renameat2 is not None and renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0

    @staticmethod
    def _written(path: str, data: bytes) -> str:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        scratch = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with open(scratch, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if os.path.exists(scratch):
                os.unlink(scratch)
            raise
        return scratch
