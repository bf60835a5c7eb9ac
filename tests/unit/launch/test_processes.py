from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparkml.errors import DataError, LaunchError, TrainingError
from sparkml.launch.processes import ProcessGang
from sparkml.launch.worker import Worker


def test_results_come_in_rank_order_and_ranks_agree() -> None:
    def fn(worker: Worker) -> bytes:
        worker.barrier()
        blocks = worker.all_gather(f"{worker.rank}".encode() * worker.rank)
        return json.dumps([worker.rank, worker.size, worker.local_rank, [block.decode() for block in blocks]]).encode()

    results = [json.loads(result) for result in ProcessGang().run(fn, 3)]
    assert results == [[rank, 3, rank, ["", "1", "22"]] for rank in range(3)]


def test_ranks_have_variables_and_a_folder_for_temporary_files_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "WARN")

    def fn(worker: Worker) -> bytes:
        with tempfile.NamedTemporaryFile(delete=False) as left:
            pass
        answer = json.dumps([os.environ["NCCL_DEBUG"], left.name]).encode()
        worker.barrier()
        return answer

    found = [json.loads(result) for result in ProcessGang(env={"NCCL_DEBUG": "INFO"}).run(fn, 2)]
    assert [level for level, _ in found] == ["INFO", "INFO"] and os.environ["NCCL_DEBUG"] == "WARN"
    folders = {Path(name).parent for _, name in found}
    assert len(folders) == 2 and not any(folder.exists() for folder in folders)


def test_a_killed_rank_leaves_no_temporary_files(tmp_path: Path) -> None:
    def fn(worker: Worker) -> bytes:
        (tmp_path / "where").write_text(tempfile.mkdtemp())
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    with pytest.raises(LaunchError):
        ProcessGang().run(fn, 1)
    assert not Path((tmp_path / "where").read_text()).parent.exists()


def test_megabytes_travel_both_ways() -> None:
    block = os.urandom(3_000_000)

    def fn(worker: Worker) -> bytes:
        return b"".join(worker.all_gather(block if worker.rank == 1 else b"-"))

    assert ProcessGang().run(fn, 2) == [b"-" + block] * 2


def test_reports_and_logs_reach_the_parent_tagged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sparkml.ranks")
    seen: list[dict[str, Any]] = []

    def fn(worker: Worker) -> bytes:
        worker.log("hello")
        os.write(2, b"from native code\n")
        worker.report({"epoch": worker.rank * 10})
        return b""

    ProcessGang(log_dir=str(tmp_path), on_report=seen.append).run(fn, 2)
    assert sorted((report["rank"], report["epoch"]) for report in seen) == [(0, 0), (1, 10)]
    lines = (tmp_path / "rank-1.log").read_text().splitlines()
    assert [line.partition("] ")[2] for line in lines] == ["hello", "from native code"]
    assert all(line.startswith("[rank 1 ") for line in lines)
    logged = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert [entry for entry in logged if "[rank 1 " in entry[2]] == [("sparkml.ranks", "INFO", line) for line in lines]


def test_an_exception_names_the_rank_and_shows_its_last_lines() -> None:
    def fn(worker: Worker) -> bytes:
        if worker.rank == 1:
            print("about to fail")
            raise ValueError("no such thing")
        worker.barrier()  # never completes
        return b""

    with pytest.raises(TrainingError, match=r"rank 1 on \S+ failed: ValueError: no such thing(.|\n)*about to fail"):
        ProcessGang().run(fn, 2)


def test_our_own_errors_keep_their_class_and_hint() -> None:
    def fn(worker: Worker) -> bytes:
        raise DataError("0 rows", hint="look at the contract")

    with pytest.raises(DataError, match="0 rows") as caught:
        ProcessGang().run(fn, 1)
    assert caught.value.hint == "look at the contract"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
def test_a_killed_rank_ends_the_gang(number: signal.Signals, name: str) -> None:
    def fn(worker: Worker) -> bytes:
        if worker.rank == 1:
            os.kill(os.getpid(), number)
        time.sleep(600)
        return b""

    with pytest.raises(LaunchError, match=rf"rank 1 on \S+ was killed by signal {int(number)} \({name}\)"):
        ProcessGang().run(fn, 2)


def test_a_rank_that_exits_early_ends_the_gang() -> None:
    def fn(worker: Worker) -> bytes:
        if worker.rank == 0:
            os._exit(3)
        worker.barrier()
        return b""

    with pytest.raises(LaunchError, match=r"rank 0 on \S+ ended with exit code 3"):
        ProcessGang().run(fn, 2)


def test_a_collective_that_a_finished_rank_never_joins_is_an_error() -> None:
    def fn(worker: Worker) -> bytes:
        if worker.rank == 1:
            worker.barrier()
        return b""

    with pytest.raises(TrainingError, match=r"rank 1 .*waits in a collective that rank 0 will never join"):
        ProcessGang().run(fn, 2)


def test_results_must_be_bytes() -> None:
    with pytest.raises(TrainingError, match="must return bytes, it returned str"):
        ProcessGang().run(lambda worker: "text", 1)  # type: ignore[arg-type, return-value]


def test_each_rank_gets_its_own_cores_and_thread_counts() -> None:
    usable = len(os.sched_getaffinity(0))

    def fn(worker: Worker) -> bytes:
        return json.dumps([sorted(os.sched_getaffinity(0)), int(os.environ["OMP_NUM_THREADS"])]).encode()

    placed = [json.loads(result) for result in ProcessGang().run(fn, usable)]
    assert sorted(core for cores, _ in placed for core in cores) == sorted(os.sched_getaffinity(0))
    assert all(len(cores) == threads == 1 for cores, threads in placed)
    crowded = [json.loads(result) for result in ProcessGang().run(fn, usable + 1)]
    assert all(cores == sorted(os.sched_getaffinity(0)) for cores, _ in crowded)


def test_no_child_outlives_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from sparkml.launch.processes import ProcessGang\n"
        "def fn(worker):\n"
        f"    open(f'{tmp_path}/{{worker.rank}}', 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "ProcessGang().run(fn, 2)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    children: list[int] = []
    while len(children) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
        children = [int(text) for rank in "01" if (tmp_path / rank).exists() and (text := (tmp_path / rank).read_text())]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(_runs(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if _runs(child)]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
