"""`PatientHdfs`: hdfs-native's file system, patient with services that are away for a while; every failure is an `OSError`."""

from __future__ import annotations

import errno
import io
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fsspec import AbstractFileSystem
from hdfs_native import Client, WriteOptions
from hdfs_native.fsspec import HdfsFileSystem
from tenacity import Retrying

from sparkml.errors import ConfigError
from sparkml.storage import retries

# A NameNode that has just started has heard of no blocks yet, a standby one may soon be active, a lease is being recovered.
# It did nothing in all of these cases, so that a call may be made again.
_PASSING = (
    "SafeModeException",
    "StandbyException",
    "RetriableException",
    "RecoveryInProgressException",
    "NotReplicatedYetException",
)
_FINAL = ("AccessControlException", "QuotaExceededException")
_AWAY = re.compile(
    r"connection (refused|reset|aborted|closed)|broken pipe|listener disconnected|timed out|early eof|end of file|"
    r"failed to lookup address|unreachable|not connected",
    re.IGNORECASE,
)
_ERROR = re.compile(r'RPCError\("(?P<kind>[\w.$]+)", "(?P<text>(?:[^"\\]|\\.)*)')
_UNCONFIRMED = 16 << 20  # hdfs-native has up to 100 packets of 64 KiB on their way
_BUFFER = 1 << 20  # every read of hdfs-native is a request to a DataNode
# hdfs-native itself would try for three minutes, in silence; this is enough to find the active one of two NameNodes
_CONFIG = {
    "dfs.client.failover.max.attempts": "3",
    "dfs.client.failover.sleep.base.millis": "100",
    "dfs.client.failover.sleep.max.millis": "500",
}

# One client per process and NameNode, for good. A forked child drops fsspec's file systems; hdfs-native's client, dropped there,
# would wait for its threads, which a fork does not copy, and whoever forks (pyspark, to start its JVM) would hang.
_clients: dict[tuple[int, str], PatientClient] = {}
_lock = threading.Lock()


class PatientHdfs(HdfsFileSystem):  # type: ignore[misc]
    """``hdfs://`` for fsspec."""

    def __init__(self, host: str | None = None, port: int | None = None, *args: Any, **options: Any) -> None:
        AbstractFileSystem.__init__(self, host, port, *args, **options)  # HdfsFileSystem's own would make a client
        self.host, self.port = host, port
        self.client: Any = _client(f"hdfs://{host or ''}{f':{port}' if port else ''}")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        """Return the path of a URL as it is written: names may hold ``;``, ``#``, ``?`` and ``%``."""
        if path.startswith("hdfs://"):
            _, slash, inside = path.removeprefix("hdfs://").partition("/")
            path = slash + inside
        return path.rstrip("/") or "/"

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        return authority(path)

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **more: Any) -> Any:
        """Return all files below a path, sorted. Unlike fsspec's own it raises for a folder that cannot be listed."""
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **more)
        try:
            statuses = self.client.list_status(self._strip_protocol(path), True)
        except FileNotFoundError:
            statuses = []
        found = {status.path: self._convert_file_status(status) for status in statuses if not status.isdir}
        return dict(sorted(found.items())) if detail else sorted(found)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return bytes `start` to `end` as they come: through a buffered file they would be copied twice more."""
        with _Reader(self.client, self._strip_protocol(path)) as file:
            first, last, _step = slice(start, end).indices(file.seek(0, os.SEEK_END))
            file.seek(first)
            return file.readall(max(0, last - first))

    def _open(self, path: str, mode: str = "rb", overwrite: bool = True, *_: Any, **__: Any) -> Any:
        path = self._strip_protocol(path)
        if mode == "rb":
            return io.BufferedReader(_Reader(self.client, path), _BUFFER)
        if mode == "wb":
            return io.BufferedWriter(_Writer(self.client, path, overwrite), _BUFFER)
        raise ValueError(f"mode {mode!r} is not supported on HDFS")


def authority(url: str) -> dict[str, Any]:
    """Return host and port of a URL; the name of a nameservice keeps its capitals."""
    host, _, port = url.removeprefix("hdfs://").partition("/")[0].partition(":")
    return {"host": host or None, "port": int(port) if port else None}


def _client(url: str) -> PatientClient:
    with _lock:
        key = os.getpid(), url
        if key not in _clients:
            try:
                _clients[key] = PatientClient(Client(url, _CONFIG), url)
            except RuntimeError as error:
                raise _no_address(url, str(error)) from error
        return _clients[key]


def _no_address(url: str, cause: str) -> Exception:
    """What to say of a URL that leads to no NameNode's address."""
    conf = os.environ.get("HADOOP_CONF_DIR")
    there = f"HADOOP_CONF_DIR is {conf}" if conf else "HADOOP_CONF_DIR is not set"
    hint = "export HADOOP_CONF_DIR=/etc/hadoop/conf, or write host and port: hdfs://HOST:8020/..."
    if "fs.defaultFS" in cause:
        return ConfigError(f"hdfs:/// names no host, and there is no fs.defaultFS: {there}", hint=hint)
    if "No NameNode hosts" in cause:
        name = url.removeprefix("hdfs://")
        return ConfigError(f"{url} has no port, and {name!r} is no nameservice of the configuration: {there}", hint=hint)
    return OSError(_in_words(RuntimeError(cause)))


class PatientClient:
    """hdfs-native's client: each call is made again, later and later, while its failure is one that passes by itself.

    A NameNode that never answered is given seconds only: the address may be wrong. One that did is waited for for minutes.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client, self._url = client, url
        self._answered = False

    def __getattr__(self, name: str) -> Any:
        def called(*arguments: Any, **named: Any) -> Any:
            return self._patient(getattr(self._client, name), *arguments, **named)

        return called

    def list_status(self, path: str, recursive: bool) -> list[Any]:
        """Return the folder's content. hdfs-native's own is lazy: it would fail later, out of our sight."""
        found: list[Any] = self._patient(lambda: list(self._client.list_status(path, recursive)))
        return found

    def rename(self, source: str, target: str, overwrite: bool) -> None:
        """Rename; `source` or `target` must be a name that nobody else uses.

        When the answer to an attempt was lost, and the source is gone and the target there, then that attempt did it.
        """
        lost = False

        def attempt() -> None:
            nonlocal lost
            try:
                self._client.rename(source, target, overwrite)
            except (FileNotFoundError, FileExistsError):
                if not (lost and self._moved(source, target)):
                    raise
            except OSError:
                lost = True
                raise

        self._patient(attempt)

    def _moved(self, source: str, target: str) -> bool:
        self._client.get_file_info(target)
        try:
            self._client.get_file_info(source)
        except FileNotFoundError:
            return True
        return False

    def recovered(self, path: str) -> int:
        """Close a file that a broken writer left open, by recovering its lease; return its length in bytes."""

        def closed() -> int:
            if not self._client.recover_lease(path):
                raise RuntimeError('RPCError("RecoveryInProgressException", "the lease is being recovered")')
            return int(self._client.get_file_info(path).length)

        return int(self._patient(closed))

    def _patient(self, call: Any, *arguments: Any, **named: Any) -> Any:
        def seconds() -> float:
            return retries.SERVICE_SECONDS if self._answered else retries.FIRST_SECONDS

        def attempt() -> Any:
            try:
                answer = call(*arguments, **named)
            except Exception as error:
                self._answered = self._answered or not _is_away(error)
                raise
            self._answered = True
            return answer

        retrying = Retrying(**retries.policy("hdfs", _passes, seconds, _in_words))
        try:
            with _as_oserror():
                return retrying(attempt)
        except OSError as error:
            if not _is_away(error):
                raise
            text = f"no NameNode answers at {self._url}: {error}"
            raise ConnectionRefusedError(errno.ECONNREFUSED, text) from error


class _Reader(io.RawIOBase):
    """Reads that fail are made again, from the same place, with the NameNode's present knowledge of where the blocks are."""

    def __init__(self, client: PatientClient, path: str) -> None:
        self._client, self._path = client, path
        self._inner = client.read(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._inner.size}[whence]
        self._inner.seek(min(base + offset, self._inner.size))  # hdfs-native panics beyond the end
        return self.tell()

    def tell(self) -> int:
        return int(self._inner.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self, size: int = -1) -> bytes:
        return self._read(size) if size else b""

    def _read(self, size: int) -> bytes:
        place, failed = self.tell(), False

        def attempt() -> bytes:
            nonlocal failed
            if failed:
                self._inner = self._client.read(self._path)
                self._inner.seek(place)
            failed = True
            return bytes(self._inner.read(size))

        with _as_oserror():
            return Retrying(**retries.policy("hdfs", _data_passes, lambda: retries.DATA_SECONDS, _in_words))(attempt)


class _Writer(io.RawIOBase):
    """A file that goes on where it was broken off: its lease is recovered, which closes it, and what is missing is appended.

    hdfs-native builds a pipeline anew when one of its DataNodes dies, but not when the NameNode, which learns of a death late,
    names a dead one for the next block. It reports success before DataNodes have confirmed, so that the newest bytes are kept.
    """

    def __init__(self, client: PatientClient, path: str, overwrite: bool) -> None:
        self._client, self._path = client, path
        self._inner = self._create(overwrite)
        self._newest: deque[bytes] = deque()
        self._length = self._kept = 0
        self._failure = ""

    def _create(self, overwrite: bool) -> Any:
        return self._client.create(self._path, WriteOptions(overwrite=overwrite))

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._newest.append(content)
        self._length += len(content)
        self._kept += len(content)
        while self._kept - len(self._newest[0]) >= _UNCONFIRMED:
            self._kept -= len(self._newest.popleft())
        self._done(lambda: self._inner.write(content))
        return len(content)

    def close(self) -> None:
        if not self.closed:
            super().close()
            if not self._failure:
                self._done(lambda: self._inner.close(), closing=True)

    def _done(self, call: Callable[[], object], *, closing: bool = False) -> None:
        """Make a call once; after a failure recover, append, and close if that was to be done."""
        if self._failure:  # a buffer above tries again to write what it still has
            raise OSError(errno.EIO, self._failure)
        failure: BaseException | None = None

        def attempt() -> None:
            nonlocal failure
            if failure is None:
                try:
                    call()
                except (OSError, RuntimeError) as error:
                    failure = error
                    raise
                return
            _let_go(self._inner)
            there = self._client.recovered(self._path)
            if not self._length - self._kept <= there <= self._length:
                raise _BrokenError(errno.EIO, f"of {self._length} bytes {there} are there")
            if closing and there == self._length:
                return
            self._inner = self._client.append(self._path) if there else self._create(overwrite=True)
            if there < self._length:
                self._inner.write(b"".join(self._newest)[there - self._length :])
            if closing:
                self._inner.close()

        try:
            with _as_oserror():
                Retrying(**retries.policy("hdfs", _data_passes, lambda: retries.SERVICE_SECONDS, _in_words))(attempt)
        except OSError as error:
            cause = _in_words(failure) if failure is not None and failure is not error else ""
            self._failure = "; ".join(filter(None, [cause, error.strerror or str(error)]))
            raise OSError(error.errno or errno.EIO, self._failure) from error


def _let_go(writer: Any) -> None:
    """Forget a broken writer. Collected as garbage it would close the file, which another writer has open by then."""
    writer.close = lambda: None
    writer.inner = None


class _BrokenError(OSError):
    """A file that cannot be gone on with."""


@contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "AccessControlException" in str(error):
            raise PermissionError(errno.EACCES, _in_words(error)) from error
        if "QuotaExceededException" in str(error):
            raise OSError(errno.EDQUOT, _in_words(error)) from error
        raise OSError(_in_words(error)) from error


def _passes(error: BaseException) -> bool:
    if isinstance(error, RuntimeError):
        return any(name in str(error).split("\\n", 1)[0] for name in _PASSING)
    return _is_away(error)


def _is_away(error: BaseException) -> bool:
    """Whether there was no NameNode to talk to: the call may have been lost, or its answer."""
    return type(error) is OSError and _AWAY.search(str(error)) is not None


def _data_passes(error: BaseException) -> bool:
    """Whether blocks may be read or written later: DataNodes come back, a pipeline is built anew."""
    if isinstance(error, RuntimeError):
        return not any(name in str(error) for name in _FINAL)
    return type(error) is OSError


def _in_words(error: BaseException) -> str:
    """Return what a person needs of Java's exception: its name and its first line."""
    text = str(error)
    if "All DataNodes failed" in text:
        return "no DataNode gives a whole copy of a block: all of its replicas are away or damaged"
    found = _ERROR.search(text)
    if found is None:
        return text
    return f"{found['kind'].rpartition('.')[2]}: {found['text'].split(chr(92) + 'n', 1)[0]}"
