"""The parent's side of one rank: start its child process, pass its frames on, and say how it ended or why it had to."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from typing import IO, Any

from sparkml.launch import wire
from sparkml.launch.child import Place
from sparkml.launch.failure import TAIL_LINES, RankFailure, ended_by
from sparkml.launch.gang import Meeting
from sparkml.launch.parent import import_path
from sparkml.launch.pulse import Beat, RunningClock, too_slow

_EXIT_SECONDS = 5.0
_CHECK_SECONDS = 1.0
_DUMP_SECONDS = 1.0


class RankAbortedError(Exception):
    """The rank was stopped because another one failed."""


def cores_of(local_rank: int, local_size: int, *, pin: bool, cpus: int | None = None) -> tuple[tuple[int, ...], int]:
    """Return the cores to pin a rank to, and its number of threads.

    Without `cpus`, ranks share equally what this process may use. No cores when there are not enough for all, or not `pin`.
    """
    usable = sorted(os.sched_getaffinity(0))
    share = cpus or len(usable) // local_size
    enough = pin and share * local_size <= len(usable)
    return tuple(usable[local_rank * share : (local_rank + 1) * share]) if enough else (), max(1, share)


def _environment(place: Place, scratch: str, own: Mapping[str, str]) -> dict[str, str]:
    threads = str(place.threads)
    environment = {
        **os.environ,
        # with one per thread, what a thread frees is not there for the others: 50 MB more. YARN sets it to nothing by default
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX") or "2",
        "PYTHONPATH": import_path(),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash in native code leaves its stack in the rank's last lines
        "PYTHONHASHSEED": "0",
        "TMPDIR": scratch,
        "OMP_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": "2",  # one computes while one waits for a collective
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": "tensorflow",
    }
    if place.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
    return {**environment, **own}


class _Child:
    """A running child process. `kill` may come from any thread."""

    def __init__(self, code: bytes, place: Place, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        arguments = [sys.executable, "-m", "sparkml.launch.child", str(theirs.fileno()), json.dumps(dataclasses.asdict(place))]
        self.control = ours
        self.aborted = False
        self.clock = RunningClock()
        self.heard = 0.0  # by `clock`
        self.stalled: RankFailure | None = None
        self._sending = threading.Lock()
        self._scratch = tempfile.mkdtemp(prefix="sparkml-rank-")  # a rank leaves without cleaning up behind its libraries
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            env=_environment(place, self._scratch, env),
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

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        frame = wire.receive(self.control)
        self.heard = self.clock.seconds
        return frame

    def abort(self) -> None:
        self.aborted = True
        self.kill()

    def kill(self) -> None:
        if self.process.poll() is not None:
            return  # its process id may belong to another by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):  # a process in the kernel's hands (dead disk) does not die, and must not hold us up
            self.control.shutdown(socket.SHUT_RDWR)

    def close(self) -> int:
        """Wait for the end, by force after a few seconds, and return the exit code."""
        try:
            code = self.process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            try:
                code = self.process.wait(_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                code = -signal.SIGKILL  # it will die of it when the kernel lets it
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.control.close()
        shutil.rmtree(self._scratch, ignore_errors=True)
        return code


def run_rank(code: bytes, place: Place, meeting: Meeting, stall_timeout: float, env: Mapping[str, str]) -> bytes:
    """Run the pickled function `code` as one rank in a child process with `env` in its environment, and return its result.

    Raises
    ------
    RankAbortedError
        The rank failed (`meeting` has been told why) or was stopped because another one did.
    """
    child = _Child(code, place, env)  # by the calling thread: PR_SET_PDEATHSIG follows the thread that starts the child
    meeting.on_abort(child.abort)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    assert child.process.stdout is not None
    logs = threading.Thread(target=_follow, args=(child.process.stdout, place, meeting, tail), daemon=True)
    logs.start()
    over = threading.Event()
    threading.Thread(target=_watch, args=(child, place, stall_timeout, over), daemon=True).start()
    result: bytes | None = None
    failure: RankFailure | None = None
    try:
        while result is None and failure is None:
            frame = child.receive()
            if frame is None:
                break
            header, payload = frame
            if header["op"] == "gather":
                meeting.offer(place.rank, payload, lambda blocks: _answer(child, blocks))
            elif header["op"] == "beat":
                meeting.beat(place.rank, Beat(header["phase"], header["step"], header["seconds"]))
            elif header["op"] == "report":
                meeting.report(place.rank, header["progress"])
            elif header["op"] == "result":
                result = payload
            else:
                failure = _raised(header, place)
        over.set()
        child.send({"op": "seen"})
    finally:
        over.set()
        if result is None and failure is None:
            child.kill()  # an interrupted parent, or a child that closed its socket and lives on
        exit_code = child.close()
        logs.join(_EXIT_SECONDS)
    if result is not None:
        meeting.done(place.rank)
        return result
    if not child.aborted:
        meeting.fail(dataclasses.replace(failure or child.stalled or _died(exit_code, place), tail=tuple(tail)))
    raise RankAbortedError(f"rank {place.rank} has ended")


def _watch(child: _Child, place: Place, limit: float, over: threading.Event) -> None:
    """End a child that gives no sign of life for too long."""
    while not over.wait(_CHECK_SECONDS):
        silence = child.clock.tick() - child.heard
        if silence > limit:
            state = _state(child.process.pid)
            if state is None:
                return  # it has just ended: whoever reads its frames knows already
            cause = f"gave no sign of life for {silence:.0f} s: its process {state}"
            child.stalled = RankFailure(place.rank, place.host, "stalled", cause, hint=too_slow(limit))
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.kill(child.process.pid, signal.SIGABRT)  # leaves its Python stack in the last lines, if it can run at all
                child.process.wait(_DUMP_SECONDS)
            child.kill()
            return


def _state(pid: int) -> str | None:
    """Return in words what a process that does not answer does; None when it has ended."""
    import psutil

    try:
        status = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return None
    words = {
        psutil.STATUS_ZOMBIE: None,
        psutil.STATUS_DEAD: None,
        psutil.STATUS_STOPPED: "is stopped (SIGSTOP)",
        psutil.STATUS_TRACING_STOP: "is stopped by a debugger",
        psutil.STATUS_DISK_SLEEP: "waits for a disk or a network file system (uninterruptible)",
        psutil.STATUS_RUNNING: "is busy in native code, which does not let Python run",
    }
    return words.get(status, "sits in native code, which does not let Python run")


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
