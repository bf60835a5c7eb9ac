"""`HostSum`: sums arrays over the ranks of one host through shared memory.

A collective of Horovod's costs several milliseconds of a pinned core (its thread, the loopback, the wake-ups); copying the same
megabyte through memory costs a few tenths. Every rank adds up all contributions in rank order: all get the same bits.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import socket
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from sparkml.launch.worker import Worker

MAX_RANKS = 4  # every rank reads what all have written
MAX_BYTES = 256 << 20
_FOLDER = "/dev/shm"
_WORD = 8


class PeerGoneError(Exception):
    """Another rank has closed its end: it failed or was killed, and is about to be told of by itself or by its parent."""


class HostSum:
    """The meeting of up to `MAX_RANKS` ranks of one host. Build by `meet`.

    Each rank has a file in memory with two halves, used in turn: nobody writes a half again before all have arrived with the
    next one, and so have read it. Arrivals are told by datagrams, which also order what was written before them.
    """

    def __init__(self, rank: int, own: mmap.mmap, maps: list[mmap.mmap], line: socket.socket, peers: list[socket.socket]) -> None:
        self._rank, self._own, self._maps, self._line, self._peers = rank, own, maps, line, peers
        self._half = len(own) // 2
        self._turn = 0
        self._early: set[tuple[int, int]] = set()

    @property
    def capacity(self) -> int:
        """Numbers (float32) that fit."""
        return self._half // 4

    def sum(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the sum over ranks of `values`, shape (n,). Every rank calls, in the same order."""
        start = (self._turn % 2) * self._half
        mine = np.frombuffer(self._own, np.float32, len(values), start)
        mine[:] = values
        self._arrive()
        parts = [np.frombuffer(held, np.float32, len(values), start) for held in self._maps]
        total = parts[0] + parts[1]
        for part in parts[2:]:
            total += part
        self._turn += 1
        return total

    def _arrive(self) -> None:
        word = self._turn.to_bytes(_WORD - 1, "big") + bytes([self._rank])
        try:
            for peer in self._peers:
                peer.send(word)
        except ConnectionRefusedError:
            raise PeerGoneError("another rank has left the sum") from None
        missing = {(other, self._turn) for other in range(len(self._maps)) if other != self._rank} - self._early
        self._early = {arrival for arrival in self._early if arrival[1] > self._turn}
        while missing:
            heard = self._line.recv(_WORD)
            arrival = (heard[-1], int.from_bytes(heard[:-1], "big"))
            if arrival in missing:
                missing.remove(arrival)
            elif arrival[1] > self._turn:
                self._early.add(arrival)  # a rank that is one turn ahead

    def close(self) -> None:
        for sock in (self._line, *self._peers):
            sock.close()


def meet(worker: Worker, numbers: int) -> HostSum | None:
    """Set up sums of up to `numbers` float32 values; None on all ranks when they are on several hosts, too many, or lack memory.

    Everything lies in a folder that only this user may enter, and that is gone before the first sum: nothing stays behind,
    however the ranks end.
    """
    size = 2 * 4 * numbers
    near = 2 <= worker.size <= MAX_RANKS and worker.local_size == worker.size
    if not _agreed(worker, near and size <= MAX_BYTES and os.path.isdir(_FOLDER)):
        return None
    folder = worker.all_gather(_private_folder().encode() if worker.rank == 0 else b"")[0].decode()
    if not folder:
        return None
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    maps: list[mmap.mmap] = []
    peers: list[socket.socket] = []
    try:
        met = _agreed(worker, _offered(line, f"{folder}/{worker.rank}", size))
        if met:
            try:
                maps += (_mapped(f"{folder}/{rank}.data") for rank in range(worker.size))
                peers += (_connected(f"{folder}/{rank}.line") for rank in range(worker.size) if rank != worker.rank)
            except OSError:  # one host name, but not one memory: containers
                met = False
            met = _agreed(worker, met)
    finally:
        if worker.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
    if met:
        return HostSum(worker.rank, maps[worker.rank], maps, line, peers)
    for sock in (line, *peers):
        sock.close()
    for held in maps:
        held.close()
    return None


def _private_folder() -> str:
    try:
        return tempfile.mkdtemp(prefix="sparkml-", dir=_FOLDER)
    except OSError:
        return ""


def _agreed(worker: Worker, mine: bool) -> bool:
    return all(json.loads(answer) for answer in worker.all_gather(json.dumps(mine).encode()))


def _offered(line: socket.socket, path: str, size: int) -> bool:
    try:
        line.bind(f"{path}.line")
    except OSError:
        return False
    return _reserved(f"{path}.data", size)


def _reserved(path: str, size: int) -> bool:
    """Create the file with all of its memory: a page that is missing later would kill the rank."""
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        return False
    return True


def _mapped(path: str) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def _connected(path: str) -> Any:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.connect(path)
    return sock
