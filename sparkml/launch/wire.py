"""Frames between a rank's child process and its parent: a JSON header and raw bytes, both length-prefixed."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTHS = struct.Struct(">IQ")  # bytes of the header, bytes of the payload


def send(sock: socket.socket, header: dict[str, Any], payload: bytes = b"") -> None:
    """Send one frame. The caller serialises senders."""
    body = json.dumps(header).encode()
    sock.sendall(_LENGTHS.pack(len(body), len(payload)) + body)
    if payload:
        sock.sendall(payload)


def receive(sock: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """Return the next frame, or None when the other side is gone."""
    lengths = _exactly(sock, _LENGTHS.size)
    if lengths is None:
        return None
    header_bytes, payload_bytes = _LENGTHS.unpack(lengths)
    header, payload = _exactly(sock, header_bytes), _exactly(sock, payload_bytes)
    return None if header is None or payload is None else (json.loads(header), payload)


def _exactly(sock: socket.socket, count: int) -> bytes | None:
    buffer = bytearray()
    while len(buffer) < count:
        try:
            block = sock.recv(min(count - len(buffer), 1 << 20))
        except ConnectionError:
            return None
        if not block:
            return None
        buffer += block
    return bytes(buffer)


def pack(blocks: list[bytes]) -> tuple[list[int], bytes]:
    """Return the sizes and the concatenation of several payloads."""
    return [len(block) for block in blocks], b"".join(blocks)


def unpack(sizes: list[int], joined: bytes) -> list[bytes]:
    """Undo `pack`."""
    blocks, start = [], 0
    for size in sizes:
        blocks.append(joined[start : start + size])
        start += size
    return blocks
