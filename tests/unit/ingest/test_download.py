"""Downloads from a real server on loopback: whole or not at all, retried, and never with another checksum."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sparkml.errors import DataError
from sparkml.ingest import download
from sparkml.ingest.download import ATTEMPTS, Download, cached, fetch

CONTENT = bytes(range(256)) * 5000


class Publisher(ThreadingHTTPServer):
    """Serves CONTENT; the first `failures` requests fail as the path says."""

    failures = 0
    requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.requests += 1
        failing = self.server.requests <= self.server.failures
        if failing and self.path == "/busy":
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if failing and self.path == "/cut" else CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    with Publisher(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def item(server: Publisher, path: str = "file", *, sha256: str | None = hashlib.sha256(CONTENT).hexdigest()) -> Download:
    md5 = None if sha256 else hashlib.md5(CONTENT).hexdigest()
    return Download(url=f"http://127.0.0.1:{server.server_port}/{path}", name="data.bin", sha256=sha256, md5=md5)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("sha256", [hashlib.sha256(CONTENT).hexdigest(), None], ids=["sha256", "md5"])
def test_a_file_is_fetched_once(publisher: Publisher, sha256: str | None) -> None:
    wanted = item(publisher, sha256=sha256)
    fetch([wanted])
    fetch([wanted])
    assert cached(wanted).read_bytes() == CONTENT
    assert publisher.requests == 1


@pytest.mark.parametrize("path", ["busy", "cut"])
def test_a_server_that_recovers_is_retried(publisher: Publisher, path: str) -> None:
    publisher.failures = ATTEMPTS - 1
    wanted = item(publisher, path)
    fetch([wanted])
    assert cached(wanted).read_bytes() == CONTENT
    assert publisher.requests == ATTEMPTS


@pytest.mark.parametrize(("path", "reason"), [("busy", "503"), ("cut", "the connection ended after 640,000 of 1,280,000 bytes")])
def test_a_server_that_does_not_recover_is_named(publisher: Publisher, tmp_path: Path, path: str, reason: str) -> None:
    publisher.failures = 1000
    with pytest.raises(DataError, match=reason) as caught:
        fetch([item(publisher, path)])
    assert "--data" in str(caught.value)
    assert publisher.requests == ATTEMPTS
    assert leftovers(tmp_path) == []


def test_another_content_is_refused(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has the checksum [0-9a-f]{64}, expected 0{64}"):
        fetch([item(publisher, sha256="0" * 64)])
    assert publisher.requests == 1
    assert leftovers(tmp_path) == []


def test_a_download_without_a_checksum_is_no_download() -> None:
    with pytest.raises(ValueError, match="needs its 'sha256' or 'md5'"):
        Download(url="http://127.0.0.1/x", name="x")
