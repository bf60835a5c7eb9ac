"""Gangs where a session of the tests' own is needed: a real Ctrl-C, executors that die, and tasks that ask for cores and GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SESSION = """
import json, os, pathlib, signal, sys, time
import psutil
from pyspark.sql import SparkSession
from sparkml.errors import LaunchError
from sparkml.launch import barrier
from sparkml.launch.barrier import BarrierGang
from sparkml.launch.restart import run_with_restarts

here = pathlib.Path(sys.argv[1])
spark = (
    SparkSession.builder.master("MASTER").config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    .config("spark.ui.enabled", "false").config("spark.local.dir", str(here / "local")).config("spark.executor.memory", "512m")
    .config(map=CONF).getOrCreate()
)
spark.sparkContext.setLogLevel("OFF")
"""


def start(folder: Path, body: str, master: str, **conf: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SESSION.replace("MASTER", master).replace("CONF", repr(conf)) + body)
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
        start_new_session=True,  # a process group of its own, so that a Ctrl-C on a terminal can be imitated
    )


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        out, err = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err[-4000:]
    return dict(json.loads(out.strip().splitlines()[-1]))


def survivors(folder: Path) -> list[int]:
    """The ranks that wrote their process id into `folder` and still run 10 s later."""
    deadline = time.monotonic() + 10
    pids = [int(file.read_text()) for file in folder.glob("pid-*")]
    assert pids
    while (left := [pid for pid in pids if runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("whole_group", [False, True], ids=["kill -INT", "Ctrl-C on a terminal"])
def test_an_interrupt_ends_ranks_and_job(tmp_path: Path, whole_group: bool) -> None:
    body = """
def fn(worker):
    (here / f"pid-{worker.rank}").write_text(str(os.getpid()))
    worker.barrier()
    worker.report({})
    time.sleep(600)
    return b""

gang = BarrierGang(spark, on_report=lambda _: (here / "running").touch())
try:
    run_with_restarts(gang, fn, 2, max_restarts=3)
except KeyboardInterrupt:
    came = time.time()
    tracker = spark.sparkContext.statusTracker()
    while tracker.getActiveJobsIds() and time.time() < came + 30:
        time.sleep(0.1)
    left = list(tracker.getActiveJobsIds())
    still = spark.sparkContext.parallelize(range(4), 2).sum()
    print(json.dumps({"came": came, "jobs": left, "sum": still}))
"""
    process = start(tmp_path, body, "local[2]")
    while not (tmp_path / "running").exists():
        assert process.poll() is None, process.communicate()[1][-4000:]
        time.sleep(0.1)
    sent = time.time()
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    told = answer(process)
    assert told["came"] - sent < 30  # against hanging: the ranks sleep for ten minutes
    assert (told["jobs"], told["sum"]) == ([], 6)
    assert survivors(tmp_path) == []


def test_a_cluster_that_encrypts_has_no_ranks_in_the_clear_unless_told(tmp_path: Path) -> None:
    body = """
try:
    BarrierGang(spark).run(lambda worker: b"", 2)
except LaunchError as error:
    refused = [error.message, error.hint]
spark.sparkContext._conf.set("spark.sparkml.ranksInTheClear", "true")
found = BarrierGang(spark).run(lambda worker: b"".join(worker.all_gather(b"%d" % worker.rank)), 2)
print(json.dumps({"refused": refused, "found": [block.decode() for block in found]}))
"""
    conf = {"spark.authenticate": "true", "spark.authenticate.secret": "s", "spark.network.crypto.enabled": "TRUE"}
    told = answer(start(tmp_path, body, "local-cluster[2,1,512]", **conf))
    message, hint = told["refused"]
    assert message.startswith("spark.network.crypto.enabled is true") and "spark.sparkml.ranksInTheClear=true" in hint
    assert told["found"] == ["01", "01"]


def test_an_executor_that_dies_ends_the_gang_or_restarts_it(tmp_path: Path) -> None:
    body = """
def executor_of(pid):
    return next(parent for parent in psutil.Process(pid).parents() if "java" in parent.name())

def dies_once(folder):
    def fn(worker):
        pid = here / folder / f"pid-{worker.rank}"
        first = not pid.exists()
        if first:
            pid.write_text(str(os.getpid()))
        worker.barrier()
        if first and worker.rank == 1:
            (here / folder / "killed").write_text(str(time.time()))
            executor_of(os.getpid()).kill()
        if first:
            time.sleep(600)
        worker.barrier()
        return str(worker.size).encode()
    (here / folder).mkdir()
    return fn

try:
    BarrierGang(spark, gpus_per_rank=1)
except LaunchError as error:
    no_gpus = str(error)
gang = BarrierGang(spark)
try:
    gang.run(dies_once("never"), 2)
except LaunchError as error:
    died, seconds = str(error), time.time() - float((here / "never" / "killed").read_text())
results, restarts = run_with_restarts(gang, dies_once("again"), 2, max_restarts=1)
print(json.dumps({
    "no_gpus": no_gpus, "died": died, "seconds": seconds,
    "results": [result.decode() for result in results], "reasons": [each.reason for each in restarts],
}))
"""
    told = answer(start(tmp_path, body, "local-cluster[2,1,1024]"))
    assert "the executors have no GPUs (spark.executor.resource.gpu.amount is not set)" in told["no_gpus"]
    assert "rank 1 on " in told["died"] and "was lost" in told["died"]
    assert told["seconds"] < 30  # against hanging: the ranks would sleep for ten minutes
    assert told["results"] == ["2", "2"]
    assert len(told["reasons"]) == 1 and "rank 1 on " in told["reasons"][0]
    assert survivors(tmp_path / "never") == survivors(tmp_path / "again") == []


def test_ranks_get_the_cores_and_gpus_they_ask_for(tmp_path: Path) -> None:
    finder = tmp_path / "find-gpus"
    finder.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["0", "1"]}'\n""")
    finder.chmod(0o755)
    conf = {
        f"spark.{who}.resource.gpu.{name}": value
        for who in ("worker", "executor")
        for name, value in (("amount", "2"), ("discoveryScript", str(finder)))
    }
    body = """
barrier._EXECUTORS_SECONDS = 30.0
def fn(worker):
    worker.barrier()
    return json.dumps([os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"]]).encode()

def run(size, **asked):
    try:
        return [json.loads(result) for result in BarrierGang(spark, **asked).run(fn, size)]
    except LaunchError as error:
        return str(error)

both = dict(cpus_per_rank=2, gpus_per_rank=1)
told = {"both": run(2, **both), "plain": run(2), "cores": run(2, cpus_per_rank=2), "two": run(1, gpus_per_rank=2)}
barrier._EXECUTORS_SECONDS = 1.0
told["much"] = run(3, **both)
told["greedy"] = run(2, gpus_per_rank=2)
barrier._RECOVER_SECONDS = 1.0
told["available"] = [BarrierGang(spark).available(9), BarrierGang(spark, **both).available(9), BarrierGang(spark).available(3)]
results, _ = run_with_restarts(BarrierGang(spark, **both), fn, 3, min_size=1)
told["smaller"] = len(results)
print(json.dumps(told))
"""
    told = answer(start(tmp_path, body, "local-cluster[1,4,1024]", **conf))
    shared = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert sorted(told["both"]) == [["0", "2"], ["1", "2"]]
    assert told["plain"] == [[os.environ.get("CUDA_VISIBLE_DEVICES"), shared]] * 2
    assert told["cores"] == [[os.environ.get("CUDA_VISIBLE_DEVICES"), "2"]] * 2
    assert sorted(told["two"][0][0].split(",")) == ["0", "1"]
    assert "3 ranks need 3 slots at once" in told["much"] and "has 2 (" in told["much"] and "1 gpu" in told["much"]
    assert "2 ranks need 2 slots at once" in told["greedy"] and "has 1 (" in told["greedy"]
    assert told["available"] == [4, 2, 3]
    assert told["smaller"] == 2
