"""Ranks that stop, hang or are merely slow, in real processes. The gangs run side by side: each waits for its own limit."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from sparkml.errors import LaunchError
from sparkml.launch.channel import ChannelClient, ChannelServer
from sparkml.launch.failure import RankFailure
from sparkml.launch.gang import Hub
from sparkml.launch.processes import ProcessGang
from sparkml.launch.pulse import Beat
from sparkml.launch.worker import Worker

LIMIT = 5.0
NEVER = 120  # seconds: long enough, and the end of a test that goes wrong
Outcomes = dict[str, "Future[list[bytes]]"]


@pytest.fixture(scope="module")
def pids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pids")


@pytest.fixture(scope="module")
def outcomes(pids: Path) -> Outcomes:
    def stopped(worker: Worker) -> bytes:
        print("still here")
        worker.note("step", 3)
        (pids / str(worker.rank)).write_text(str(os.getpid()))
        if worker.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(NEVER)
        return b""

    def native(worker: Worker) -> bytes:
        if worker.rank == 1:
            ctypes.PyDLL(None).sleep(NEVER)  # holds the GIL
        time.sleep(NEVER)
        return b""

    def hanging(worker: Worker) -> bytes:
        worker.note("step", 4)
        if worker.rank == 1:
            worker.note("checkpoint", 4)
            time.sleep(NEVER)
        worker.barrier()
        return b""

    def slow(worker: Worker) -> bytes:
        time.sleep(2 * LIMIT)
        return b"slow"

    def diligent(worker: Worker) -> bytes:
        for step in range(20):
            worker.note("step", step)
            worker.note("step", step)
            time.sleep(LIMIT / 10)
        return b"diligent"

    def numpy_steps(worker: Worker) -> bytes:
        worker.note("step", np.int64(3))  # type: ignore[arg-type]
        time.sleep(NEVER)
        return b""

    functions: list[Callable[[Worker], bytes]] = [stopped, native, hanging, slow, diligent, numpy_steps]
    with ThreadPoolExecutor(len(functions)) as pool:
        return {fn.__name__: pool.submit(ProcessGang(stall_timeout=LIMIT).run, fn, 2) for fn in functions}


def failed(outcomes: Outcomes, name: str) -> RankFailure:
    error = outcomes[name].exception()
    assert isinstance(error, LaunchError), error
    assert isinstance(error.failure, RankFailure) and error.failure.reason in str(error)
    return error.failure


def test_a_stopped_rank_is_named_and_killed(outcomes: Outcomes, pids: Path) -> None:
    failure = failed(outcomes, "stopped")
    assert (failure.rank, failure.kind, failure.tail) == (1, "stalled", ("still here",))
    assert "gave no sign of life for" in failure.cause and "its process is stopped (SIGSTOP)" in failure.cause
    assert failure.hint is not None and "raise stallTimeout" in failure.hint
    for rank in "01":
        assert not psutil.pid_exists(int((pids / rank).read_text()))


def test_a_rank_in_native_code_shows_where_it_was(outcomes: Outcomes) -> None:
    failure = failed(outcomes, "native")
    assert (failure.rank, failure.kind) == (1, "stalled")
    assert "native code, which does not let Python run" in failure.cause
    assert any("in native" in line for line in failure.tail)  # the Python stack


def test_a_gang_that_hangs_blames_the_rank_that_keeps_the_others_waiting(outcomes: Outcomes) -> None:
    failure = failed(outcomes, "hanging")
    assert (failure.rank, failure.host, failure.kind) == (1, socket.gethostname(), "stalled")
    assert 'in phase "checkpoint" of step 4' in failure.cause and "rank 0 in step 4" in failure.cause


def test_a_function_that_tells_nothing_may_take_its_time(outcomes: Outcomes) -> None:
    assert outcomes["slow"].result() == [b"slow"] * 2


def test_a_gang_that_moves_slower_than_the_limit_as_a_whole_goes_on(outcomes: Outcomes) -> None:
    assert outcomes["diligent"].result() == [b"diligent"] * 2


def test_a_limit_shorter_than_the_beats_is_refused() -> None:
    with pytest.raises(LaunchError, match="stall timeout of 1 s is too short"):
        ProcessGang(stall_timeout=1.0)


def test_numbers_of_any_kind_are_steps(outcomes: Outcomes) -> None:
    assert "hangs: in step 3 for" in failed(outcomes, "numpy_steps").cause


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("HorovodInternalError", "failed"),
        ("UnknownError", "failed: UnknownError: Graph execution error:\n\nDetected at node ...\nHorovod has been shut down. ..."),
    ],
)
def test_a_broken_collective_is_put_down_to_the_rank_that_was_silent(kind: str, cause: str) -> None:
    """Horovod's own patience may end before ours: then the echo comes first."""
    hub = Hub(2, None, None)
    for rank in range(2):
        hub.joined(rank, f"host{rank}")
    hub._pulse._heard[1] -= 60
    hub.beat(0, Beat("step", 1, 0.0))
    hub.fail(RankFailure(0, "host0", "exception", cause, kind))
    deadline = time.monotonic() + 30
    while not hub.aborted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert hub.failure is not None and (hub.failure.rank, hub.failure.kind) == (1, "lost")


@pytest.fixture
def line() -> Any:
    hub = Hub(1, None, None)
    server = ChannelServer(hub, "127.0.0.1")
    client = ChannelClient(("127.0.0.1", server.port), server.token, 0, "here")
    deadline = time.monotonic() + 30
    while not server.joined and time.monotonic() < deadline:  # the server reads the client's greeting in a thread of its own
        time.sleep(0.01)
    yield hub, server, client
    client.close()
    server.close()
    hub.close()


def test_beats_cross_the_channel(line: tuple[Hub, ChannelServer, ChannelClient]) -> None:
    hub, _, client = line
    client.beat(0, Beat("data", 9, 1.5))
    deadline = time.monotonic() + 30
    while not hub._pulse._beats and time.monotonic() < deadline:
        time.sleep(0.01)
    assert hub._pulse._beats == {0: Beat("data", 9, 1.5)}


def test_both_ends_of_the_channel_notice_a_dead_host(line: tuple[Hub, ChannelServer, ChannelClient]) -> None:
    _, server, client = line
    for end in (server._lines[0], client._line):
        sock = end._sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, every, count = (
            sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}")) for name in ("KEEPIDLE", "KEEPINTVL", "KEEPCNT")
        )
        assert idle + every * count <= 30
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000


def test_neither_end_of_the_channel_holds_small_messages_back(line: tuple[Hub, ChannelServer, ChannelClient]) -> None:
    _, server, client = line
    for end in (server._lines[0], client._line):
        assert end._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
