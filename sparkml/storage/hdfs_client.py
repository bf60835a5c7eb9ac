"""`PatientHdfs`: hdfs-native's file system that waits while the NameNode cannot answer, and raises `OSError` when it will not."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from hdfs_native.fsspec import HdfsFileSystem
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

log = logging.getLogger(__name__)

# A NameNode that has just started has heard of no blocks yet, a standby one may soon be active, a lease is being recovered
_PASSING = (
    "SafeModeException",
    "StandbyException",
    "RetriableException",
    "RecoveryInProgressException",
    "NotReplicatedYetException",
)
_PATIENCE_SECONDS = 300.0
_ERROR = re.compile(r'RPCError\("(?P<kind>[\w.$]+)", "(?P<text>(?:[^"\\]|\\.)*)')


# A forked child drops fsspec's file systems. hdfs-native's client, dropped, waits for its threads, which a fork does not copy:
# whoever forks then (pyspark, to start its JVM) hangs.
_KEPT: list[Any] = []


class PatientHdfs(HdfsFileSystem):  # type: ignore[misc]
    """``hdfs://`` for fsspec."""

    def __init__(self, host: str | None = None, port: int | None = None, *args: Any, **options: Any) -> None:
        super().__init__(host, port, *args, **options)
        _KEPT.append(self.client)
        self.client: Any = _PatientClient(self.client)


class _PatientClient:
    """hdfs-native's client: each call is made again, later and later, while its failure is one that passes by itself.

    Connections that are refused are tried again by hdfs-native itself (15 times within 3 minutes).
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name == "list_status":  # lazy: it would fail later, out of our sight
            return _patient(lambda *arguments: list(self._client.list_status(*arguments)))
        found = getattr(self._client, name)
        return _patient(found) if callable(found) else found


def _patient(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> Any:
        retrying = Retrying(
            retry=retry_if_exception(_passes),
            wait=wait_exponential_jitter(initial=0.2, max=10),
            stop=stop_after_delay(_PATIENCE_SECONDS),
            before_sleep=_tell,
            reraise=True,
        )
        try:
            return retrying(call, *arguments, **named)
        except RuntimeError as error:
            raise OSError(_in_words(error)) from error

    return called


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
