"""The raw files: found, listed and hashed without a JVM."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel

from sparkml.errors import ConfigError, DataError, NoInputError
from sparkml.storage import modified, opened
from sparkml.storage.explain import explained

_AT_ONCE = 16  # other hosts take their time for each file
_WORTH_LISTING = 8  # files of one folder: from here on its listing is asked for instead of each
_WHOLE_BYTES = 4 << 20  # are read by one request


class InputFile(BaseModel):
    """A raw file as it was when it was read. `modified` is ISO 8601 in UTC, or the object store's etag."""

    path: str
    size: int
    modified: str
    sha256: str


def expand(paths: Sequence[str]) -> list[str]:
    """Return the files that paths, folders and globs mean, sorted. Raises `NoInputError` for what is missing or empty."""
    found: list[str] = []
    for path in (item if "://" in item else os.path.realpath(item) for item in paths):
        with explained("list", path):
            found += _expand_one(path)
    return sorted(dict.fromkeys(found))


def _expand_one(path: str) -> list[str]:
    fs, inside = _opened(path)
    fs.invalidate_cache()  # s3fs remembers listings: a file that came since would not be seen
    prefix = path[: len(path) - len(inside)] if "://" in path else ""
    if any(sign in inside for sign in "*?["):
        matched = [str(name) for name, info in fs.glob(inside, detail=True).items() if info["type"] != "directory"]
    elif fs.isdir(inside):
        # a local folder that cannot be listed would be left out
        matched = [str(name) for name in (fs.find(inside) if "://" in path else fs.find(inside, on_error="raise"))]
    else:
        matched = [inside] if fs.exists(inside) else []
    matched = [name for name in matched if not name.rpartition("/")[2].startswith(("_", "."))]
    if not matched:
        raise NoInputError(
            f"no input: {path} {'matches no file' if fs.exists(inside) or '*' in inside else 'does not exist'}",
            hint="check source.path, or give --data PATH",
        )
    return [f"{prefix}{name}" if prefix and not name.startswith(prefix) else name for name in matched]


def scan(paths: Sequence[str], known: Mapping[str, InputFile]) -> list[InputFile]:
    """Return size, time and SHA-256 of files; a file whose size and time are those in `known` is not read again.

    Raises
    ------
    DataError
        A file is missing or empty.
    """
    folders = Counter(path.rpartition("/")[0] for path in paths)
    listed = {folder: count >= _WORTH_LISTING for folder, count in folders.items()}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        states: dict[str, Mapping[str, Any]] = {}
        for found in pool.map(_listing, [folder for folder, worth in listed.items() if worth]):
            states |= found
        return list(pool.map(lambda path: _scan_one(path, known.get(path), states), paths))


def _listing(folder: str) -> dict[str, Mapping[str, Any]]:
    """Return what a storage says about all files of a folder in one answer, by path inside the storage.

    s3fs answers from what `expand` has just listed.
    """
    fs, inside = opened(folder)
    try:
        # of a link a listing tells the link's own time
        return {str(info["name"]): info for info in fs.ls(inside, detail=True) if not info.get("islink")}
    except OSError:  # whatever it is will show at the files
        return {}


def _scan_one(path: str, known: InputFile | None, states: Mapping[str, Mapping[str, Any]]) -> InputFile:
    fs, inside = opened(path)
    try:
        info: Mapping[str, Any] = states.get(inside) or fs.info(inside)
        size, when = int(info["size"]), modified(info)
        if size == 0:
            raise DataError(f"the input file {path} is empty")
        if known is not None and (known.size, known.modified) == (size, when):
            return known
        digest = hashlib.sha256()
        if size <= _WHOLE_BYTES:
            digest.update(fs.cat_file(inside))
        else:
            with fs.open(inside, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise DataError(f"cannot read the input file {path}: {error.strerror or error}") from None
    return InputFile(path=path, size=size, modified=when, sha256=digest.hexdigest())


def _opened(path: str) -> tuple[Any, str]:
    """The file system of a path and the path inside it. Raises `ConfigError` for a scheme that nothing here can read."""
    try:
        return opened(path)
    except (ImportError, ValueError, OSError) as error:
        hint = "s3a:// needs `pip install 'sparkml[s3]'`, hdfs:// `pip install 'sparkml[hdfs]'`"
        raise ConfigError(f"cannot read {path}: {error}", hint=hint) from None


def spark_urls(paths: Sequence[str]) -> list[str]:
    """Return paths as Spark takes them: without a scheme it would look in the cluster's default file system."""
    return [path if "://" in path else f"file://{path}" for path in paths]
