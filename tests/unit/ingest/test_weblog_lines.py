"""Log lines: parsed strictly, cut into byte ranges without loss, generated with a known truth."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparkml.errors import DataError
from sparkml.ingest.weblog.generate import DAMAGE, MALFORMED, TRUTH, VERSION, Generate, generate
from sparkml.ingest.weblog.lines import LONGEST_LINE, Request, Split, parse, read_lines, readable, splits

GOOD = (
    b'192.0.2.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a.gif?x=1 HTTP/1.0" 200 2326 "https://www.example.org/" "Moz/4.0 (x)"'
)


def test_a_line_of_the_specification_is_parsed() -> None:
    # 13:55:36 at UTC-7 is 20:55:36 UTC
    assert parse(GOOD) == Request(
        "192.0.2.1", 971211336, "GET", "/a.gif?x=1", 200, 2326, "https://www.example.org/", "Moz/4.0 (x)"
    )
    assert parse(GOOD.replace(b"2326", b"-")).size == 0  # type: ignore[union-attr]
    assert parse(GOOD.replace(b"192.0.2.1", b"2001:db8::1")).host == "2001:db8::1"  # type: ignore[union-attr]
    assert parse(GOOD.replace(b"Moz", "Mözilla".encode())) is not None
    assert parse(GOOD.replace(b"/a.gif?x=1", b"*")).path == "*"  # type: ignore[union-attr]


@pytest.mark.parametrize("text", [rb"\"Tab\" 9", rb"a\\", rb"\x22\n", rb"\"", b""])
def test_servers_escape_quotes_and_backslashes(text: bytes) -> None:
    found = parse(GOOD.replace(b"Moz/4.0 (x)", text).replace(b"https://www.example.org/", text))
    assert found is not None
    assert (found.referrer, found.agent) == (text.decode(), text.decode())


MALFORMED_LINES = {
    "cut": GOOD[:60],
    "empty": b"",
    "blank": b"   ",
    "no quotes": GOOD.replace(b'"', b""),
    "month": GOOD.replace(b"Oct", b"Okt"),
    "day": GOOD.replace(b"10/Oct", b"32/Oct"),
    "february": GOOD.replace(b"10/Oct", b"30/Feb"),
    "hour": GOOD.replace(b"13:55", b"25:55"),
    "zone": GOOD.replace(b"-0700", b"-9900"),
    "negative status": GOOD.replace(b" 200 ", b" -200 "),
    "status 99": GOOD.replace(b" 200 ", b" 99 "),
    "negative bytes": GOOD.replace(b" 2326 ", b" -5 "),
    "latin-1": GOOD.replace(b"Moz", b"M\xf6z"),
    "nul": GOOD.replace(b"GET", b"G\x00T"),
    "method": GOOD.replace(b"GET", b"get"),
    "path": GOOD.replace(b"/a.gif", b"a.gif"),
    "two in one": GOOD + GOOD,
    "tail": GOOD + b" more",
    "tls handshake": b"\x16\x03\x01\x02\x00\x01",
    "escaped handshake": GOOD.replace(b"GET /a.gif?x=1 HTTP/1.0", rb"\x16\x03\x01"),
    "unclosed by a backslash": GOOD[:-1] + rb"\"",
    "more digits than Python converts": GOOD.replace(b"2326", b"9" * 5000),
    "more bytes than there are": GOOD.replace(b"2326", b"9" * 400),
    "before the calendar": GOOD.replace(b"10/Oct/2000:13:55:36 -0700", b"01/Jan/0001:00:00:00 +0100"),
    "after the calendar": GOOD.replace(b"10/Oct/2000:13:55:36", b"31/Dec/9999:23:59:59"),
    "before 1970": GOOD.replace(b"2000", b"1969"),
    "zone of 99 minutes": GOOD.replace(b"-0700", b"-0799"),
    "digits of another script": GOOD.replace(b"13:55:36", "١٣:55:36".encode()),
    "too long": GOOD.replace(b"x=1", b"x" * LONGEST_LINE),
}


@pytest.mark.parametrize("line", MALFORMED_LINES.values(), ids=MALFORMED_LINES.keys())
def test_what_is_not_a_request_is_malformed(line: bytes) -> None:
    assert parse(line) is None


def test_raw_lines_are_readable_without_loss() -> None:
    assert readable(b"caf\xe9 \xff") == r"caf\xe9 \xff"
    assert readable("café".encode()) == "café"
    assert readable(rb"\x16 \xe9") == r"\\x16 \\xe9"  # the server's own escapes are not bytes that could not be decoded


def test_raw_lines_can_be_restored() -> None:
    random = np.random.default_rng(5)
    alphabet = [b"\\", b"\\x", b"e9", b"\xe9", "é".encode(), b"\x00", b"x", b"\\\\"]
    for _ in range(2000):
        raw = b"".join(alphabet[n] for n in random.integers(0, len(alphabet), 12))
        escaped = re.sub(rb"\\(\\|x(..))", lambda m: bytes.fromhex(m[2].decode()) if m[2] else b"\\", readable(raw).encode())
        assert escaped == raw


@pytest.mark.parametrize("size", [1, 2, 7, 10, 64, 10_000])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("closed", [True, False])
def test_byte_ranges_give_every_line_once(tmp_path: Path, size: int, ending: bytes, closed: bool) -> None:
    lines = [b"a" * length for length in (3, 0, 1, 40, 0, 0, 9, 2, 15)]
    path = tmp_path / "a.log"
    path.write_bytes(ending.join(lines) + (ending if closed else b""))
    pieces = splits([(str(path), path.stat().st_size)], size)
    assert [line for piece in pieces for _, line in read_lines(piece)] == lines


def test_a_gzip_is_one_piece_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.log.gz"
    path.write_bytes(gzip.compress(b"x\ny\n"))
    (piece,) = splits([(str(path), path.stat().st_size)], 1)
    assert piece == Split(str(path), 0, None)
    assert list(read_lines(piece)) == [("a.log.gz", b"x"), ("a.log.gz", b"y")]
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataError, match=r"a\.log\.gz: the compressed file is truncated"):
        list(read_lines(piece))


SMALL = Generate(lines=3000, sources=6, malformed=0.02, seed=11)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_generated_logs_are_a_function_of_their_settings(tmp_path: Path) -> None:
    for name, settings in (("a", SMALL), ("b", SMALL), ("c", SMALL.model_copy(update={"seed": 12}))):
        generate(tmp_path / name, settings)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["access-00.log"] != contents(tmp_path / "c")["access-00.log"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}  # no half-written folder stays


def lines_of(files: dict[str, bytes]) -> list[bytes]:
    logs = {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in files.items() if "access" in name}
    return [line for name in sorted(logs) for line in logs[name].split(b"\n")[:-1]]


def test_a_version_of_the_generator_is_a_promise(tmp_path: Path) -> None:
    """Change VERSION together with this hash: logs in users' caches are found by it."""
    generate(tmp_path / "a", SMALL)
    files = contents(tmp_path / "a")
    digest = hashlib.sha256(b"\n".join([*lines_of(files), files[TRUTH], files[MALFORMED]])).hexdigest()
    assert (VERSION, digest[:16]) == (2, "8605e4108ec92bef")


def test_compression_changes_no_line(tmp_path: Path) -> None:
    generate(tmp_path / "a", SMALL)
    generate(tmp_path / "b", SMALL.model_copy(update={"compress": False}))
    plain = contents(tmp_path / "b")
    assert not any(name.endswith(".gz") for name in plain)
    assert lines_of(plain) == lines_of(contents(tmp_path / "a"))


@pytest.mark.parametrize("damage", DAMAGE, ids=[damage.__name__ for damage in DAMAGE])
def test_every_damage_makes_a_line_malformed(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    generate(tmp_path / "a", Generate(lines=2000, sources=3, malformed=0, seed=2))
    lines = lines_of(contents(tmp_path / "a"))
    assert len(lines) == 2000
    assert all(parse(line) is not None for line in lines)
    assert not any(parse(damage(line)) for line in lines)


def test_generated_logs_keep_what_they_promise(tmp_path: Path) -> None:
    generate(tmp_path / "a", SMALL)
    files = contents(tmp_path / "a")
    logs = {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in files.items() if "access" in name}
    assert sorted(logs) == [f"access-0{n}.log" + (".gz" if n == 4 else "") for n in range(6)]
    lines = [line for data in logs.values() for line in data.split(b"\n")[:-1]]
    assert len(lines) == 3000
    malformed = sorted(line for line in lines if parse(line) is None)
    assert malformed == sorted(files[MALFORMED].split(b"\n")[:-1])
    assert len(malformed) == 60
    hosts = {request.host for request in map(parse, lines) if request}
    truth = dict(line.split(",") for line in files[TRUTH].decode().splitlines()[1:])
    assert hosts <= set(truth)
    assert set(truth.values()) == {"bot", "human"}
    by_client: dict[tuple[str, str], set[str]] = {}
    for name, data in logs.items():
        for request in filter(None, map(parse, data.split(b"\n"))):
            by_client.setdefault((request.host, request.agent), set()).add(name)
    assert sum(len(servers) > 1 for servers in by_client.values()) > 20  # clients come to several servers
    assert len(hosts) < len(by_client)  # and some with two devices
    assert {":" in host for host in hosts} == {True, False}


def test_generating_again_leaves_what_is_there(tmp_path: Path) -> None:
    generate(tmp_path / "a", SMALL)
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "a").iterdir()}
    stamp = (tmp_path / "a" / TRUTH).stat().st_mtime_ns
    generate(tmp_path / "a", SMALL)
    assert (tmp_path / "a" / TRUTH).stat().st_mtime_ns == stamp
    assert before == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "a").iterdir()}
