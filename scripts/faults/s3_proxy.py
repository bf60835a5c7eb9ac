"""`S3Proxy`: an HTTP proxy in front of an S3 endpoint that fails as it is told to."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Harm = Callable[["Request"], bool]
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Request(BaseHTTPRequestHandler):
    """One request. A harm gets it before it is passed on, and returns whether it has dealt with it."""

    protocol_version = "HTTP/1.1"
    server: S3Proxy  # type: ignore[assignment]

    def _handle(self) -> None:
        harm = self.server.harm
        if harm is None or not harm(self):
            self.answer(*self.passed_on())

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

    def passed_on(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the endpoint; return status, headers and body of its answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        there = http.client.HTTPConnection(self.server.endpoint, timeout=60)
        try:
            there.request(self.command, self.path, body, dict(self.headers.items()))
            answer = there.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            there.close()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), len(body))
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> bool:
        """Read the request and answer with an error of S3."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected: {code}</Message></Error>".encode()
        self.answer(status, [("Content-Type", "application/xml")], body)
        return True

    def cut(self) -> bool:
        """Cut the connection without an answer."""
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        return True

    def cut_in_the_middle(self) -> bool:
        """Cut the connection when half of the request's body is here."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
        return self.cut()

    def lose_the_answer(self) -> bool:
        """Do what is asked for, and cut the connection instead of saying so."""
        self.passed_on()
        return self.cut()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def log_request(self, *_: object) -> None:
        """Say nothing."""


class S3Proxy(ThreadingHTTPServer):
    """Listens on a port of the loopback address, by default a free one.

    `harm` may be exchanged at any time; `harmed` counts what was done.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, endpoint: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Request)
        self.endpoint = endpoint.removeprefix("http://")
        self.harm: Harm | None = None
        self.harmed = 0
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""

    def fail(self, what: Harm, *, most: int = 1 << 30, seconds: float = 1e9, wanted: Harm = lambda request: True) -> None:
        """Do `what` to requests that are `wanted`, to the first `most` of them, and not for longer than `seconds`."""
        until = time.monotonic() + seconds

        def harm(request: Request) -> bool:
            if time.monotonic() > until or not wanted(request):
                return False
            with self._lock:
                if self.harmed >= most:
                    return False
                self.harmed += 1
            return what(request)

        self.harmed, self.harm = 0, harm

    def stop(self) -> None:
        """Stop listening: connections are refused from now on, and those that are open get no answer."""
        self.fail(Request.cut)
        self.shutdown()
        self.server_close()


def is_upload(request: Request) -> bool:
    """Whether a request brings the content of a file."""
    return request.command == "PUT" and int(request.headers.get("Content-Length") or 0) > 1 << 19


def is_conditional(request: Request) -> bool:
    """Whether it creates an object unless there is one."""
    return request.command == "PUT" and request.headers.get("If-None-Match") == "*"


def completes_an_upload(request: Request) -> bool:
    """Whether it makes a file of parts."""
    return request.command == "POST" and "uploadId=" in request.path


def is_skewed(request: Request) -> bool:
    """Whether its clock is off by more than the 15 minutes that S3 allows (moto does not look)."""
    stamp = request.headers.get("X-Amz-Date")
    if stamp is None:
        return False
    then = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return abs((datetime.now(UTC) - then).total_seconds()) > 900
