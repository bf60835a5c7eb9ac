"""Where a secret could lie after a run on a cluster, or while it runs: every place is looked at, and each that was not is named.

    watch = Watch(cluster, canaries)        # before the submit
    with watch:                             # argv, environments and web pages of what runs
        submit(...)
    assert watch.found() == []              # files, HDFS, S3, web pages; raises if a place that must hold something is empty

A canary is looked for as it is, in base64, percent-encoded, escaped as in JSON, and in compressed files and archives.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import lzma
import threading
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pyarrow as pa

from scripts.devcluster import daemon
from scripts.devcluster.cluster import Cluster
from sparkml.storage import Store

# below the cluster's folder; {name} of what runs there. The last word says what a run leaves in it
FILES = {
    "container logs": "nm*/logs",  # stdout, stderr, prelaunch.*, and directory.info and launch_container.sh of Spark on YARN
    "launch scripts and localized files": "nm*/local",  # launch_container.sh, container_tokens, __spark_conf__.zip, py-files
    "standalone workers": "worker*",  # app-*/N/stdout, stderr, jars and files that were sent
    "daemons' logs": "logs",  # the NameNode's audit log, the ResourceManager's, the S3 endpoint's requests
    "configuration": "conf",
    "Hadoop's temporary files": "tmp",
    "edit logs of the NameNode": "nn",  # names of files; a secret in a path would be here
}
MUST_HOLD = {"yarn": ("container logs", "launch scripts and localized files"), "standalone": ("standalone workers",)}

# packages that travel, the same for every run; and Spark's settings on their way to a driver: YARN's client puts them, with
# secrets, into the user's staging folder and the containers' folders, for nobody else to read
_SHIPPED = ("/environment-", "-jars.zip", "/__spark_conf__")
_PAGES = ("environment", "executors", "jobs", "stages", "SQL", "storage")
_UNPACKED_BYTES = 1 << 30
# zstd: Spark's event logs
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


class Watch:
    """Looks at what runs while its block lasts, and afterwards at what was left.

    Parameters
    ----------
    canaries
        The secrets' values by a name that may be printed.
    allowed
        Paths below which the secrets were planted, and so may be.
    service
        ``yarn`` or ``standalone``: what was submitted to.
    stores
        URLs of folders on HDFS or S3 to read: the run's store, the event log, Spark's staging folder.
    """

    def __init__(
        self,
        cluster: Cluster,
        canaries: Mapping[str, str],
        *,
        service: str,
        stores: Sequence[str],
        allowed: Sequence[Path] = (),
        more_folders: Sequence[Path] = (),
    ) -> None:
        self._cluster, self._service, self._stores = cluster, service, list(stores)
        self._allowed = [path.resolve() for path in allowed]
        self._more = list(more_folders)
        self._forms = {form: name for name, value in canaries.items() for form in forms(value)}
        self._seen: dict[str, set[str]] = {}  # place -> names of canaries
        self._looked: dict[str, int] = {}
        self.pythons: set[Path] = set()  # that ran in folders of YARN's containers or of Spark's workers
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="canaries", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def found(self) -> list[str]:
        """Return each place that holds a canary, with the canary's name.

        Raises
        ------
        AssertionError
            A place where a run must leave something holds nothing: it was not looked at, or in the wrong way.
        """
        for what, pattern in FILES.items():
            for folder in self._cluster.folder.glob(pattern):
                self._folder(what, folder)
        for folder in self._more:
            self._folder("given folders", folder)
        for url in self._stores:
            self._store(url)
        self._history()
        if self._service == "yarn":
            self._resource_manager()
        must = [*MUST_HOLD[self._service], "argv", "Spark's web pages", "history server", *self._stores]
        empty = [place for place in must if not self._looked.get(place)]
        assert not empty, f"nothing was there to look at: {', '.join(empty)}; looked at {self._looked}"
        return sorted(f"{place}: {', '.join(sorted(names))}" for place, names in self._seen.items())

    # --- while it runs ---

    def _look(self) -> None:
        """Command lines of all processes; every user of a host can read those. And the pages of every application."""
        mark, looks = self._cluster.state()["mark"], 0
        known: dict[int, list[str]] = {}  # read again until it stays the same: a process may start another program
        same: set[int] = set()
        while not self._over.wait(0.2):
            there = set(psutil.pids())
            same &= there
            for pid in there - same:
                try:
                    words = psutil.Process(pid).cmdline()
                except (psutil.Error, OSError):
                    continue
                if known.get(pid) == words:
                    same.add(pid)
                    self._note_python(pid)
                known[pid] = words
                self._check("argv", f"argv of {Path(words[0]).name if words else pid}", " ".join(words).encode())
            looks += 1
            if looks % 50 == 25:
                for port in ui_ports(mark):
                    self._pages("Spark's web pages", f"http://{daemon.HOST}:{port}")
            if looks % 100 == 99 and self._service == "yarn":
                self._resource_manager()

    def _note_python(self, pid: int) -> None:
        with contextlib.suppress(psutil.Error, OSError, ValueError):  # it has ended, or runs elsewhere
            process = psutil.Process(pid)
            where = Path(process.cwd()).relative_to(self._cluster.folder).parts
            if process.name().startswith("python") and where and where[0].startswith(("nm", "worker")):
                self.pythons.add(Path(process.exe()))

    def _resource_manager(self) -> None:
        base = f"http://{daemon.HOST}:{self._cluster.state()['ports']['rm-http']}/ws/v1/cluster"
        for path in ("apps", "scheduler"):
            self._url("ResourceManager", f"{base}/{path}")
        for app in (_json(f"{base}/apps").get("apps") or {}).get("app") or []:
            self._url("ResourceManager", f"{base}/apps/{app['id']}/appattempts")

    def _pages(self, place: str, base: str) -> None:
        for page in _PAGES:
            self._url(place, f"{base}/{page}/")
        for app in _json(f"{base}/api/v1/applications") or []:
            self._application(place, f"{base}/api/v1/applications/{app['id']}")

    def _application(self, place: str, at: str) -> None:
        for part in ("environment", "allexecutors", "jobs", "stages?details=true", "sql?details=true&planDescription=true"):
            self._url(place, f"{at}/{part}")

    # --- what was left ---

    def _history(self) -> None:
        base = f"http://{daemon.HOST}:{self._cluster.state()['ports']['history']}"
        for app in _json(f"{base}/api/v1/applications") or []:
            for attempt in app.get("attempts", [{}]):
                number = attempt.get("attemptId")
                at = f"{base}/api/v1/applications/{app['id']}" + (f"/{number}" if number else "")
                self._application("history server", at)
                self._url("history server", f"{at}/logs")  # a ZIP of the event log

    def _folder(self, place: str, folder: Path) -> None:
        for path in folder.rglob("*"):
            here = path.resolve()
            if path.is_symlink() or not path.is_file() or any(here.is_relative_to(planted) for planted in self._allowed):
                continue
            if any(part in str(here) for part in _SHIPPED):
                continue
            try:
                body = path.read_bytes()
            except OSError:  # gone meanwhile
                continue
            self._check(place, str(path), str(path).encode(), body)

    def _store(self, url: str) -> None:
        store = Store(url)
        for path in store.files(""):
            if any(part in f"/{path}" for part in _SHIPPED):
                continue
            self._check(url, store.url(path), path.encode(), store.read(path))

    # --- looking ---

    def _url(self, place: str, url: str) -> None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                self._check(place, url, answer.read())
        except (OSError, http.client.HTTPException):  # the application has ended, or has no such page
            pass

    def _check(self, place: str, where: str, *bodies: bytes) -> None:
        self._looked[place] = self._looked.get(place, 0) + 1
        for part in (part for body in bodies for part in unpacked(body)):
            for form, name in self._forms.items():
                if form in part:
                    self._seen.setdefault(where, set()).add(name)


def forms(value: str) -> set[bytes]:
    """Return how a secret may be written down."""
    plain = value.encode()
    found = {plain, quote(value, safe="").encode(), json.dumps(value)[1:-1].encode(), value.encode("utf-16-le")}
    for shift in range(3):  # base64 of something that holds it: the bytes before it shift it by one of three
        coded = base64.b64encode(b"\0" * shift + plain)
        found |= {coded[4:-4], base64.urlsafe_b64encode(b"\0" * shift + plain)[4:-4]}
    return {form for form in found if len(form) >= 8}


def unpacked(body: bytes) -> Iterator[bytes]:
    """Yield a file's bytes, and what it holds if it is compressed or an archive; of a torn one what comes before the tear."""
    yield body
    kind = next((kind for magic, kind in _COMPRESSED.items() if body.startswith(magic)), None)
    if kind:
        parts: list[bytes] = []
        with contextlib.suppress(OSError, EOFError, lzma.LZMAError), _decompressing(body, kind) as file:
            while sum(map(len, parts)) < _UNPACKED_BYTES and (part := file.read(1 << 16)):
                parts.append(part)
        yield b"".join(parts)
    if body.startswith(b"PK\x03\x04"):
        with contextlib.suppress(zipfile.BadZipFile, RuntimeError), zipfile.ZipFile(io.BytesIO(body)) as archive:
            for item in archive.infolist():
                yield item.filename.encode()
                if item.file_size < _UNPACKED_BYTES:
                    yield from unpacked(archive.read(item))


def _decompressing(body: bytes, kind: str) -> Any:
    if kind == "xz":
        return lzma.open(io.BytesIO(body))
    return pa.CompressedInputStream(pa.BufferReader(body), kind)


def ui_ports(mark: str) -> list[int]:
    """Return the ports on which processes of the cluster's jobs listen and answer as Spark's web pages do."""
    found = []
    for process in daemon.marked(mark):
        try:
            drives = any("SparkSubmit" in word or "ApplicationMaster" in word for word in process.cmdline())
            listening = [item.laddr.port for item in process.net_connections("tcp") if item.status == psutil.CONN_LISTEN]
        except (psutil.Error, OSError):
            continue
        found += [port for port in listening if drives and _json(f"http://{daemon.HOST}:{port}/api/v1/version")]
    return found


def _json(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):  # not a web server, for one
        return {}
