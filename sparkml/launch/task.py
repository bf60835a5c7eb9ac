"""The Spark task of one rank of a `BarrierGang`: it meets the others, then supervises the rank's child process."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sparkml.launch.channel import ChannelClient
from sparkml.launch.child import Place
from sparkml.launch.failure import RankFailure
from sparkml.launch.supervise import RankAbortedError, cores_of, run_rank
from sparkml.launch.versions import ONE_ENVIRONMENT, differences, installed

END_SECONDS = 10.0  # an aborted gang leaves by itself in less; then Spark kills what is left


@dataclass(frozen=True)
class Call:
    """What every task needs; travels in the closure, by Spark's authenticated RPC.

    Attributes
    ----------
    cpus
        Cores of each rank; None: as many as Spark gave to the task if that is more than one, else an equal share of the host's.
    env
        The user's environment variables for the ranks.
    versions
        What the driver has installed.
    """

    code: bytes
    size: int
    pin: bool
    cpus: int | None
    stall_timeout: float
    env: dict[str, str]
    versions: dict[str, str]
    driver: tuple[str, int]
    token: str


def rank_task(batches: Iterator[pa.RecordBatch], call: Call) -> Iterator[pa.RecordBatch]:
    """Run one rank. A failure is told to the driver, which stops all ranks; the stage itself then ends without an exception.

    When the driver cannot be told, the task raises: the failed barrier task fails the stage, and Spark kills the others.
    """
    from pyspark import BarrierTaskContext

    for _ in batches:  # Spark keeps a Python worker for the next stage only when it has read all of its input
        pass
    context = BarrierTaskContext.get()
    rank, host = context.partitionId(), socket.gethostname()
    channel = ChannelClient(call.driver, call.token, rank, host)
    try:
        tasks = gather(channel, rank, {"host": host, "versions": installed()})
        _refuse_other_versions(channel, rank, call, tasks)
        hosts = [task["host"] for task in tasks]
        local_rank, local_size = hosts[:rank].count(host), hosts.count(host)
        cpus = call.cpus or (context.cpus() if context.cpus() > 1 else None)
        cores, threads = cores_of(local_rank, local_size, pin=call.pin, cpus=cpus)
        gpus = context.resources().get("gpu")
        place = Place(rank, call.size, local_rank, local_size, host, cores, threads, tuple(gpus.addresses if gpus else ()))
        yield _row(rank, run_rank(call.code, place, channel, call.stall_timeout, call.env))
    except RankAbortedError:
        if not channel.aborted.wait(END_SECONDS) or channel.driver_lost:
            raise
        yield _row(rank, None)
    finally:
        with contextlib.suppress(OSError):
            channel.close()


def _row(rank: int, result: bytes | None) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([rank], pa.int32()), pa.array([result], pa.binary())], names=["rank", "result"])


def gather(channel: ChannelClient, rank: int, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Gather what the tasks tell of themselves over our own line: Spark's `allGather` answers only once a second."""
    tasks: list[dict[str, Any]] = []
    answered = threading.Event()

    def answer(blocks: list[bytes]) -> None:
        tasks.extend(json.loads(block) for block in blocks)
        answered.set()

    channel.on_abort(answered.set)
    channel.offer(rank, json.dumps(mine).encode(), answer)
    answered.wait()
    if not tasks:
        raise RankAbortedError(f"rank {rank} has ended")
    return tasks


def _refuse_other_versions(channel: ChannelClient, rank: int, call: Call, tasks: list[dict[str, Any]]) -> None:
    """All tasks find the same; the first rank on a host that differs tells, for all such hosts."""
    wrong = {other: words for other, task in enumerate(tasks) if (words := differences(call.versions, task["versions"]))}
    if not wrong:
        return
    if rank == min(wrong):
        cause = f"has other versions than the driver: {', '.join(wrong[rank])}"
        others = sorted({tasks[other]["host"] for other in wrong} - {tasks[rank]["host"]})
        cause += f"; so have {', '.join(others[:8])}" if others else ""
        channel.fail(RankFailure(rank, tasks[rank]["host"], "unfit", cause, hint=ONE_ENVIRONMENT))
    raise RankAbortedError(f"rank {rank} may not start")
