"""What a store needs from a file system beyond fsspec: exclusive create, atomic replace, and how a folder is committed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from fsspec import AbstractFileSystem

from sparkml.plugins import Plugin


class Backend(Plugin):
    """One URL scheme. The name of the module is the scheme (``file``, ``hdfs``, ``memory``, ``s3a``).

    Attributes
    ----------
    root
        The canonical URL of the store's root.
    """

    #: True when `commit_folder` is one atomic step; otherwise files are copied and the manifest alone commits.
    atomic_rename: bool = False

    def __init__(self, root: str) -> None:
        self.root = self.absolute(root)

    @abstractmethod
    def filesystem(self) -> AbstractFileSystem:
        """Return the fsspec file system. Called once per process and store."""

    def absolute(self, url: str) -> str:
        """Return the canonical root URL (``./x`` -> ``file:///abs/x``) that Spark and ranks both understand."""
        return url.rstrip("/")

    def path(self, url: str) -> str:
        """Return the fsspec path of a URL of this scheme."""
        return str(self.filesystem()._strip_protocol(url))

    @abstractmethod
    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Create a small file unless it exists, atomically with its content; return whether this caller made it."""

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Write a small file so that a reader sees the old or the new content, never a mixture."""

    def rename_folder(self, source: str, target: str) -> bool:
        """Move a folder in one atomic step; return False when the target exists. Only called when `atomic_rename`."""
        raise AssertionError(f"{type(self).__name__} has no atomic rename")

    def exchange_folders(self, first: str, second: str) -> bool:
        """Exchange two folders that are there, in one atomic step; return False where the storage cannot."""
        return False

    def copy_file(self, source: str, target: str) -> None:
        """Copy one file; the folder of `target` is there where folders have to be."""
        self.filesystem().cp_file(source, target)

    def spark_conf(self) -> dict[str, Any]:
        """Return the Spark settings that a session needs to reach this store."""
        return {}
