"""Lines of web-server logs in the combined log format, read by byte ranges and parsed strictly.

Format: https://httpd.apache.org/docs/2.4/logs.html#combined.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import IO, NamedTuple

from sparkml.errors import DataError
from sparkml.storage import opened

SPLIT_BYTES = 32 << 20
LONGEST_LINE = 64 << 10  # bytes; servers refuse requests that would make a longer one

_TEXT = r'[^"\\]*(?:\\.[^"\\]*)*'  # servers write a quote inside a field as \" and a control character as \n or \x07
_LINE = re.compile(
    r"(?P<host>[0-9A-Fa-f.:]+|[\w.-]+) \S+ \S+ \[(?P<time>[^\]]{26})\] "
    r'"(?P<method>[A-Z]+) (?P<path>\*|/[^ "\\]*(?:\\.[^ "\\]*)*) HTTP/[0-9.]+" '
    rf'(?P<status>[1-5][0-9]{{2}}) (?P<bytes>[0-9]{{1,15}}|-) "(?P<referrer>{_TEXT})" "(?P<agent>{_TEXT})"',
    re.ASCII,
)
_TIME = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)([0-5]\d)", re.ASCII)
_MONTHS = {
    name: n + 1 for n, name in enumerate(("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"))
}


class Request(NamedTuple):
    """One request; `time` in seconds since 1970 UTC, `size` in bytes."""

    host: str
    time: int
    method: str
    path: str
    status: int
    size: int
    referrer: str
    agent: str


class Split(NamedTuple):
    """A byte range of one file; `end` is None for the whole of a compressed one."""

    path: str
    start: int
    end: int | None


def parse(raw: bytes) -> Request | None:
    """Return the request of a line, or None when it is not a well-formed line of the combined log format in UTF-8."""
    if len(raw) > LONGEST_LINE:
        return None
    try:
        match = _LINE.fullmatch(raw.decode())
    except UnicodeDecodeError:
        return None
    if match is None:
        return None
    time = _seconds(match["time"])
    if time is None:
        return None
    size = 0 if match["bytes"] == "-" else int(match["bytes"])
    return Request(
        match["host"], time, match["method"], match["path"], int(match["status"]), size, match["referrer"], match["agent"]
    )


def _seconds(text: str) -> int | None:
    match = _TIME.fullmatch(text)
    if match is None or match[2] not in _MONTHS:
        return None
    offset = timedelta(hours=int(match[8]), minutes=int(match[9]))
    try:
        zone = timezone(-offset if match[7] == "-" else offset)
        day, year, hour, minute, second = (int(match[place]) for place in (1, 3, 4, 5, 6))
        time = int(datetime(year, _MONTHS[match[2]], day, hour, minute, second, tzinfo=zone).astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        return None
    return time if time >= 0 else None


def readable(raw: bytes) -> str:
    """Return a raw line as text without loss: a byte that is not UTF-8 becomes ``\\xNN``, and a backslash becomes two."""
    return raw.replace(b"\\", b"\\\\").decode(errors="backslashreplace")


def splits(files: list[tuple[str, int]], split_bytes: int = SPLIT_BYTES) -> list[Split]:
    """Cut files of (path, size) into byte ranges; a gzip cannot be cut."""
    found: list[Split] = []
    for path, size in files:
        if path.endswith(".gz"):
            found.append(Split(path, 0, None))
        else:
            found += [Split(path, start, min(start + split_bytes, size)) for start in range(0, size, split_bytes)]
    return found


def read_lines(split: Split) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, line without its end) for every line that *starts* inside the split.

    Raises
    ------
    DataError
        The file is a truncated or damaged gzip.
    """
    name = split.path.rpartition("/")[2]
    fs, inside = opened(split.path)
    with fs.open(inside, "rb") as raw:
        file: IO[bytes] = gzip.GzipFile(fileobj=raw) if split.end is None else raw  # type: ignore[assignment]
        position = split.start
        if position:
            file.seek(position - 1)
            position += len(file.readline()) - 1  # the line that runs into this split belongs to the one before
        try:
            while split.end is None or position < split.end:
                line = file.readline()
                if not line:
                    return
                position += len(line)
                yield name, line.removesuffix(b"\n").removesuffix(b"\r")
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise DataError(f"{split.path}: the compressed file is truncated or damaged") from None
