"""`BarrierGang`: ranks as the tasks of one Spark barrier stage. The only place that knows how to ask Spark for one."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cloudpickle
import pyarrow as pa

from sparkml.errors import LaunchError
from sparkml.launch.channel import ChannelClient, ChannelServer
from sparkml.launch.child import Place
from sparkml.launch.gang import Gang, Hub, Report
from sparkml.launch.supervise import RankAbortedError, cores_of, run_rank
from sparkml.launch.worker import Worker

if TYPE_CHECKING:
    from pyspark.sql import Row, SparkSession

log = logging.getLogger(__name__)

_EXECUTORS_SECONDS = 60.0  # executors of a fresh application may still be on their way
_END_SECONDS = 10.0  # an aborted gang leaves by itself in less; then Spark kills what is left


@dataclass(frozen=True)
class _Call:
    """What every task needs; travels in the closure, by Spark's authenticated RPC."""

    code: bytes
    size: int
    pin: bool
    driver: tuple[str, int]
    token: str


class BarrierGang(Gang):
    """One rank per task of a barrier stage, each in a child process of its task.

    Parameters
    ----------
    start_timeout
        Seconds that the ranks may take to start. Spark counts total slots, not free ones: on a busy cluster a barrier stage
        would wait without end.
    """

    def __init__(
        self,
        spark: SparkSession,
        *,
        log_dir: str | None = None,
        on_report: Report | None = None,
        pin: bool = True,
        start_timeout: float = 300.0,
    ) -> None:
        super().__init__(log_dir=log_dir, on_report=on_report, pin=pin)
        self._spark, self._start_timeout = spark, start_timeout

    def run(self, fn: Callable[[Worker], bytes], size: int) -> list[bytes]:
        preflight(self._spark, size)
        context = self._spark.sparkContext
        conf = context.getConf()
        local = str(context.master).startswith("local")
        host = "127.0.0.1" if local else str(conf.get("spark.driver.host"))
        hub = Hub(size, self.log_dir, self.on_report)
        server = ChannelServer(hub, host if local else str(conf.get("spark.driver.bindAddress", host)))
        call = _Call(cloudpickle.dumps(fn), size, self.pin, (host, server.port), server.token)
        try:
            return self._collect(call, hub, server)
        finally:
            hub.abort()
            server.close()
            hub.close()

    def _collect(self, call: _Call, hub: Hub, server: ChannelServer) -> list[bytes]:
        context = self._spark.sparkContext
        tag = f"sparkml-gang-{uuid.uuid4().hex[:8]}"
        over = threading.Event()
        context.addJobTag(tag)
        context.setJobDescription(f"gang of {call.size} ranks")
        watch = threading.Thread(target=self._watch, args=(tag, hub, server, over), daemon=True)
        watch.start()
        error: Exception | None = None
        ended: list[Row] = []
        try:
            ranks = self._spark.range(call.size, numPartitions=call.size)
            # not rdd.barrier(): RDDs and DataFrames have separate Python workers, and those that wrote the shards are warm
            ended = ranks.mapInArrow(partial(_rank, call=call), "rank int, result binary", barrier=True).collect()
        except Exception as problem:  # whatever Spark says, a rank's own account is better
            error = problem
            hub_is_told = time.monotonic() + 1.0
            while hub.failure is None and time.monotonic() < hub_is_told:
                time.sleep(0.05)
        finally:
            over.set()
            context.removeJobTag(tag)
            context.setJobDescription(None)  # type: ignore[arg-type]
        if hub.failure is not None:
            raise hub.failure.as_error() from error
        results = {row.rank: bytes(row.result) for row in ended if row.result is not None}
        if hub.aborted and (server.joined < call.size or len(results) < call.size):
            raise LaunchError(
                f"only {server.joined} of {call.size} ranks started within {self._start_timeout:.0f} s: the slots are taken",
                hint="wait for the other jobs of this application to end, or lower num_proc",
            ) from error
        if error is not None:
            raise LaunchError(f"the barrier stage failed: {_first_cause(error)}", hint="see the executors' logs") from error
        return [results[rank] for rank in range(call.size)]

    def _watch(self, tag: str, hub: Hub, server: ChannelServer, over: threading.Event) -> None:
        """Cancel the Spark job when ranks do not start, or do not leave after an abort."""
        deadline = time.monotonic() + self._start_timeout
        while not over.wait(0.2):
            if hub.aborted:
                if not over.wait(_END_SECONDS):
                    self._spark.sparkContext.cancelJobsWithTag(tag)
                return
            if server.joined < hub.size and time.monotonic() > deadline:
                hub.abort()
                self._spark.sparkContext.cancelJobsWithTag(tag)
                return


def slots(spark: SparkSession) -> int:
    """Return how many barrier tasks can run at once on the executors that are there now (cores / ``spark.task.cpus``)."""
    jvm = spark.sparkContext._jsc.sc()
    return int(jvm.maxNumConcurrentTasks(jvm.resourceProfileManager().defaultResourceProfile()))


def preflight(spark: SparkSession, size: int) -> None:
    """Raise `LaunchError` if a gang of `size` ranks cannot run here: too few slots, or dynamic allocation."""
    context = spark.sparkContext
    local = str(context.master).startswith("local") and not str(context.master).startswith("local-cluster")
    if size < 1:
        raise LaunchError(f"a gang needs at least one rank, {size} were asked for", hint="set num_proc to 1 or more")
    if not local and context.getConf().get("spark.dynamicAllocation.enabled", "false") == "true":
        raise LaunchError(
            "spark.dynamicAllocation.enabled is true: Spark refuses barrier stages with it",
            hint="run with --conf spark.dynamicAllocation.enabled=false and a fixed spark.executor.instances",
        )
    deadline = time.monotonic() + (0 if local else _EXECUTORS_SECONDS)
    while (found := slots(spark)) < size and time.monotonic() < deadline:
        time.sleep(0.5)
    if found < size:
        task_cpus = context.getConf().get("spark.task.cpus", "1")
        raise LaunchError(
            f"{size} ranks need {size} slots at once, {context.master} has {found} (cores / spark.task.cpus = {task_cpus})",
            hint=f"lower num_proc to {found}"
            + (f", or run with --master local[{size}]" if local else ", or give more executors or cores"),
        )


def _rank(batches: Iterator[pa.RecordBatch], call: _Call) -> Iterator[pa.RecordBatch]:
    for _ in batches:  # Spark keeps a Python worker for the next stage only when it has read all of its input
        pass
    yield from _task(call)


def _task(call: _Call) -> Iterator[pa.RecordBatch]:
    """Run one rank. A failure is told to the driver, which stops all ranks; the stage itself then ends without an exception.

    When the driver cannot be told, the task raises: the failed barrier task fails the stage, and Spark kills the others.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    rank, host = context.partitionId(), socket.gethostname()
    channel = ChannelClient(call.driver, call.token, rank, host)
    try:
        hosts = _everyones_host(channel, rank, host)
        local_rank, local_size = hosts[:rank].count(host), hosts.count(host)
        place = Place(rank, call.size, local_rank, local_size, host, cores_of(local_rank, local_size, pin=call.pin))
        yield _row(rank, run_rank(call.code, place, channel))
    except RankAbortedError:
        if not channel.aborted.wait(_END_SECONDS) or channel.driver_lost:
            raise
        yield _row(rank, None)
    finally:
        with contextlib.suppress(OSError):
            channel.close()


def _row(rank: int, result: bytes | None) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([rank], pa.int32()), pa.array([result], pa.binary())], names=["rank", "result"])


def _everyones_host(channel: ChannelClient, rank: int, host: str) -> list[str]:
    """Gather the ranks' hosts over our own line: Spark's `allGather` answers only once a second."""
    hosts: list[str] = []
    answered = threading.Event()

    def answer(blocks: list[bytes]) -> None:
        hosts.extend(block.decode() for block in blocks)
        answered.set()

    channel.on_abort(answered.set)
    channel.offer(rank, host.encode(), answer)
    answered.wait()
    if not hosts:
        raise RankAbortedError(f"rank {rank} has ended")
    return hosts


def _first_cause(error: Exception) -> str:
    """Return the line of a Py4J error that a person can use."""
    text = str(error)
    raised = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception): (?!Traceback \().*$", text, re.MULTILINE)
    reason = re.findall(r"Job aborted due to stage failure: .*|Could not recover from a failed barrier.*", text)
    return str((raised or reason or text.strip().splitlines() or [type(error).__name__])[0])[:500]
