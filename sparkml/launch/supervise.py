"""The parent's side of one rank: start its child process, pass its frames on, and say how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from typing import IO, Any

from sparkml.launch import wire
from sparkml.launch.child import Place
from sparkml.launch.gang import TAIL_LINES, Meeting, RankFailure, ended_by

_EXIT_SECONDS = 5.0


class RankAbortedError(Exception):
    """The rank was stopped because another one failed."""


def cores_of(local_rank: int, local_size: int, *, pin: bool) -> tuple[int, ...]:
    """Return the cores of a rank: an equal share of those this process may use; none when there are fewer than ranks."""
    usable = sorted(os.sched_getaffinity(0))
    share = len(usable) // local_size
    return tuple(usable[local_rank * share : (local_rank + 1) * share]) if pin else ()


def _environment(place: Place) -> dict[str, str]:
    threads = str(len(place.cores) or max(1, len(os.sched_getaffinity(0)) // place.local_size))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),  # --py-files archives reach the child too
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash in native code leaves its stack in the rank's last lines
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": "2",  # one computes while one waits for a collective
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": "tensorflow",
    }


class _Child:
    """A running child process. `kill` may come from any thread."""

    def __init__(self, code: bytes, place: Place) -> None:
        ours, theirs = socket.socketpair()
        arguments = [sys.executable, "-m", "sparkml.launch.child", str(theirs.fileno()), json.dumps(dataclasses.asdict(place))]
        self.control = ours
        self.aborted = False
        self._sending = threading.Lock()
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            env=_environment(place),
            start_new_session=True,  # a process group of its own: killed with whatever it started
        )
        theirs.close()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # an early death shows on the control socket
            self.process.stdin.write(len(code).to_bytes(8, "big") + code)
            self.process.stdin.flush()  # and stays open: its end tells the child that we are gone

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        with self._sending, contextlib.suppress(OSError):
            wire.send(self.control, header, payload)

    def abort(self) -> None:
        self.aborted = True
        self.kill()

    def kill(self) -> None:
        if self.process.poll() is not None:
            return  # its process id may belong to another by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> int:
        """Wait for the end, by force after a few seconds, and return the exit code."""
        try:
            code = self.process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.control.close()
        return code


def run_rank(code: bytes, place: Place, meeting: Meeting) -> bytes:
    """Run the pickled function `code` as one rank in a child process and return its result.

    Raises
    ------
    RankAbortedError
        The rank failed (`meeting` has been told why) or was stopped because another one did.
    """
    child = _Child(code, place)  # by the calling thread: PR_SET_PDEATHSIG follows the thread that starts the child
    meeting.on_abort(child.abort)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    assert child.process.stdout is not None
    logs = threading.Thread(target=_follow, args=(child.process.stdout, place, meeting, tail), daemon=True)
    logs.start()
    result: bytes | None = None
    failure: RankFailure | None = None
    try:
        while result is None and failure is None:
            frame = wire.receive(child.control)
            if frame is None:
                break
            header, payload = frame
            if header["op"] == "gather":
                meeting.offer(place.rank, payload, lambda blocks: _answer(child, blocks))
            elif header["op"] == "report":
                meeting.report(place.rank, header["progress"])
            elif header["op"] == "result":
                result = payload
            else:
                failure = _raised(header, place)
        child.send({"op": "seen"})
    finally:
        if result is None and failure is None:
            child.kill()  # an interrupted parent, or a child that closed its socket and lives on
        exit_code = child.close()
        logs.join(_EXIT_SECONDS)
    if result is not None:
        meeting.done(place.rank)
        return result
    if not child.aborted:
        meeting.fail(dataclasses.replace(failure or _died(exit_code, place), tail=tuple(tail)))
    raise RankAbortedError(f"rank {place.rank} has ended")


def _answer(child: _Child, blocks: list[bytes]) -> None:
    sizes, joined = wire.pack(blocks)
    child.send({"sizes": sizes}, joined)


def _raised(header: dict[str, Any], place: Place) -> RankFailure:
    cause = f"failed: {header['message']}"
    return RankFailure(place.rank, place.host, "exception", cause, header["type"], header["hint"])


def _died(exit_code: int, place: Place) -> RankFailure:
    kind, cause, hint = ended_by(exit_code)
    return RankFailure(place.rank, place.host, kind, cause, hint=hint)


def _follow(stream: IO[bytes], place: Place, meeting: Meeting, tail: deque[str]) -> None:
    for raw in stream:
        line = raw.decode("utf-8", "replace").rstrip("\n")
        tail.append(line)
        meeting.log(place.rank, f"[rank {place.rank} {place.host}] {line}")
    stream.close()
