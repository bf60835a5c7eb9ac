"""`PatientHdfs`: hdfs-native's file system, patient with a NameNode that cannot answer yet; every failure is an `OSError`."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fsspec import AbstractFileSystem
from hdfs_native import Client
from hdfs_native.fsspec import HdfsFileSystem
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

log = logging.getLogger(__name__)

# A NameNode that has just started has heard of no blocks yet, a standby one may soon be active, a lease is being recovered.
# It did nothing in all of these cases, so that a call may be made again.
_PASSING = (
    "SafeModeException",
    "StandbyException",
    "RetriableException",
    "RecoveryInProgressException",
    "NotReplicatedYetException",
)
_PATIENCE_SECONDS = 300.0
_ERROR = re.compile(r'RPCError\("(?P<kind>[\w.$]+)", "(?P<text>(?:[^"\\]|\\.)*)')
_BUFFER = 1 << 20  # every read of hdfs-native is a request to a DataNode

# One client per process and NameNode, for good. A forked child drops fsspec's file systems; hdfs-native's client, dropped there,
# would wait for its threads, which a fork does not copy, and whoever forks (pyspark, to start its JVM) would hang.
_clients: dict[tuple[int, str], Any] = {}
_lock = threading.Lock()


class PatientHdfs(HdfsFileSystem):  # type: ignore[misc]
    """``hdfs://`` for fsspec."""

    def __init__(self, host: str | None = None, port: int | None = None, *args: Any, **options: Any) -> None:
        AbstractFileSystem.__init__(self, host, port, *args, **options)  # HdfsFileSystem's own would make a client
        self.host, self.port = host, port
        self.client: Any = _PatientClient(_client(f"hdfs://{host or ''}{f':{port}' if port else ''}"))

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

    def _open(self, path: str, mode: str = "rb", overwrite: bool = True, *_: Any, **__: Any) -> Any:
        made = super()._open(path, mode=mode, overwrite=overwrite)
        return io.BufferedReader(_Reader(made), _BUFFER) if mode == "rb" else io.BufferedWriter(_Writer(made), _BUFFER)


def authority(url: str) -> dict[str, Any]:
    """Return host and port of a URL; the name of a nameservice keeps its capitals."""
    host, _, port = url.removeprefix("hdfs://").partition("/")[0].partition(":")
    return {"host": host or None, "port": int(port) if port else None}


def _client(url: str) -> Any:
    with _lock:
        key = os.getpid(), url
        if key not in _clients:
            with _as_oserror():
                _clients[key] = Client(url)
        return _clients[key]


class _PatientClient:
    """hdfs-native's client: each call is made again, later and later, while its failure is one that passes by itself.

    Connections that are refused are tried again by hdfs-native itself (for 3 minutes).
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name == "list_status":  # lazy: it would fail later, out of our sight
            return _patient(lambda *arguments: list(self._client.list_status(*arguments)))
        return _patient(getattr(self._client, name))


class _Reader(io.RawIOBase):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._inner.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._inner.tell())

    def readinto(self, buffer: Any) -> int:
        with _as_oserror():
            data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        with _as_oserror():
            return bytes(self._inner.read(-1))


class _Writer(io.RawIOBase):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with _as_oserror():
            return int(self._inner.write(bytes(data)))

    def close(self) -> None:
        if not self.closed:
            with _as_oserror():
                self._inner.close()
        super().close()


def _patient(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> Any:
        retrying = Retrying(
            retry=retry_if_exception(_passes),
            wait=wait_exponential_jitter(initial=0.2, max=10),
            stop=stop_after_delay(_PATIENCE_SECONDS),
            before_sleep=_tell,
            reraise=True,
        )
        with _as_oserror():
            return retrying(call, *arguments, **named)

    return called


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OSError(_in_words(error)) from error


def _passes(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(name in str(error).split("\\n", 1)[0] for name in _PASSING)


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("HDFS: %s; attempt %d, once more", _in_words(error), state.attempt_number)


def _in_words(error: BaseException | None) -> str:
    """Return what a person needs of Java's exception: its name and its first line."""
    found = _ERROR.search(str(error))
    if found is None:
        return str(error)
    return f"{found['kind'].rpartition('.')[2]}: {found['text'].split(chr(92) + 'n', 1)[0]}"
