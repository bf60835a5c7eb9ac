"""Stores: artifacts written to a staging folder, then published atomically with a manifest."""

from sparkml.storage.backend import Backend
from sparkml.storage.manifest import FileEntry, Manifest
from sparkml.storage.store import Staging, Store
from sparkml.storage.urls import modified, opened

__all__ = ["Backend", "FileEntry", "Manifest", "Staging", "Store", "modified", "opened"]
