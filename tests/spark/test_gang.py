from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyspark.sql import SparkSession

from sparkml.errors import DataError, LaunchError, TrainingError
from sparkml.launch import barrier
from sparkml.launch.barrier import BarrierGang, first_cause, slots
from sparkml.launch.channel import ChannelClient, ChannelServer
from sparkml.launch.failure import RankFailure
from sparkml.launch.gang import Hub
from sparkml.launch.restart import run_with_restarts
from sparkml.launch.supervise import RankAbortedError
from sparkml.launch.task import gather
from sparkml.launch.versions import installed
from sparkml.launch.worker import Worker


@pytest.fixture(autouse=True)
def nothing_stays_behind(spark: SparkSession) -> Iterator[None]:
    """After every test: no child of a gang lives, and the session still runs jobs on all slots."""
    yield
    deadline = time.monotonic() + 20
    while (left := _children()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert spark.sparkContext.parallelize(range(4), 2).map(lambda x: x * x).sum() == 14


def _children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "sparkml.launch.child" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_ranks_agree_report_and_log(spark: SparkSession, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def fn(worker: Worker) -> bytes:
        worker.barrier()
        blocks = worker.all_gather(bytes([worker.rank]) * 70_000)
        worker.report({"epoch": 1})
        worker.log(f"I am {worker.rank}")
        return json.dumps([worker.rank, worker.local_rank, worker.local_size, [block[0] for block in blocks]]).encode()

    gang = BarrierGang(spark, log_dir=str(tmp_path), on_report=seen.append)
    assert [json.loads(result) for result in gang.run(fn, 2)] == [[rank, rank, 2, [0, 1]] for rank in range(2)]
    assert sorted(report["rank"] for report in seen) == [0, 1]
    assert (tmp_path / "rank-1.log").read_text() == f"[rank 1 {socket.gethostname()}] I am 1\n"


def test_a_killed_rank_ends_the_gang_with_its_last_lines(spark: SparkSession) -> None:
    def fn(worker: Worker) -> bytes:
        if worker.rank == 1:
            print("last words")
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        worker.barrier()
        return b""

    began = time.monotonic()
    with pytest.raises(LaunchError, match=r"rank 1 on \S+ was killed by signal 9 \(SIGKILL\)(.|\n)*last words"):
        BarrierGang(spark).run(fn, 2)
    assert time.monotonic() - began < 60  # against hanging, not for speed: the barrier's own timeout is 120 s


def test_an_exception_keeps_class_and_cause(spark: SparkSession) -> None:
    def wrong(worker: Worker) -> bytes:
        if worker.rank == 0:
            raise KeyError("label")
        time.sleep(600)
        return b""

    with pytest.raises(TrainingError, match=r"rank 0 on \S+ failed: KeyError: 'label'"):
        BarrierGang(spark).run(wrong, 2)

    def empty(worker: Worker) -> bytes:
        raise DataError("no rows")

    with pytest.raises(DataError, match="no rows"):
        BarrierGang(spark).run(empty, 2)


def test_a_lost_task_is_named(spark: SparkSession) -> None:
    """The Python worker of a task is killed: its child dies with it, the driver sees the line go dead, the other rank ends."""

    def fn(worker: Worker) -> bytes:
        if worker.rank == 1:
            os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
        return b""

    with pytest.raises(LaunchError, match=r"rank 1 on \S+ was lost"):
        BarrierGang(spark).run(fn, 2)


def test_too_few_slots_are_an_error_before_anything_runs(spark: SparkSession) -> None:
    assert slots(spark) == 2
    with pytest.raises(LaunchError, match=r"3 ranks need 3 slots at once, local\[2\] has 2") as caught:
        BarrierGang(spark).run(lambda worker: b"", 3)
    assert "lower num_proc to 2" in str(caught.value)


def test_busy_slots_are_an_error_not_a_hang(spark: SparkSession) -> None:
    context = spark.sparkContext
    context.setJobDescription(None)  # type: ignore[arg-type]
    busy = context.parallelize([0], 1).map(lambda _: time.sleep(8))
    holder = threading.Thread(target=busy.count)
    holder.start()
    time.sleep(1.0)
    try:
        with pytest.raises(LaunchError, match="only 0 of 2 ranks started within 2 s"):
            BarrierGang(spark, start_timeout=2.0).run(lambda worker: b"", 2)
    finally:
        holder.join()


def test_a_second_gang_waits_for_the_first(spark: SparkSession) -> None:
    """As under CrossValidator(parallelism=2). Its patience for slots would be over long before the first has ended."""

    def fn(worker: Worker) -> bytes:
        worker.barrier()
        time.sleep(6)
        return b"done"

    with ThreadPoolExecutor(2) as pool:
        gangs = [pool.submit(BarrierGang(spark, start_timeout=4.0).run, fn, 2) for _ in range(2)]
        assert [gang.result() for gang in gangs] == [[b"done"] * 2] * 2


def test_a_gang_that_a_person_cancels_is_not_started_again(spark: SparkSession) -> None:
    def fn(worker: Worker) -> bytes:
        worker.report({})
        time.sleep(600)
        return b""

    started = threading.Event()
    gang = BarrierGang(spark, on_report=lambda _: started.set())
    person = threading.Thread(target=lambda: started.wait(60) and spark.sparkContext.cancelAllJobs())
    person.start()
    with pytest.raises(LaunchError, match="was cancelled") as caught:
        run_with_restarts(gang, fn, 2, max_restarts=3)
    assert caught.value.failure is None
    person.join()


def test_a_stopped_rank_is_killed_and_the_gang_starts_again(spark: SparkSession, tmp_path: Path) -> None:
    def fn(worker: Worker) -> bytes:
        worker.note("step", 1)
        if worker.rank == 1 and not (tmp_path / "once").exists():
            (tmp_path / "once").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        worker.barrier()
        return b"done"

    results, restarts = run_with_restarts(BarrierGang(spark, stall_timeout=5.0), fn, 2, max_restarts=1, min_size=1)
    assert results == [b"done"] * 2 and [each.size for each in restarts] == [2]
    assert "rank 1 on" in restarts[0].reason and "its process is stopped (SIGSTOP)" in restarts[0].reason
    assert not psutil.pid_exists(int((tmp_path / "once").read_text()))


def test_a_gang_that_hangs_names_who_holds_it_up(spark: SparkSession) -> None:
    def fn(worker: Worker) -> bytes:
        worker.note("step" if worker.rank == 1 else "callback", 2)
        time.sleep(600)
        return b""

    with pytest.raises(LaunchError, match=r'rank 0 on \S+ hangs: in phase "callback" of step 2 for .*rank 1 in step 2'):
        BarrierGang(spark, stall_timeout=5.0).run(fn, 2)


def test_a_task_that_is_stopped_with_its_host_is_noticed_by_the_driver(spark: SparkSession) -> None:
    """Only the task's own process can be stopped here; to the driver that looks like a frozen host: the line stays open."""

    def fn(worker: Worker) -> bytes:
        print("last words", flush=True)
        if worker.rank == 1:
            time.sleep(1.0)
            os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(600)
        return b""

    with pytest.raises(LaunchError, match=r"rank 1 on \S+ was lost: no sign of life for (.|\n)*last words") as caught:
        BarrierGang(spark, stall_timeout=5.0).run(fn, 2)
    assert isinstance(caught.value.failure, RankFailure) and caught.value.failure.kind == "lost"


def test_other_versions_than_the_drivers_are_refused(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = installed()
    monkeypatch.setattr(barrier, "installed", lambda: {**mine, "numpy": "1.0", "keras": "9.9"})
    with pytest.raises(LaunchError) as caught:
        run_with_restarts(BarrierGang(spark), lambda worker: b"", 2, max_restarts=3)
    text = str(caught.value)
    assert f"rank 0 on {socket.gethostname()} has other versions than the driver: " in text
    assert f"numpy {mine['numpy']} (the driver has 1.0)" in text and "(the driver has 9.9)" in text and "spark.archives" in text
    assert "restart" not in text


def test_cores_that_a_local_master_cannot_give_are_refused(spark: SparkSession) -> None:
    with pytest.raises(LaunchError, match=r"local\[2\] gives every task 1 cores and 0 GPUs, the gang wants 2 and 0") as caught:
        BarrierGang(spark, cpus_per_rank=2)
    assert "leave cpus_per_rank out" in str(caught.value)
    with pytest.raises(LaunchError, match="wants 1 and 1 for each rank"):
        BarrierGang(spark, gpus_per_rank=1)
    with pytest.raises(LaunchError, match="cannot have 0 cores"):
        BarrierGang(spark, cpus_per_rank=0)


def test_what_every_task_gets_anyway_may_be_asked_for(spark: SparkSession) -> None:
    def fn(worker: Worker) -> bytes:
        return json.dumps(
            [len(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"], "CUDA_VISIBLE_DEVICES" in os.environ]
        ).encode()

    assert json.loads(BarrierGang(spark, cpus_per_rank=1).run(fn, 1)[0]) == [1, "1", "CUDA_VISIBLE_DEVICES" in os.environ]


def test_strangers_get_nothing_from_the_channel() -> None:
    hub = Hub(2, None, None)
    server = ChannelServer(hub, "127.0.0.1")
    with pytest.raises(LaunchError, match="does not know this gang's token"):
        ChannelClient(("127.0.0.1", server.port), "wrong", 0, "here")
    with socket.create_connection(("127.0.0.1", server.port)) as stranger:
        stranger.recv(100)
        stranger.sendall(b'{"rank": 0, "proof": "x"}\n{"op": "fail", "failure": {}}\n')
        assert stranger.recv(100) == b""
    assert server.joined == 0 and hub.failure is None
    server.close()


@pytest.mark.parametrize("driver_lives", [True, False])
def test_a_task_that_waits_for_the_others_hosts_is_told_of_the_end(driver_lives: bool) -> None:
    """Rank 0 has started, rank 1 never will: the gang is aborted, or the driver goes away."""
    hub = Hub(2, None, None)
    server = ChannelServer(hub, "127.0.0.1")
    channel = ChannelClient(("127.0.0.1", server.port), server.token, 0, "here")
    threading.Timer(0.2, hub.abort if driver_lives else server.close).start()
    with pytest.raises(RankAbortedError):
        gather(channel, 0, {"host": "here"})
    assert channel.driver_lost != driver_lives
    channel.close()
    server.close()


def test_what_tasks_tell_comes_in_rank_order() -> None:
    hub = Hub(3, None, None)
    server = ChannelServer(hub, "127.0.0.1")
    tasks = [{"host": host} for host in "aba"]
    channels = [ChannelClient(("127.0.0.1", server.port), server.token, rank, "x") for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(gather, channels, range(3), tasks))
    assert found == [tasks] * 3
    for channel in channels:
        channel.close()
    server.close()


def test_the_cause_of_a_failed_stage_is_the_line_that_says_something() -> None:
    text = """An error occurred while calling o10.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: Could not recover from a failed barrier ResultStage.
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "barrier.py", line 169, in _task
sparkml.errors.LaunchError: rank 1 on b cannot reach the driver at a:1: timed out
"""
    assert first_cause(RuntimeError(text)).endswith("rank 1 on b cannot reach the driver at a:1: timed out")
