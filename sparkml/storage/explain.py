"""A file system's error in words: what, where, why, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sparkml.errors import SparkmlError, StorageError

_PERMISSION = "give this user write permission there, or choose another root with --set store=URL"
_HINTS = {
    errno.ENOSPC: "free some space (`df -h`), then run the same command again: finished stages are kept",
    errno.EDQUOT: "free some of your quota, then run the same command again: finished stages are kept",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "that file system is read-only: choose another root with --set store=URL",
    errno.ECONNREFUSED: "check host and port, and that the service runs; then run the same command again",
}
_S3_HINTS = {
    "AccessDenied": "give these credentials (aws sts get-caller-identity) s3:GetObject, PutObject, DeleteObject and ListBucket",
    "ExpiredToken": "these credentials have expired: get new ones, then run the same command again",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID, or AWS_PROFILE, and AWS_ENDPOINT_URL: aws sts get-caller-identity",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY: aws sts get-caller-identity",
    "RequestTimeTooSkewed": "this host's clock is wrong: timedatectl (S3 allows 15 minutes)",
    "NoSuchBucket": "create the bucket, or correct its name: aws s3 ls",
    "403": "check the credentials (aws sts get-caller-identity), what they may do there, and this host's clock (timedatectl)",
}
_CREDENTIALS = "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


@contextmanager
def explained(action: str, where: str) -> Iterator[None]:
    """Turn what a file system raises into a `StorageError`."""
    try:
        yield
    except SparkmlError:
        raise
    except OSError as error:
        cause = error.strerror or str(error) or type(error).__name__
        raise StorageError(f"cannot {action} {where}: {cause}", hint=_hint(error)) from error


def _hint(error: OSError) -> str | None:
    answer = getattr(error.__cause__, "response", None)  # of botocore's errors
    code = str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""
    if type(error.__cause__).__name__ == "NoCredentialsError":
        return _CREDENTIALS
    return _S3_HINTS.get(code) or _HINTS.get(error.errno or 0)
