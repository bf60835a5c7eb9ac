"""The line between the driver and the task of each rank: authenticated JSON lines over TCP, nothing is ever unpickled.

The token travels in the task's closure, over Spark's own RPC; on this line only an HMAC over a fresh nonce of each side does.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import threading
from collections.abc import Callable
from typing import IO, Any

from sparkml.errors import LaunchError
from sparkml.launch.failure import RankFailure
from sparkml.launch.gang import Hub, Reply
from sparkml.launch.pulse import Beat

_GREETING_BYTES = 1024  # nobody unauthenticated makes us read more
_GREETING_SECONDS = 30.0

# A host that lost its power or its network says nothing: without these, TCP would believe in it for hours when nothing is sent,
# and for a quarter of an hour when something is. Linux names; where the system lacks one, its own patience holds.
_DEAD_AFTER_SECONDS = 30
_KEEPALIVE = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": (_DEAD_AFTER_SECONDS - 10) // 5,
    "TCP_USER_TIMEOUT": _DEAD_AFTER_SECONDS * 1000,
}


def _proof(token: str, side: str, rank: int, nonces: str) -> str:
    return hmac.new(token.encode(), f"{side}|{rank}|{nonces}".encode(), hashlib.sha256).hexdigest()


class _Line:
    """One connection: JSON objects, one per line."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or what follows a report waits 40 ms for its receipt
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sock = sock
        self._reader: IO[bytes] = sock.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; a connection that is gone is noticed by the reader."""
        with self._sending, contextlib.suppress(OSError):
            self._sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, limit: int = -1) -> dict[str, Any] | None:
        """Return the next message, or None at the end of the connection or when it is not one."""
        try:
            message = json.loads(self._reader.readline(limit))
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class ChannelServer:
    """The driver's end: one thread per rank turns messages into calls of the `Hub`."""

    def __init__(self, hub: Hub, bind: str) -> None:
        self._hub = hub
        self.token = secrets.token_hex(32)
        try:
            self._listener = socket.create_server((bind, 0), backlog=hub.size)
        except OSError as error:
            raise LaunchError(
                f"the driver cannot listen on {bind!r} for its ranks: {error.strerror or error}",
                hint="set spark.driver.bindAddress to an address of this machine",
            ) from None
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._lines: dict[int, _Line] = {}
        self._hosts: dict[int, str] = {}
        self._ended: set[int] = set()
        self._closed = False
        threading.Thread(target=self._accept, name="sparkml-channel", daemon=True).start()
        hub.on_abort(self._abort)

    @property
    def joined(self) -> int:
        """How many ranks have connected so far."""
        return len(self._hosts)

    @property
    def absent(self) -> list[int]:
        """The ranks that never connected."""
        return [rank for rank in range(self._hub.size) if rank not in self._hosts]

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            lines = list(self._lines.values())
        for line in lines:
            line.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _abort(self) -> None:
        with self._lock:
            lines = list(self._lines.values())
        for line in lines:
            line.send({"op": "abort"})

    def _serve(self, sock: socket.socket) -> None:
        line = _Line(sock)
        try:
            sock.settimeout(_GREETING_SECONDS)
            rank = self._greet(line)
            if rank is None:
                return
            sock.settimeout(None)
            if self._hub.aborted:
                line.send({"op": "abort"})
            while (message := line.receive()) is not None:
                self._handle(rank, line, message)
            if rank not in self._ended and not self._hub.aborted:
                cause = "was lost: its Spark task ended without a word (executor killed, out of memory, or preempted? host gone?)"
                self._hub.fail(RankFailure(rank, self._hosts[rank], "lost", cause))
        finally:
            line.close()

    def _greet(self, line: _Line) -> int | None:
        ours = secrets.token_hex(16)
        line.send({"nonce": ours})
        hello = line.receive(_GREETING_BYTES) or {}
        rank, theirs = hello.get("rank"), hello.get("nonce")
        if not isinstance(rank, int) or not 0 <= rank < self._hub.size:
            return None
        nonces = f"{ours}|{theirs}"
        if not hmac.compare_digest(str(hello.get("proof")), _proof(self.token, "rank", rank, nonces)):
            return None
        line.send({"proof": _proof(self.token, "driver", rank, nonces)})
        with self._lock:
            if rank in self._lines:
                return None
            self._lines[rank], self._hosts[rank] = line, str(hello.get("host"))
        self._hub.joined(rank, self._hosts[rank])
        return rank

    def _handle(self, rank: int, line: _Line, message: dict[str, Any]) -> None:
        match message.get("op"):
            case "gather":
                self._hub.offer(rank, base64.b64decode(message["payload"]), lambda blocks: _answer(line, blocks))
            case "beat":
                self._hub.beat(rank, Beat(str(message["phase"]), int(message["step"]), float(message["seconds"])))
            case "report":
                self._hub.report(rank, message["progress"])
            case "log":
                self._hub.log(rank, message["line"])
            case "done":
                self._ended.add(rank)
                self._hub.done(rank)
            case "fail":
                self._ended.add(rank)
                failure = message["failure"]
                self._hub.fail(RankFailure(**{**failure, "rank": rank, "tail": tuple(failure["tail"])}))


def _answer(line: _Line, blocks: list[bytes]) -> None:
    line.send({"op": "answer", "blocks": [base64.b64encode(block).decode() for block in blocks]})


class ChannelClient:
    """The end in a rank's Spark task: a `Meeting` that passes everything on to the driver.

    Raises
    ------
    LaunchError
        The driver does not answer at `address`, or what answers there is not this gang's driver.
    """

    def __init__(self, address: tuple[str, int], token: str, rank: int, host: str) -> None:
        try:
            sock = socket.create_connection(address, timeout=_GREETING_SECONDS)
        except OSError as error:
            raise LaunchError(
                f"rank {rank} on {host} cannot reach the driver at {address[0]}:{address[1]}: {error.strerror or error}",
                hint="set spark.driver.host to an address that executors can reach, and let them through the firewall",
            ) from None
        self._line = _Line(sock)
        self._greet(token, rank, host)
        sock.settimeout(None)
        self._reply: Reply | None = None
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []
        self.aborted = threading.Event()
        self.driver_lost = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _greet(self, token: str, rank: int, host: str) -> None:
        ours = secrets.token_hex(16)
        nonces = f"{(self._line.receive(_GREETING_BYTES) or {}).get('nonce')}|{ours}"
        self._line.send({"rank": rank, "host": host, "nonce": ours, "proof": _proof(token, "rank", rank, nonces)})
        answer = self._line.receive(_GREETING_BYTES) or {}
        if not hmac.compare_digest(str(answer.get("proof")), _proof(token, "driver", rank, nonces)):
            self._line.close()
            raise LaunchError(f"rank {rank} on {host}: what answered in the driver's place does not know this gang's token")

    def _listen(self) -> None:
        while (message := self._line.receive()) is not None and message["op"] == "answer":
            reply, self._reply = self._reply, None
            if reply is not None:
                reply([base64.b64decode(block) for block in message["blocks"]])
        self.driver_lost = message is None
        with self._lock:
            self.aborted.set()
            stops, self._stops = self._stops, []
        for stop in stops:
            stop()

    def offer(self, rank: int, payload: bytes, reply: Reply) -> None:
        self._reply = reply
        self._line.send({"op": "gather", "payload": base64.b64encode(payload).decode()})

    def beat(self, rank: int, beat: Beat) -> None:
        self._line.send({"op": "beat", **vars(beat)})

    def report(self, rank: int, progress: dict[str, Any]) -> None:
        self._line.send({"op": "report", "progress": progress})

    def log(self, rank: int, line: str) -> None:
        self._line.send({"op": "log", "line": line})

    def done(self, rank: int) -> None:
        self._line.send({"op": "done"})

    def fail(self, failure: RankFailure) -> None:
        self._line.send({"op": "fail", "failure": vars(failure)})

    def on_abort(self, stop: Callable[[], None]) -> None:
        with self._lock:
            if not self.aborted.is_set():
                self._stops.append(stop)
                return
        stop()

    def close(self) -> None:
        self._line.close()
