"""Faults of whole runs of a pipeline: its executors, ranks and drivers; `cluster.py` runs them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyspark
from drill import RANK, FaultError, wait_for
from injection import Seen, Site
from whole_run import RUN_SECONDS, Fault, Run, begun, fault_free, last, outcome, standalone

from scripts.devcluster.hadoop import URGENT

STAGES = ("ingest", "contract", "features", "train.forest", "train.net", "evaluate.net", "register", "score")
_STOPPED_SECONDS = 60.0
_EXECUTOR = "CoarseGrainedExecutorBackend"


# --- executors and ranks ---


def executors(site: Site) -> list[psutil.Process]:
    """Return the executors' JVMs, oldest first."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("SPARKML_DEVCLUSTER") == site.cluster.state()["mark"]
            if ours and "java" in process.name() and any(_EXECUTOR in word for word in process.cmdline()):
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def ranks(site: Site) -> list[psutil.Process]:
    found = []
    for executor in executors(site):
        with contextlib.suppress(psutil.Error):
            found += [child for child in executor.children(recursive=True) if RANK in " ".join(child.cmdline())]
    return found


def kill_an_executor(site: Site) -> None:
    there = executors(site)
    if not there:
        raise FaultError("there is no executor")
    there[site.turn % len(there)].kill()


def being_written(site: Site) -> Callable[[], bool]:
    """Whether Spark is writing an artifact: tasks' files are below a staging folder, and are no artifact yet."""

    def there() -> bool:
        return any("/_temporary/" in path for path in site.store.files("_staging"))

    return there


def executor_killed(says: str, wait: Callable[[Site], Callable[[], bool]] | None = None) -> Fault:
    """Kill an executor when the run says something, or does something after it."""

    def fault(site: Site) -> Seen:
        words = standalone(site)
        reference = fault_free(site, words)
        run = begun(site, reference, words)
        run.until(says)
        if wait is not None and not wait_for(wait(site), 60, lambda: run.process.poll() is not None):
            raise FaultError(f"nothing was written after {says!r}")
        at = time.time()
        kill_an_executor(site)
        return outcome(site, run, at, r"lost|starts again|executor|failed|Lost", reference, words)

    return fault


def rank_stopped(site: Site) -> Seen:
    """Stop a rank for a minute, which is less than the stall limit, and let it go on."""
    words = [*standalone(site), "--set", "train.candidates.net.stall_timeout=180"]
    reference = fault_free(site, words)
    run = begun(site, reference, words)
    run.until("train.net epoch 1/")
    there = ranks(site)
    if not there:
        raise FaultError("training was over before a rank could be stopped")
    at = time.time()
    there[site.turn % len(there)].send_signal(signal.SIGSTOP)
    time.sleep(_STOPPED_SECONDS)
    there[site.turn % len(there)].send_signal(signal.SIGCONT)
    return outcome(site, run, at, r"stall|straggler|stopped", reference, words)


def speculation(site: Site) -> Seen:
    """Let Spark start second attempts of nearly every task, while one executor is slow: only one of two may commit."""
    eager = {"spark.speculation": "true", "spark.speculation.interval": "20ms", "spark.speculation.multiplier": "1"}
    eager |= {"spark.speculation.quantile": "0.1", "spark.speculation.minTaskRuntime": "1ms"}
    words = standalone(site)
    reference = fault_free(site, words)
    run = Run(site, [*words, *(word for key, value in eager.items() for word in ("--set", f"spark.conf.{key}={value}"))])
    run.until("ingest ...")
    at = time.time()
    deadline = time.monotonic() + RUN_SECONDS
    while run.process.poll() is None and time.monotonic() < deadline:  # by turns, half a second each
        with contextlib.suppress(psutil.Error, IndexError):
            slow = executors(site)[0]
            slow.suspend()
            time.sleep(0.5)
            slow.resume()
        time.sleep(0.5)
    return outcome(site, run, at, r"lost|failed|starts again", reference, words)


# --- drivers ---


def driver_killed_in_every_stage(site: Site) -> Seen:
    """Kill the driver in its first stage, resume, kill it in its second, and so on."""
    words = ["--env", "local", "--set", "spark.master=local[2]"]
    reference = fault_free(site, words)
    resume: list[str] = []
    for stage in STAGES:
        run = Run(site, [*words, *resume])
        run.until(f"] {stage} ...")
        time.sleep(0.3 + 0.2 * site.turn)  # another moment of the stage in each repeat
        if run.process.poll() is None:
            run.kill()
        site.check()  # what was there after the last kill is as it was
        site.remember()
        resume = ["--resume", last(site.store).run_id]
        if last(site.store).status == "done":
            raise FaultError(f"the run was over before it could be killed in {stage}")
    run = Run(site, [*words, *resume])
    seen = outcome(site, run, time.time(), "never", reference)
    if site.store.list("_staging"):
        raise FaultError(f"left in staging: {site.store.list('_staging')}")
    return Seen("killed (`sparkml runs` says so, with the resume command)", None, "by its resume command", seen.retries, "")


# --- YARN ---

_YARN = {"spark.yarn.jars": f"local:{Path(pyspark.__file__).parent}/jars/*"}  # every container is on this host
_TENANT_SECONDS = 15
_TENANT = """
import pathlib, sys, time
from pyspark.sql import SparkSession
while not pathlib.Path(sys.argv[2]).exists():  # the JVM is up: from here on it takes a moment
    time.sleep(0.1)
session = SparkSession.builder.getOrCreate()
while session.sparkContext._jsc.sc().getExecutorMemoryStatus().size() < 2:
    time.sleep(0.2)
time.sleep(float(sys.argv[1]))
session.stop()
"""


def tenant(site: Site) -> subprocess.Popen[bytes]:
    """Start an application of YARN's other queue, which waits for a file, `go`, before it asks for its containers."""
    conf = {"spark.yarn.queue": URGENT, "spark.executor.instances": "1", "spark.executor.memory": "4g", **_YARN}
    conf |= {"spark.master": "yarn", "spark.ui.enabled": "false"}
    words = [word for key, value in conf.items() for word in ("--conf", f"{key}={value}")]
    script = site.folder / "tenant.py"
    script.write_text(_TENANT)
    env = {**os.environ, "SPARKML_DEVCLUSTER": site.cluster.state()["mark"], "PYSPARK_PYTHON": sys.executable}
    command = [
        str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
        *words,
        str(script),
        str(_TENANT_SECONDS),
        str(site.folder / "go"),
    ]
    with (site.folder / "tenant.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)


def preempted(site: Site) -> Seen:
    """An application with a right to the memory comes, and goes after a while; YARN preempts an executor for it."""
    words = ["--env", "yarn", *(word for key, value in _YARN.items() for word in ("--set", f"spark.conf.{key}={value}"))]
    words += ["--set", "train.candidates.net.epochs=60"]  # long enough for YARN to make up its mind
    reference = fault_free(site, words)
    other = tenant(site)
    try:
        run = begun(site, reference, words)
        run.until(("train.forest ...", "train.net epoch 1/", "train.net epoch 12/")[site.turn % 3])
        before = {process.pid for process in executors(site)}
        at = time.time()
        (site.folder / "go").touch()
        if not wait_for(lambda: any(not psutil.pid_exists(pid) for pid in before), 120, lambda: run.process.poll() is not None):
            raise FaultError("YARN preempted nothing")
        if run.process.poll() is not None:
            raise FaultError("the run was over before YARN preempted anything")
        return outcome(site, run, at, r"lost|starts again|failed|preempt", reference, words)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(other.pid, signal.SIGKILL)
        other.wait()


STANDALONE: dict[str, tuple[str, Fault]] = {
    "executor-plain": ("an executor is killed in a plain stage (training of a forest)", executor_killed("train.forest ...")),
    "executor-write": ("an executor is killed while Spark writes an artifact", executor_killed("score ...", being_written)),
    "executor-gang": ("an executor is killed in a barrier stage (training of a net)", executor_killed("train.net epoch 2/")),
    "rank-stopped": ("a rank is stopped for 60 s (stall limit 180 s)", rank_stopped),
    "speculation": ("second attempts of nearly every task, one executor slow", speculation),
}
YARN: dict[str, tuple[str, Fault]] = {"preemption": ("YARN preempts an executor for another queue's application", preempted)}
LOCAL: dict[str, tuple[str, Fault]] = {
    "driver-killed": ("the driver is killed in every stage, one after the other (HDFS)", driver_killed_in_every_stage)
}
LOCAL_S3: dict[str, tuple[str, Fault]] = {
    "driver-killed-s3": ("the driver is killed in every stage, one after the other (S3)", driver_killed_in_every_stage)
}
