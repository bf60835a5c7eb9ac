"""`BarrierGang`: ranks as the tasks of one Spark barrier stage. The only place that knows how to ask Spark for one."""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import cloudpickle

from sparkml.errors import LaunchError, SparkmlError
from sparkml.launch.channel import ChannelServer
from sparkml.launch.failure import RankFailure
from sparkml.launch.gang import STALL_SECONDS, Gang, Hub, Report
from sparkml.launch.task import END_SECONDS, Call, rank_task
from sparkml.launch.versions import ONE_ENVIRONMENT, installed
from sparkml.launch.worker import Worker

if TYPE_CHECKING:
    from pyspark import SparkConf
    from pyspark.resource import ResourceProfile
    from pyspark.sql import Row, SparkSession

log = logging.getLogger(__name__)

_EXECUTORS_SECONDS = 60.0  # executors of a fresh application may still be on their way
_ARRIVING_SECONDS = 600.0  # ... and the first time a host unpacks a packed environment, that takes minutes
_RECOVER_SECONDS = 20.0  # how long a gang that may start smaller waits for the slots that it would rather have
_ENCRYPTION = (
    "spark.network.crypto.enabled",
    "spark.authenticate.enableSaslEncryption",
    "spark.ssl.rpc.enabled",
    "spark.ssl.enabled",
)
_IN_THE_CLEAR = "spark.sparkml.ranksInTheClear"
# Two barrier stages that each hold some of the slots wait for each other without end. pyspark has one application per process.
one_gang = threading.Lock()


class BarrierGang(Gang):
    """One rank per task of a barrier stage, each in a child process of its task.

    A second gang of the same application waits until the first has ended.

    Parameters
    ----------
    start_timeout
        Seconds that the ranks may take to start. Spark counts total slots, not free ones: on a busy cluster a barrier stage
        would wait without end.
    cpus_per_rank
        Cores of each rank, whatever ``spark.task.cpus`` is; None: what Spark gives to any task. Not on ``local[*]``, where
        ranks share the machine's cores equally.
    gpus_per_rank
        GPUs of each rank: it sees those that Spark gave to its task, and no others. 0 leaves ``CUDA_VISIBLE_DEVICES`` alone,
        unless every task of the application gets GPUs.
    """

    def __init__(
        self,
        spark: SparkSession,
        *,
        log_dir: str | None = None,
        on_report: Report | None = None,
        pin: bool = True,
        stall_timeout: float = STALL_SECONDS,
        start_timeout: float = 300.0,
        cpus_per_rank: int | None = None,
        gpus_per_rank: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(log_dir=log_dir, on_report=on_report, pin=pin, stall_timeout=stall_timeout, env=env)
        self._spark, self._start_timeout, self._cpus = spark, start_timeout, cpus_per_rank
        self._profile = task_profile(spark, cpus_per_rank, gpus_per_rank)

    def run(self, fn: Callable[[Worker], bytes], size: int) -> list[bytes]:
        with one_gang:
            return self._run(fn, size)

    def available(self, size: int) -> int:
        return min(size, _wait_for_slots(self._spark, size, _RECOVER_SECONDS, self._profile))

    def _run(self, fn: Callable[[Worker], bytes], size: int) -> list[bytes]:
        preflight(self._spark, size, self._profile)
        context = self._spark.sparkContext
        conf = context.getConf()
        local = str(context.master).startswith("local")
        host = "127.0.0.1" if local else str(conf.get("spark.driver.host"))
        hub = Hub(size, self.log_dir, self.on_report, self.stall_timeout)
        server = ChannelServer(hub, host if local else str(conf.get("spark.driver.bindAddress", host)))
        driver, code = (host, server.port), cloudpickle.dumps(fn)
        # of shards on the scratch disk, see sparkml.shards.copies: they would lie there plain
        copies = "0" if str(conf.get("spark.io.encryption.enabled", "false")).lower() == "true" else "1"
        env = {"SPARKML_SHARD_COPIES": copies, **self.env}
        call = Call(code, size, self.pin, self._cpus, self.stall_timeout, env, installed(), driver, server.token)
        try:
            return self._collect(call, hub, server)
        finally:
            hub.abort()
            server.close()
            hub.close()

    def _collect(self, call: Call, hub: Hub, server: ChannelServer) -> list[bytes]:
        from pyspark import InheritableThread

        context = self._spark.sparkContext
        tag = f"sparkml-gang-{uuid.uuid4().hex[:8]}"
        over = threading.Event()
        ended: list[Row] = []
        problems: list[Exception] = []

        def stage() -> None:
            try:
                context.addJobTag(tag)
                context.setJobDescription(f"gang of {call.size} ranks")
                ranks = self._spark.range(call.size, numPartitions=call.size)
                # not rdd.barrier(): RDDs and DataFrames have separate Python workers, and those that wrote the shards are warm
                task = partial(rank_task, call=call)
                ended.extend(ranks.mapInArrow(task, "rank int, result binary", barrier=True, profile=self._profile).collect())
            except Exception as problem:
                problems.append(problem)

        # A thread of its own, for Ctrl-C: pyspark cancels jobs in the signal's handler, over the line to the JVM of the very
        # thread that was interrupted. If that thread waits there for an answer, the handler fails and nothing is cancelled.
        job = InheritableThread(stage, daemon=True)
        threading.Thread(target=self._watch, args=(tag, hub, server, over), daemon=True).start()
        job.start()
        try:
            job.join()
        except BaseException:
            hub.abort()
            context.cancelJobsWithTag(tag)  # without pyspark's handler nobody else does
            job.join(END_SECONDS)
            raise
        finally:
            over.set()
        error = problems[0] if problems else None  # whatever Spark says, a rank's own account is better
        cancelled = not hub.aborted and re.search(r"Job \d+ cancelled", str(error)) is not None
        hub_is_told = time.monotonic() + 1.0
        while error is not None and not cancelled and hub.failure is None and time.monotonic() < hub_is_told:
            time.sleep(0.05)
        if cancelled:  # by a person; its tasks look lost, but nobody wants them back
            raise LaunchError("the gang's Spark job was cancelled", hint="run it again when it is wanted") from error
        if hub.failure is not None:
            raise hub.failure.as_error() from error
        results = {row.rank: bytes(row.result) for row in ended if row.result is not None}
        if hub.aborted and (server.joined < call.size or len(results) < call.size):
            raise LaunchError(
                f"only {server.joined} of {call.size} ranks started within {self._start_timeout:.0f} s: the slots are taken",
                hint="wait for the other jobs of this application to end, or lower num_proc",
            ) from error
        if error is not None:
            raise _stage_failure(error, server.absent) from error
        return [results[rank] for rank in range(call.size)]

    def _watch(self, tag: str, hub: Hub, server: ChannelServer, over: threading.Event) -> None:
        """Cancel the Spark job when ranks do not start, or do not leave after an abort."""
        deadline = time.monotonic() + self._start_timeout
        while not over.wait(0.2):
            if hub.aborted:
                if not over.wait(END_SECONDS):
                    self._spark.sparkContext.cancelJobsWithTag(tag)
                return
            if server.joined < hub.size and time.monotonic() > deadline:
                hub.abort()
                self._spark.sparkContext.cancelJobsWithTag(tag)
                return


def task_profile(spark: SparkSession, cpus: int | None, gpus: int) -> ResourceProfile | None:
    """Return what to ask Spark for besides what every task of this application gets; None for nothing.

    Raises
    ------
    LaunchError
        This master cannot give it.
    """
    conf = spark.sparkContext.getConf()
    usual = int(str(conf.get("spark.task.cpus", "1"))), float(str(conf.get("spark.task.resource.gpu.amount", "0")))
    wanted = usual[0] if cpus is None else cpus, float(gpus) or usual[1]
    if wanted[0] < 1 or gpus < 0:
        raise LaunchError(
            f"a rank cannot have {wanted[0]} cores and {gpus} GPUs", hint="ask for at least one core, and 0 GPUs or more"
        )
    if wanted == usual:
        return None
    if _one_machine(spark):
        raise LaunchError(
            f"{spark.sparkContext.master} gives every task {usual[0]} cores and {usual[1]:g} GPUs, "
            f"the gang wants {wanted[0]} and {wanted[1]:g} for each rank",
            hint="leave cpus_per_rank out: the ranks of one machine share its cores equally, and all its GPUs are visible"
            if not gpus
            else "set gpus_per_rank to 0: all GPUs of the machine are visible to its ranks; or use a cluster",
        )
    if gpus and conf.get("spark.executor.resource.gpu.amount") is None:
        raise LaunchError(
            f"gpus_per_rank is {gpus}, but the executors have no GPUs (spark.executor.resource.gpu.amount is not set)",
            hint="submit with --conf spark.executor.resource.gpu.amount=N and spark.executor.resource.gpu.discoveryScript=PATH",
        )
    from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

    requests = TaskResourceRequests().cpus(wanted[0])
    if wanted[1]:
        requests = requests.resource("gpu", wanted[1])
    return ResourceProfileBuilder().require(requests).build


def slots(spark: SparkSession, profile: ResourceProfile | None = None) -> int:
    """Return how many barrier tasks can run at once on the executors that are there now (cores / ``spark.task.cpus``)."""
    jvm: Any = spark.sparkContext._jsc.sc()
    known = jvm.resourceProfileManager()
    wanted = known.defaultResourceProfile() if profile is None else profile._java_resource_profile
    if profile is not None:
        known.addResourceProfile(wanted)  # as the stage will; Spark counts for registered profiles only
    return int(jvm.maxNumConcurrentTasks(wanted))


def preflight(spark: SparkSession, size: int, profile: ResourceProfile | None = None) -> None:
    """Raise `LaunchError` if a gang of `size` ranks cannot run here: too few slots, dynamic allocation, encryption."""
    context = spark.sparkContext
    if size < 1:
        raise LaunchError(f"a gang needs at least one rank, {size} were asked for", hint="set num_proc to 1 or more")
    if not _one_machine(spark) and _is_on(context.getConf(), "spark.dynamicAllocation.enabled"):
        raise LaunchError(
            "spark.dynamicAllocation.enabled is true: Spark refuses barrier stages with it",
            hint="run with --conf spark.dynamicAllocation.enabled=false and a fixed spark.executor.instances",
        )
    _refuse_encryption(spark)
    late = not _one_machine(spark) and slots(spark, profile) < size and _arriving(spark)
    found = _wait_for_slots(spark, size, _ARRIVING_SECONDS if late else _EXECUTORS_SECONDS, profile)
    if found < size:
        per_slot = f"cores / spark.task.cpus = {context.getConf().get('spark.task.cpus', '1')}"
        if profile is not None:
            per_slot = " and ".join(f"{request.amount:g} {name}" for name, request in profile.taskResources.items()) + " for each"
        raise LaunchError(
            f"{size} ranks need {size} slots at once, {context.master} has {found} ({per_slot})",
            hint=f"lower num_proc to {found}"
            + (f", or run with --master local[{size}]" if _one_machine(spark) else ", or give more executors or cores"),
        )


def _refuse_encryption(spark: SparkSession) -> None:
    """Whoever has Spark encrypt its traffic must not find gradients and checkpoints of the same job in the clear, unasked."""
    conf = spark.sparkContext.getConf()
    wanted = [name for name in _ENCRYPTION if _is_on(conf, name)]
    if wanted and not _one_machine(spark) and not _is_on(conf, _IN_THE_CLEAR):
        raise LaunchError(
            f"{wanted[0]} is true, but gradients and the ranks' line to the driver are not encrypted",
            hint=f"if the network is private, allow it with --conf {_IN_THE_CLEAR}=true",
        )


def _is_on(conf: SparkConf, name: str) -> bool:
    return str(conf.get(name, "false")).strip().lower() == "true"  # as Spark reads it


def _one_machine(spark: SparkSession) -> bool:
    master = str(spark.sparkContext.master)
    return master.startswith("local") and not master.startswith("local-cluster")


def _arriving(spark: SparkSession) -> bool:
    """Whether fewer executors are there than the application asked for."""
    context: Any = spark.sparkContext
    there = int(context._jsc.sc().getExecutorMemoryStatus().size()) - 1  # the driver is counted, too
    if missing := max(0, int(context.getConf().get("spark.executor.instances", "0")) - there):
        log.warning("the gang waits for %d more executors, for up to %.0f s", missing, _ARRIVING_SECONDS)
    return missing > 0


def _wait_for_slots(spark: SparkSession, size: int, seconds: float, profile: ResourceProfile | None) -> int:
    """Return the slots that are there as soon as they are enough, or after so many seconds; ``local[*]`` gets no more."""
    deadline = time.monotonic() + (0 if _one_machine(spark) else seconds)
    while (found := slots(spark, profile)) < size and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _stage_failure(error: Exception, absent: list[int]) -> SparkmlError:
    """Return the error for a stage that failed without any rank's account of it."""
    text, cause = str(error), first_cause(error)
    if "PYTHON_VERSION_MISMATCH" in text:
        return LaunchError(f"the barrier stage failed: {cause}", hint=ONE_ENVIRONMENT)
    if absent and ("ExecutorLostFailure" in text or "Python worker exited unexpectedly" in text):
        return RankFailure(absent[0], "its executor", "lost", f"was lost before it started: {cause}").as_error()
    return LaunchError(f"the barrier stage failed: {cause}", hint="see the executors' logs")


def first_cause(error: Exception) -> str:
    """Return the line of a Py4J error that a person can use."""
    text = str(error)
    raised = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception): (?!Traceback \().*$", text, re.MULTILINE)
    reason = re.findall(r"Job aborted due to stage failure: .*|Could not recover from a failed barrier.*", text)
    return str((raised or reason or text.strip().splitlines() or [type(error).__name__])[0])[:500]
