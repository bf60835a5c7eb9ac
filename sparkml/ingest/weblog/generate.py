"""Seeded web-server logs with known truth: which clients are bots, and which lines are malformed.

Bots and people overlap on purpose: some bots are slow and send browsers' names and referrers, some people click fast and send
none.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparkml.config import Options
from sparkml.ingest.weblog.lines import LONGEST_LINE

TRUTH = "truth.csv"
VERSION = 2  # part of where generated logs lie; raised when the same settings give other lines
MALFORMED = "_malformed.log"  # not an input: what a test compares the quarantine with

_START = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp())  # a Monday
_DAYS = 7
_BROWSERS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_4) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
)
_TWISTED = r"Mozilla/5.0 (Linux; Android 14; \"Tab\" 9) Chrome/124.0 Mobile"  # with quotes, as servers escape them
_BOTS = (
    "ExampleBot/2.1 (+http://bot.example/about)",
    "Mozilla/5.0 (compatible; crawl-index/1.0)",
    "python-requests/2.31",
    "curl/8.5.0",
)
_ZONES = (UTC, timezone(timedelta(hours=1)), timezone(-timedelta(hours=5, minutes=30)))  # of the servers, in turn; all in March
_SUFFIXES = (".css", ".js", ".png", ".jpg")


class Generate(Options):
    """What to generate; the same values give the same bytes."""

    lines: int = Field(1_000_000, ge=100)
    sources: int = Field(20, ge=1, le=1000, description="web servers, one file each")
    malformed: float = Field(0.01, ge=0, lt=0.5, description="share of lines")
    compress: bool = Field(True, description="gzip every fifth file")
    seed: int = 7


class _Clients:
    """Who comes: what is the same for all requests of a client, and for all of a session."""

    def __init__(self, random: np.random.Generator, settings: Generate, sessions: int) -> None:
        count = max(2, sessions // 3)
        bot = random.random(count) < 0.3
        blends = random.random(count) < np.where(bot, 0.07, 0.015)  # behaves like the others
        address = random.choice(223 * 65_536 * 254, count, replace=False)
        old = [f"{1 + n // (65_536 * 254)}.{n // 65_536 % 254}.{n // 256 % 256}.{n % 256}" for n in address.tolist()]
        new = [f"2001:db8::{n >> 16:x}:{n & 0xFFFF:x}" for n in address.tolist()]
        self.hosts = [(new if n % 16 == 0 else old)[n] for n in range(count)]
        names_itself = random.random(count) < np.where(bot, 0.45, 0.01)
        which = random.integers(0, 4, count)
        self.agents = [(_BOTS if own else _BROWSERS)[n] for own, n in zip(names_itself.tolist(), which.tolist(), strict=True)]
        self.bot = bot
        self.roams = random.random(count) < np.where(bot, 0.4, 0.15)  # behind a load balancer, or crawling all servers
        shares = random.random(count) < 0.15  # an address with a second device
        self.of_session = random.integers(0, count, sessions)
        self.robotic = (bot ^ blends)[self.of_session]
        self.server = random.integers(0, settings.sources, sessions)
        self.second_device = shares[self.of_session] & ~self.robotic & (random.random(sessions) < 0.5)


def generate(folder: Path, settings: Generate) -> None:
    """Write ``access-NN.log[.gz]``, ``truth.csv`` and ``_malformed.log`` into `folder`: all of them or, when killed, none."""
    if folder.exists():
        return
    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
    part.mkdir(parents=True)
    try:
        _write(part, settings)
        os.replace(part, folder)
    except OSError:
        if not folder.exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(folder: Path, settings: Generate) -> None:
    random = np.random.default_rng(settings.seed)
    sessions = max(20, settings.lines // 14)
    clients = _Clients(random, settings, sessions)
    session = _requests_per_session(random, clients.robotic, settings.lines)
    times = _times(random, clients.robotic, session)
    order = np.argsort(times, kind="stable")
    session, times = session[order], times[order]
    elsewhere = random.integers(0, settings.sources, settings.lines)
    server = np.where(clients.roams[clients.of_session[session]], elsewhere, clients.server[session])
    lines = _lines(random, clients, session, times, server)
    bad = np.sort(random.choice(settings.lines, int(settings.lines * settings.malformed), replace=False))
    share = np.array([0.02 if damage is _too_long else 1.0 for damage in DAMAGE])
    kinds = random.choice(len(DAMAGE), len(bad), p=share / share.sum())
    for place, kind in zip(bad.tolist(), kinds.tolist(), strict=True):
        lines[place] = DAMAGE[kind](lines[place])
    (folder / MALFORMED).write_bytes(b"".join(lines[place] + b"\n" for place in bad.tolist()))
    truth = [f"{host},{'bot' if bot else 'human'}" for host, bot in zip(clients.hosts, clients.bot.tolist(), strict=True)]
    (folder / TRUTH).write_text("\n".join(["host,label", *truth]) + "\n")
    for number in range(settings.sources):
        content = b"".join(lines[place] + b"\n" for place in np.flatnonzero(server == number).tolist())
        name = f"access-{number:02d}.log"
        if settings.compress and number % 5 == 4:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 6, mtime=0))
        else:
            (folder / name).write_bytes(content)


def _requests_per_session(random: np.random.Generator, robotic: NDArray[Any], lines: int) -> NDArray[Any]:
    """Return the session of each of `lines` requests; every session has at least one."""
    weight = np.where(robotic, random.pareto(1.6, len(robotic)) + 0.4, random.gamma(2.0, 0.7, len(robotic)))
    extra = random.choice(len(robotic), lines - len(robotic), p=weight / weight.sum())
    return np.sort(np.concatenate([np.arange(len(robotic)), extra]))


def _times(random: np.random.Generator, robotic: NDArray[Any], session: NDArray[Any]) -> NDArray[Any]:
    """Return each request's second: people pause irregularly and sleep at night, bots keep a beat around the clock."""
    count = len(robotic)
    day = random.integers(0, _DAYS, count)
    awake = 7 * 3600 + random.beta(2.2, 1.8, count) * 17 * 3600
    begin = _START + day * 86_400 + np.where(robotic, random.random(count) * 86_400, awake).astype(np.int64)
    beat = random.choice([1, 2, 5, 10, 20], count)[session]
    slow = random.exponential(45, len(session)) * (random.random(len(session)) < 0.35)
    gaps = np.where(robotic[session], beat + random.integers(-1, 2, len(session)), slow).astype(np.int64).clip(0, 1700)
    total = np.cumsum(gaps)
    first = np.searchsorted(session, np.arange(count))
    return begin[session] + total - total[first][session]  # type: ignore[no-any-return]


def _lines(
    random: np.random.Generator, clients: _Clients, session: NDArray[Any], times: NDArray[Any], server: NDArray[Any]
) -> list[bytes]:
    """Return one well-formed line per request, in the order given."""
    count = len(session)
    robotic = clients.robotic[session]
    draw = random.random((6, count))
    asset = draw[0] < np.where(robotic, 0.08, 0.55)
    robots = robotic & (draw[1] < 0.03)
    failed = draw[2] < np.where(robotic, 0.12, 0.03)
    referred = draw[3] < np.where(robotic, 0.12, 0.8)
    method = np.where(robotic & (draw[4] < 0.1), "HEAD", np.where(~robotic & (draw[4] < 0.04), "POST", "GET")).tolist()
    kept = ~robotic & (draw[5] < 0.12)  # the browser has it already
    failure = random.choice([404, 403, 410, 500], count, p=[0.8, 0.08, 0.04, 0.08])
    success = np.where(kept, 304, np.where(draw[5] > 0.97, 301, 200))
    status = np.where(failed, failure, success).tolist()
    page = np.where(robotic, random.integers(0, 20_000, count), random.zipf(1.6, count) % 3000).tolist()
    size = random.integers(200, 60_000, count).tolist()
    who, device = clients.of_session[session].tolist(), clients.second_device[session].tolist()
    zone = (server % len(_ZONES)).tolist()
    found = []
    stamps: dict[tuple[int, int], str] = {}
    for n, time in enumerate(times.tolist()):
        stamp = stamps.get((time, zone[n]))
        if stamp is None:
            local = datetime.fromtimestamp(time, _ZONES[zone[n]])
            stamp = stamps[time, zone[n]] = f"{local.day:02d}/Mar/{local:%Y:%H:%M:%S %z}"
        if robots[n]:
            path = "/robots.txt"
        elif asset[n]:
            path = f"/static/{page[n] % 400}{_SUFFIXES[page[n] % 4]}"
        else:
            path = f"/articles/{page[n]}"
        referrer = f"https://www.example.org/articles/{page[n] % 97}" if referred[n] else "-"
        host, agent = clients.hosts[who[n]], _TWISTED if device[n] else clients.agents[who[n]]
        sent = "-" if method[n] == "HEAD" or status[n] == 304 else size[n]
        found.append(f'{host} - - [{stamp}] "{method[n]} {path} HTTP/1.1" {status[n]} {sent} "{referrer}" "{agent}"'.encode())
    return found


def _cut(line: bytes) -> bytes:
    return line[: len(line) * 2 // 3]


def _not_utf8(line: bytes) -> bytes:
    return line.replace(b"/1.1", b"/1.1\xff\xfe")


def _wrong_date(line: bytes) -> bytes:
    return line.replace(b"/Mar/", b"/Mrz/")


def _no_such_day(line: bytes) -> bytes:
    at = line.index(b"[") + 1
    return line[:at] + b"31/Feb" + line[at + 6 :]


def _unquoted(line: bytes) -> bytes:
    return line.replace(b'"', b"")


def _negative_status(line: bytes) -> bytes:
    return re.sub(rb'" (\d{3}) ', rb'" -\1 ', line, count=1)


def _empty(line: bytes) -> bytes:
    return b""


def _two_in_one(line: bytes) -> bytes:
    return line + line


def _binary(line: bytes) -> bytes:
    return b"\x16\x03\x01" + line[:40]


def _handshake(line: bytes) -> bytes:
    return re.sub(rb'"[A-Z]+ [^"]*"', rb'"\\x16\\x03\\x01\\x02"', line, count=1)


def _huge_number(line: bytes) -> bytes:
    return re.sub(rb'" (\d{3}) \S+ ', rb'" \1 ' + b"9" * 5000 + b" ", line, count=1)


def _too_long(line: bytes) -> bytes:
    return line.replace(b" HTTP/", b"?q=" + b"A" * LONGEST_LINE + b" HTTP/")


DAMAGE: tuple[Callable[[bytes], bytes], ...] = (
    _cut,
    _not_utf8,
    _wrong_date,
    _no_such_day,
    _unquoted,
    _negative_status,
    _empty,
    _two_in_one,
    _binary,
    _handshake,
    _huge_number,
    _too_long,
)
