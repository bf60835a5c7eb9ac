"""`Store`: everything under one root URL, written to ``_staging/<id>/`` and published with a manifest written last."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from fsspec import AbstractFileSystem
from pydantic import ValidationError

from sparkml import plugins
from sparkml.errors import StorageError
from sparkml.storage.backend import Backend
from sparkml.storage.explain import explained
from sparkml.storage.manifest import MANIFEST, FileEntry, Manifest
from sparkml.storage.owner import process_tag, tagged_alive
from sparkml.storage.swap import MARK, finish, swap
from sparkml.storage.urls import modified

_COPIES_AT_ONCE = 8
_NOISE = ("_SUCCESS", MANIFEST)


@dataclass(frozen=True)
class Staging:
    """A private folder for one artifact under construction. `path` is relative to the store, `url` is for Spark."""

    store: Store
    path: str

    @property
    def url(self) -> str:
        return self.store.url(self.path)


class Store:
    """A root URL (``file``, ``s3a``, ``memory``, ...) holding datasets, runs, checkpoints and models.

    All paths of the methods are relative to the root. Errors of the file system surface as `StorageError` with the path, the
    cause and what to do.
    """

    def __init__(self, root: str) -> None:
        scheme = urlsplit(root).scheme if "://" in root else "file"
        self.scheme = {"s3": "s3a"}.get(scheme, scheme)
        backend = plugins.load("storage.backends", self.scheme)(root)
        assert isinstance(backend, Backend)
        self.backend = backend
        self.root = backend.root

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store, (self.root,))

    @property
    def fs(self) -> AbstractFileSystem:
        """The fsspec file system of the root."""
        return self.backend.filesystem()

    def url(self, path: str = "") -> str:
        """Return the full URL of a path, as Spark and other tools take it. Raises `StorageError` if it leads out of the store."""
        if not {"..", "."}.isdisjoint(path.split("/")) or "\0" in path:
            raise StorageError(f"{path!r} is no path of a store: it leads out of the store {self.root}, or is no name at all")
        return f"{self.root}/{path.lstrip('/')}" if path else self.root

    def at(self, path: str) -> str:
        """Return the fsspec path of a path."""
        return self.backend.path(self.url(path))

    # --- small files ---

    def open(self, path: str, mode: str = "rb") -> IO[Any]:
        """Open a file for streaming."""
        with explained("open", self.url(path)):
            if "w" in mode:
                self.fs.makedirs(self.at(path).rpartition("/")[0], exist_ok=True)
            return self.fs.open(self.at(path), mode)  # type: ignore[no-any-return]

    def exists(self, path: str) -> bool:
        with explained("look at", self.url(path)):
            return bool(self.fs.exists(self.at(path)))

    def state(self, path: str) -> tuple[int, str]:
        """Return a file's size, and when it was modified or what else tells its contents apart."""
        with explained("look at", self.url(path)):
            info = self.fs.info(self.at(path))
            return int(info["size"]), modified(info)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a file's bytes, all or those from `start` to before `end`."""
        with explained("read", self.url(path)):
            return bytes(self.fs.cat_file(self.at(path), start=start, end=end))

    def read_json(self, path: str) -> Any:
        """Return the JSON document at `path`. Raises `StorageError` when it is missing or torn."""
        try:
            return json.loads(self.read(path))
        except ValueError as error:
            raise StorageError(f"{self.url(path)} is not valid JSON: {error}") from None

    def replace(self, path: str, data: bytes | Mapping[str, Any]) -> None:
        """Write a small file atomically over what is there."""
        with explained("write", self.url(path)):
            self.backend.replace(self.at(path), _encoded(data))

    def create_exclusive(self, path: str, data: bytes | Mapping[str, Any]) -> bool:
        """Create a small file unless it exists; exactly one of many callers gets True."""
        with explained("create", self.url(path)):
            return self.backend.create_exclusive(self.at(path), _encoded(data))

    def list(self, path: str = "") -> list[str]:
        """Return the names directly below `path`, sorted; empty when there is nothing."""
        with explained("list", self.url(path)):
            self.fs.invalidate_cache()
            try:
                return sorted(str(name).rstrip("/").rpartition("/")[2] for name in self.fs.ls(self.at(path), detail=False))
            except FileNotFoundError:
                return []

    def files(self, path: str) -> dict[str, int]:
        """Return all files below `path` (relative to it) with their sizes in bytes."""
        with explained("list", self.url(path)):
            self.fs.invalidate_cache()
            base = self.at(path).rstrip("/")
            found = self.fs.find(base, detail=True)
            # S3A marks a folder by an empty object whose name ends in a slash
            files = {name: int(info["size"]) for name, info in found.items() if not name.endswith("/")}
            return {name[len(base) :].lstrip("/"): size for name, size in sorted(files.items())}

    def copy(self, source: str, target: str) -> None:
        """Copy a file or everything below a folder."""
        with explained("copy", self.url(source)):
            for path in self.files(source):
                src, dst = (f"{source}/{path}", f"{target}/{path}") if path else (source, target)
                self.fs.makedirs(self.at(dst).rpartition("/")[0], exist_ok=True)
                self.backend.copy_file(self.at(src), self.at(dst))

    def remove(self, path: str) -> None:
        """Remove a file or folder; nothing happens when it is not there."""
        with explained("remove", self.url(path)):
            if self.fs.exists(self.at(path)):
                self.fs.rm(self.at(path), recursive=True)

    # --- artifacts ---

    @contextmanager
    def stage(self) -> Iterator[Staging]:
        """Give a fresh folder under ``_staging/``; what is left of it afterwards is removed."""
        # the name says whose it is, from its first moment to its last: a file inside would come late and go early
        staging = Staging(self, f"_staging/{uuid.uuid4().hex[:16]}.{process_tag()}")
        with explained("create", staging.url):
            self.fs.makedirs(self.at(staging.path), exist_ok=True)
        try:
            yield staging
        finally:
            try:
                self.remove(staging.path)
            except StorageError:  # the first error is the one to report; sweep() removes the rest later
                pass

    def publish(
        self,
        staging: Staging,
        target: str,
        *,
        kind: str,
        fingerprint: str,
        lineage: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        checksums: Mapping[str, str] | None = None,
        overwrite_torn: bool = True,
    ) -> tuple[Manifest, bool]:
        """Commit a staged folder as `target`.

        Parameters
        ----------
        checksums
            SHA-256 by relative path for files whose writers already computed it.
        overwrite_torn
            Clear away what stands at `target` without a valid manifest. False for versions, which are never reused.

        Returns
        -------
        The manifest that stands at `target`, and whether this caller put it there (False: another writer was first).
        """
        manifest = self._seal(staging, kind, fingerprint, lineage, extra, checksums or {})
        for _ in range(3):
            if self._commit(staging, target, manifest):
                return manifest, True
            try:
                return self.manifest(target), False
            except StorageError:
                if not overwrite_torn:
                    raise
                self.remove(target)
        raise StorageError(f"could not publish {self.url(target)}: it keeps appearing without a valid manifest")

    def replace_artifact(
        self,
        staging: Staging,
        target: str,
        *,
        kind: str,
        fingerprint: str,
        lineage: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        partitions: bool = False,
    ) -> Manifest:
        """Commit a staged folder over what stands at `target`; a reader sees the old or the new files, never a mixture.

        Parameters
        ----------
        partitions
            The staged files lie in Hive-style folders (``day=2026-11-20/...``): exactly those folders are replaced, one atomic
            step each, and all others stay.

        Notes
        -----
        Where the storage can neither rename nor swap (object stores) the new files are added first, the manifest then commits
        in one step, and the replaced files are removed last: read such an output through its manifest.
        """
        self.check_replaceable(target, kind)
        manifest = self._seal(staging, kind, fingerprint, lineage, extra, {})
        fresh = {_folder(entry.path) for entry in manifest.files}
        partitions = partitions and self.exists(f"{target}/{MANIFEST}")  # the first time the whole folder appears in one step
        if partitions:
            others = self._entries_that_stay(target, fresh)
            manifest = manifest.model_copy(update={"files": sorted([*others, *manifest.files], key=lambda entry: entry.path)})
        body = manifest.model_dump_json(indent=1).encode()
        with explained("publish", self.url(target)):
            if not self.backend.atomic_rename:
                staged = [entry for entry in manifest.files if _folder(entry.path) in fresh or not partitions]
                self._copy_staged(staging, target, staged)
                self.replace(f"{target}/{MANIFEST}", body)
                self._remove_unlisted(target, manifest)
            elif partitions:
                for folder in sorted(fresh):
                    swap(self, f"{staging.path}/{folder}", f"{target}/{folder}")
                self.replace(f"{target}/{MANIFEST}", body)
            else:
                self.replace(f"{staging.path}/{MANIFEST}", body)
                swap(self, staging.path, target)
        return manifest

    def check_replaceable(self, target: str, kind: str) -> None:
        """Raise `StorageError` when something stands at `target` that `replace_artifact` did not put there."""
        if self.exists(f"{target}/{MANIFEST}"):
            found = self.read_json(f"{target}/{MANIFEST}").get("kind")
            if found == kind:
                return
            raise StorageError(
                f"{self.url(target)} holds {found!r}, not {kind}: it is left as it is", hint="choose another output"
            )
        if self.exists(target) and self.files(target):
            raise StorageError(
                f"{self.url(target)} exists and was not written by sparkml: it is left as it is",
                hint="choose a new folder as the output, or empty this one",
            )

    def _entries_that_stay(self, target: str, fresh: set[str]) -> Sequence[FileEntry]:
        """The files of partitions that are not replaced: what is there, for a killed run may have swapped some since."""
        recorded = {entry.path: entry for entry in self._read_manifest(target).files}
        stay = []
        for path, size in self.files(target).items():
            if path == MANIFEST or _folder(path) in fresh or path.endswith(".crc"):
                continue
            if not _folder(path):
                raise StorageError(
                    f"{self.url(target)} was written without partitions, they would be added beside its rows",
                    hint="choose another output, or write it without --partition-by",
                )
            known = recorded.get(path)
            same = known is not None and known.size == size
            stay.append(known if known and same else FileEntry(path=path, size=size, sha256=self._sha256(f"{target}/{path}")))
        return stay

    def _remove_unlisted(self, target: str, manifest: Manifest) -> None:
        listed = {entry.path for entry in manifest.files} | {MANIFEST}
        for path in self.files(target):
            if path not in listed:
                self.remove(f"{target}/{path}")

    def _seal(
        self,
        staging: Staging,
        kind: str,
        fingerprint: str,
        lineage: Mapping[str, Any] | None,
        extra: Mapping[str, Any] | None,
        known: Mapping[str, str],
    ) -> Manifest:
        """Return the manifest of what stands in a staging folder, hashing files whose hash is not known."""
        found = self.files(staging.path)
        noise = {path for path in found if path.endswith((*_NOISE, ".crc"))}
        for path in noise:
            self.remove(f"{staging.path}/{path}")
        sizes = {path: size for path, size in found.items() if path not in noise}
        with explained("read back", staging.url), ThreadPoolExecutor(4) as pool:
            digests = pool.map(lambda path: known.get(path) or self._sha256(f"{staging.path}/{path}"), sizes)
            entries = [FileEntry(path=path, size=sizes[path], sha256=digest) for path, digest in zip(sizes, digests, strict=True)]
        return Manifest(kind=kind, fingerprint=fingerprint, files=entries, lineage=dict(lineage or {}), extra=dict(extra or {}))

    def _commit(self, staging: Staging, target: str, manifest: Manifest) -> bool:
        body = manifest.model_dump_json(indent=1).encode()
        with explained("publish", self.url(target)):
            if self.backend.atomic_rename:
                self.backend.replace(self.at(f"{staging.path}/{MANIFEST}"), body)
                return self.backend.rename_folder(self.at(staging.path), self.at(target))
            if self.exists(f"{target}/{MANIFEST}"):
                return False
            if self.files(target):  # of a publish that was killed; readers of a table list its folder
                self.remove(target)
            self._copy_staged(staging, target, manifest.files)
            return self.backend.create_exclusive(self.at(f"{target}/{MANIFEST}"), body)

    def _copy_staged(self, staging: Staging, target: str, entries: Sequence[FileEntry]) -> None:
        """Copy staged files; a storage without rename does that by itself, several at a time while we wait."""

        def copy(entry: FileEntry) -> None:
            self.backend.copy_file(self.at(f"{staging.path}/{entry.path}"), self.at(f"{target}/{entry.path}"))

        with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
            list(pool.map(copy, entries))

    def manifest(self, target: str) -> Manifest:
        """Return the manifest of an artifact. Raises `StorageError` when there is none, or it is torn, or files are missing."""
        if not self.exists(f"{target}/{MANIFEST}"):
            raise StorageError(f"{self.url(target)} has no {MANIFEST}: it was never published, or only half written")
        manifest = self._read_manifest(target)
        sizes = self.files(target)
        for entry in manifest.files:
            if sizes.get(entry.path) != entry.size:
                found = "is missing" if entry.path not in sizes else f"has {sizes[entry.path]} bytes instead of {entry.size}"
                raise StorageError(
                    f"{self.url(target)}: the file {entry.path} {found}; the artifact was altered after publishing"
                )
        return manifest

    def _read_manifest(self, target: str) -> Manifest:
        path = f"{target}/{MANIFEST}"
        try:
            return Manifest.model_validate_json(self.read(path))
        except ValidationError as error:
            raise StorageError(f"{self.url(path)} is torn or was altered: {error.errors()[0]['msg']}") from None

    def verify(self, target: str) -> Manifest:
        """Like `manifest`, and compare the SHA-256 of every file. Raises `StorageError` naming the first that differs."""
        manifest = self.manifest(target)
        for entry in manifest.files:
            if self._sha256(f"{target}/{entry.path}") != entry.sha256:
                raise StorageError(f"{self.url(target)}: the content of {entry.path} is not what was published (SHA-256 differs)")
        return manifest

    def sweep(self) -> Sequence[str]:
        """Remove staging folders whose owner process died on this host, and end its swaps; return their names."""
        swept = []
        for name in self.list("_staging"):
            if name.endswith(MARK):
                swept += [name] if finish(self, name) else []
                continue
            if not tagged_alive(name.rpartition(".")[2]):
                self.remove(f"_staging/{name}")
                swept.append(name)
        return swept

    def _sha256(self, path: str) -> str:
        digest = hashlib.sha256()
        with self.fs.open(self.at(path), "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _encoded(data: bytes | Mapping[str, Any]) -> bytes:
    return data if isinstance(data, bytes) else json.dumps(data, indent=1, default=str).encode()
