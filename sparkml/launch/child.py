"""The process of one rank, started by its own parent: ``python -m sparkml.launch.child CONTROL_FD PLACE``.

The function comes over stdin, an inherited pipe; everything else is frames over an inherited socket pair.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any

from sparkml.errors import SparkmlError
from sparkml.launch import wire
from sparkml.launch.parent import ORPHANED, die_with_parent
from sparkml.launch.pulse import BEAT_SECONDS


@dataclass(frozen=True)
class Place:
    """Where a rank stands: in the gang, on its host, and on what it may compute there.

    Attributes
    ----------
    cores
        What the rank is pinned to; none: wherever the kernel likes.
    threads
        How many threads it may compute with.
    gpus
        The addresses that Spark gave to its task; none: whatever is visible anyway.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    cores: tuple[int, ...] = ()
    threads: int = 1
    gpus: tuple[str, ...] = ()


class ChildWorker:
    """`Worker` inside the child."""

    def __init__(self, place: Place, control: socket.socket) -> None:
        self.rank, self.size, self.host = place.rank, place.size, place.host
        self.local_rank, self.local_size = place.local_rank, place.local_size
        self._control = control
        self._sending = threading.Lock()
        self._noted = ("", 0, time.monotonic())

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        with self._sending:
            wire.send(self._control, header, payload)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        frame = wire.receive(self._control)
        if frame is None:
            os._exit(ORPHANED)
        return frame

    def all_gather(self, payload: bytes) -> list[bytes]:
        self.send({"op": "gather"}, payload)
        header, joined = self.receive()
        return wire.unpack(header["sizes"], joined)

    def barrier(self) -> None:
        self.all_gather(b"")

    def log(self, text: str) -> None:
        print(text, flush=True)

    def report(self, progress: dict[str, Any]) -> None:
        self.send({"op": "report", "progress": progress})

    def note(self, phase: str, step: int) -> None:
        noted = (str(phase), int(step))  # NumPy's numbers do not serialise
        if noted != self._noted[:2]:
            self._noted = (*noted, time.monotonic())

    def beat(self) -> None:
        """Send signs of life until the parent is gone."""
        while True:
            phase, step, since = self._noted
            try:
                self.send({"op": "beat", "phase": phase, "step": step, "seconds": time.monotonic() - since})
            except OSError:
                return
            time.sleep(BEAT_SECONDS)


def main() -> None:
    """Run the function that the parent sends, answer with its result or its error, and leave."""
    die_with_parent()
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)  # or a grandchild would keep the socket open after our death
    fields = json.loads(sys.argv[2])
    place = Place(**{**fields, "cores": tuple(fields["cores"]), "gpus": tuple(fields["gpus"])})
    code = sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(8), "big"))
    threading.Thread(target=_watch_parent, daemon=True).start()
    if place.cores:
        os.sched_setaffinity(0, place.cores)
    worker = ChildWorker(place, control)
    threading.Thread(target=worker.beat, daemon=True).start()
    try:
        result = pickle.loads(code)(worker)  # from our own parent, over a pipe that nobody else holds
        if not isinstance(result, bytes):
            raise TypeError(f"a rank's function must return bytes, it returned {type(result).__name__}")
    except BaseException as error:
        if not isinstance(error, SparkmlError):  # ours say enough by themselves
            traceback.print_exc()
            sys.stderr.flush()
        hint = error.hint if isinstance(error, SparkmlError) else None
        text = error.message if isinstance(error, SparkmlError) else f"{type(error).__name__}: {error}".removesuffix(": ")
        worker.send({"op": "error", "type": type(error).__name__, "message": text, "hint": hint})
    else:
        worker.send({"op": "result"}, result)
    worker.receive()  # the parent has it; until then our exit would count as a death
    sys.stdout.flush()
    os._exit(0)  # native libraries have nothing left to say, and their exit handlers may wait for other ranks


def _watch_parent() -> None:
    # also sees a parent that died before prctl was called; needs the GIL, which native code may hold, so it is not enough alone
    while sys.stdin.buffer.read(1):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
