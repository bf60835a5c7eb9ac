"""Sessions of web clients by RDD transforms: one shuffle, sorted within partitions, built as a stream."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sparkml.ingest.weblog.lines import Request, Split, parse, read_lines, readable

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.core.rdd import RDD

SCHEMA = (
    "session_id string, host string, agent string, label string, started bigint, requests int, duration double, "
    "gap_mean double, gap_std double, distinct_paths double, assets double, client_errors double, head double, "
    "with_referrer double, robots double, night double, size_mean double, servers int, says_bot double, "
    "_file string, _corrupt string"
)
COLUMNS = [item.split()[0] for item in SCHEMA.split(", ")]

_ASSETS = (".css", ".js", ".png", ".jpg", ".ico", ".svg", ".woff2")
_BOT_WORDS = ("bot", "crawl", "spider", "curl", "python", "wget")
_NIGHT_ENDS = 6 * 3600  # seconds of the day, UTC
_BAD = 0, ""  # sorts before every client and is nobody's key
Key = tuple[Any, ...]


@dataclass
class _Session:
    """Running sums over one session's requests, in order of time."""

    first: Request
    last: int
    file: str
    requests: int = 0
    gaps: int = 0
    gap_squares: int = 0
    assets: int = 0
    client_errors: int = 0
    head: int = 0
    referred: int = 0
    night: int = 0
    size: int = 0
    robots: bool = False
    paths: set[str] = field(default_factory=set)
    servers: set[str] = field(default_factory=set)

    def add(self, request: Request, file: str) -> None:
        gap = request.time - self.last
        self.requests += 1
        self.gaps += gap
        self.gap_squares += gap * gap
        self.assets += request.path.partition("?")[0].endswith(_ASSETS)
        self.client_errors += 400 <= request.status < 500
        self.head += request.method == "HEAD"
        self.referred += request.referrer not in ("", "-")
        self.night += request.time % 86_400 < _NIGHT_ENDS
        self.size += request.size
        self.robots |= request.path == "/robots.txt"
        self.paths.add(request.path)
        self.servers.add(file)
        self.last = request.time

    def row(self, labels: Mapping[str, str]) -> tuple[Any, ...]:
        """Return the values of `SCHEMA`; shares are of the session's requests, gaps in seconds between neighbours."""
        n, between = self.requests, max(1, self.requests - 1)
        gap_mean = self.gaps / between
        agent = self.first.agent.lower()
        client = f"{self.first.host} {self.first.agent}"
        return (
            f"{hashlib.blake2b(client.encode(), digest_size=8).hexdigest()}-{self.first.time}",
            self.first.host,
            self.first.agent,
            labels.get(self.first.host),
            self.first.time,
            n,
            float(self.gaps),
            gap_mean,
            math.sqrt(max(0.0, self.gap_squares / between - gap_mean * gap_mean)),
            len(self.paths) / n,
            self.assets / n,
            self.client_errors / n,
            self.head / n,
            self.referred / n,
            float(self.robots),
            self.night / n,
            self.size / n,
            len(self.servers),
            float(any(word in agent for word in _BOT_WORDS)),
            self.file,
            None,
        )


def session_rows(
    context: SparkContext, pieces: list[Split], labels: Mapping[str, str], *, gap_seconds: int
) -> RDD[tuple[Any, ...]]:
    """Return rows of `SCHEMA`: one per session, and one per malformed line with its raw text in ``_corrupt``.

    A client is a host with its user agent; a pause of more than `gap_seconds` ends its session. All lines take one shuffle,
    partitioned by client and sorted by (client, time), so that a session is built as a stream: memory is bounded by one session.
    """
    known = context.broadcast(dict(labels))
    lines = context.parallelize(pieces, max(1, len(pieces))).flatMap(read_lines)
    keyed: RDD[Any] = lines.map(_keyed)
    ordered = keyed.repartitionAndSortWithinPartitions(context.defaultParallelism * 2, _place, keyfunc=_sort_key)
    return ordered.mapPartitions(partial(_sessions, labels=known, gap_seconds=gap_seconds))


def _keyed(line: tuple[str, bytes]) -> tuple[Key, tuple[str, Request | bytes]]:
    """Requests sort by client, time and the rest of their fields: the order of the input lines decides nothing."""
    file, raw = line
    request = parse(raw)
    if request is None:
        return (*_BAD, raw, file), (file, raw)
    return (1, f"{request.host} {request.agent}", request.time, request[2:], file), (file, request)


def _sort_key(key: Key) -> Any:
    return key


def _place(key: Key) -> int:
    who = key[1].encode() if key[0] else key[2]
    return zlib.crc32(who)


def _sessions(
    ordered: Iterator[tuple[Key, tuple[str, Request | bytes]]], *, labels: Any, gap_seconds: int
) -> Iterator[tuple[Any, ...]]:
    client, session = "", None
    nothing = (None,) * (len(COLUMNS) - 2)
    for key, (file, item) in ordered:
        if isinstance(item, bytes):
            yield (*nothing, file, readable(item))
            continue
        if session is None or key[1] != client or item.time - session.last > gap_seconds:
            if session is not None:
                yield session.row(labels.value)
            client, session = key[1], _Session(item, item.time, file)
        session.add(item, file)
    if session is not None:
        yield session.row(labels.value)
