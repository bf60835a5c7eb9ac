"""`PatientS3`: s3fs, patient with an endpoint that is away, slow or busy for a while; every failure is an `OSError`."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
from typing import Any

from aiohttp import ClientError as AioHttpError
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    SSLError,
)
from botocore.exceptions import ConnectionError as NoConnectionError  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from tenacity import AsyncRetrying

from sparkml.storage import retries

_PASSING_STATUS = {429, 500, 502, 503, 504}
_PASSING_CODES = {
    "BadDigest",  # damaged on its way
    "ConditionalRequestConflict",  # another conditional put of the same key is on its way
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "XAmzContentSHA256Mismatch",
}
_CONFIG = {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60}


class PatientS3(S3FileSystem):  # type: ignore[misc]
    """``s3://`` for fsspec.

    Requests are made again in one place, here: neither by botocore, nor by s3fs (whose tries would multiply, and which gives up
    where the endpoint says 500). What an answer holds is read before the request counts as done.
    """

    retries = 1  # s3fs's own

    def __init__(self, *arguments: Any, config_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(*arguments, config_kwargs={**_CONFIG, **(config_kwargs or {})}, **options)
        self._answered = False

    async def _call_s3(self, method: str, *more: Any, **parameters: Any) -> Any:
        attempts = 0

        async def attempt() -> Any:
            nonlocal attempts
            attempts += 1
            try:
                answer = await S3FileSystem._call_s3(self, method, *more, **parameters)
                if method == "get_object":
                    body = answer["Body"]
                    try:
                        answer["Body"] = _Body(await body.read())
                    finally:
                        body.close()
            except FileNotFoundError:
                self._answered = True
                if method == "complete_multipart_upload" and attempts > 1 and await self._completed(parameters):
                    return {}
                raise
            except OSError:
                self._answered = True
                raise
            self._answered = True
            return answer

        def seconds() -> float:
            return retries.SERVICE_SECONDS if self._answered else retries.FIRST_SECONDS

        try:
            return await AsyncRetrying(**retries.policy("s3", _passes, seconds, _in_words))(attempt)
        except (HTTPClientError, NoConnectionError, AioHttpError) as error:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"the endpoint does not answer: {_in_words(error)}") from error
        except (BotoCoreError, ResponseParserError) as error:  # no credentials, a name that cannot be
            raise OSError(_in_words(error)) from error

    call_s3 = sync_wrapper(_call_s3)  # s3fs's own is bound to its own

    async def _completed(self, parameters: dict[str, Any]) -> bool:
        """Whether an upload whose id is not known any more was completed by an attempt whose answer was lost."""
        parts = [bytes.fromhex(part["ETag"].strip('"')) for part in parameters["MultipartUpload"]["Parts"]]
        wanted = f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"
        try:
            found = await self._call_s3("head_object", Bucket=parameters["Bucket"], Key=parameters["Key"])
        except FileNotFoundError:
            return False
        return bool(found["ETag"].strip('"') == wanted)


class _Body:
    """An answer's content, as s3fs reads it."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    async def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()


def code(error: BaseException) -> str:
    """Return S3's code of an error that s3fs has put into Python's terms, like ``NoSuchBucket``; empty if it has none."""
    told = error if isinstance(error, ClientError) else error.__cause__
    return str(told.response.get("Error", {}).get("Code", "")) if isinstance(told, ClientError) else ""


def _status(error: BaseException) -> int:
    told = error if isinstance(error, ClientError) else error.__cause__
    return int(told.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if isinstance(told, ClientError) else 0


def _passes(error: BaseException) -> bool:
    if isinstance(error, SSLError):
        return False
    if isinstance(
        error, (HTTPClientError, NoConnectionError, AioHttpError, IncompleteReadError, ResponseParserError, asyncio.TimeoutError)
    ):
        return True
    return _status(error) in _PASSING_STATUS or code(error) in _PASSING_CODES


def _in_words(error: BaseException) -> str:
    name = code(error) or type(error).__name__
    return f"{name}: {error}".replace("\n", " ")
