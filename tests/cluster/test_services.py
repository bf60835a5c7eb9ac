"""The cluster of ``scripts/cluster`` itself: real services, on loopback only, and nothing of it is left."""

from __future__ import annotations

import ipaddress
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scripts.devcluster import daemon
from scripts.devcluster.cluster import ROOT, SERVICES, Cluster
from scripts.devcluster.daemon import NotReadyError
from sparkml.storage import Store

MEMORY_MB = 3 * 1024


@pytest.fixture(scope="module")
def everything(cluster: Cluster) -> Cluster:
    cluster.up()
    return cluster


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def fsck(cluster: Cluster, path: str) -> str:
    """Return what ``hdfs fsck PATH -files -blocks`` prints."""
    port = cluster.state()["ports"]["nn-http"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/fsck?path={path}&files=1&blocks=1&ugi=root") as answer:
        return str(answer.read(), "utf-8")


def test_all_services_are_up_within_three_gibibytes(everything: Cluster) -> None:
    rows = everything.status()
    assert [row["daemon"] for row in rows if not row["resident_mb"]] == []
    nodes = {"datanode": 3, "nodemanager": 2, "spark-worker": 2}
    names = {"namenode", "resourcemanager", "spark-master", "history-server", "s3"}
    assert {row["daemon"] for row in rows} == names | {f"{name}{at}" for name, count in nodes.items() for at in range(count)}
    assert sum(row["resident_mb"] for row in rows) < MEMORY_MB


def test_nobody_listens_beyond_loopback(everything: Cluster) -> None:
    seen = 0
    for process in daemon.marked(everything.state()["mark"]):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                seen += 1
                address = ipaddress.ip_address(connection.laddr.ip)
                mapped = getattr(address, "ipv4_mapped", None) or address
                assert mapped.is_loopback, f"{process.cmdline()[-1]} listens on {connection.laddr}"
    assert seen > 20


def test_files_are_replicated_and_whole(everything: Cluster) -> None:
    store = Store(f"{everything.environment()['SPARKML_HDFS']}/fsck")
    store.replace("some/file", b"x" * (3 << 20))
    found = fsck(everything, "/fsck")
    assert "Status: HEALTHY" in found
    assert "Live_repl=2" in found


def test_a_daemon_that_was_killed_is_seen_and_started_again_with_its_data(everything: Cluster) -> None:
    store = Store(f"{everything.environment()['SPARKML_HDFS']}/restart")
    store.replace("file", b"kept")
    everything.signal("namenode", signal.SIGKILL)
    until(lambda: any(row["daemon"] == "namenode" and not row["resident_mb"] for row in everything.status()))
    everything.start("namenode")
    assert store.read("file") == b"kept"  # the client waits until safe mode is over


def test_up_again_changes_nothing(everything: Cluster) -> None:
    before = everything.state()
    everything.up(["hdfs", "s3"])
    assert everything.state() == before


def test_down_leaves_no_process_and_no_data_whoever_was_stopped_or_killed(tmp_path: Path) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        run = [str(ROOT / "scripts" / "cluster"), *words, "--folder", str(tmp_path)]
        return subprocess.run(run, capture_output=True, text=True, timeout=180, check=False)

    try:
        down_after_all(tmp_path, command)
    finally:
        command("down")


def down_after_all(tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert command("status").returncode == 1
    up = command("up", "hdfs", "s3")
    assert up.returncode == 0, up.stderr
    cluster = Cluster(tmp_path)
    assert command("status").returncode == 0
    assert f"export SPARKML_HDFS={cluster.environment()['SPARKML_HDFS']}" in command("env").stdout.splitlines()
    cluster.signal("datanode0", signal.SIGSTOP)
    cluster.signal("datanode1", signal.SIGKILL)
    job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={daemon.MARK: cluster.state()["mark"]})
    listed = json.loads(command("status", "--json").stdout)
    assert len(listed) == 5
    done = command("down")
    assert done.returncode == 0, done.stderr
    assert job.wait(10) < 0, "what a job started goes, too"
    assert [row["pid"] for row in listed if psutil.pid_exists(row["pid"])] == []
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert command("down").stdout == "0 processes stopped\n"


def test_a_tied_cluster_ends_with_who_started_it(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal
from scripts.devcluster.cluster import Cluster
Cluster(pathlib.Path({str(tmp_path)!r}), tied=True).up(["s3"])
os.kill(os.getpid(), signal.SIGKILL)
"""
    try:
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
        (row,) = Cluster(tmp_path).status()
        assert row["daemon"] == "s3"
        until(lambda: not psutil.pid_exists(row["pid"]) or psutil.Process(row["pid"]).status() == psutil.STATUS_ZOMBIE, 10)
    finally:
        Cluster(tmp_path).down()


def test_a_folder_of_somebody_else_s_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(NotReadyError, match=r"is no cluster's folder: it holds thesis\.txt"):
        Cluster(tmp_path).up(["s3"])
    assert Cluster(tmp_path).down() == 0
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_wrong_words_are_explained(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "cluster"), "up", "hfds", "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert all(name in done.stderr for name in SERVICES)


def test_a_daemon_that_does_not_come_up_shows_its_last_words(tmp_path: Path) -> None:
    each = daemon.Daemon("broken", ["sh", "-c", "echo no room at the inn; exit 3"], {}, {}, lambda: False)
    record = each.start(tmp_path, "mark")
    with pytest.raises(NotReadyError, match="broken has ended:\nno room at the inn"):
        each.wait(record, tmp_path, time.monotonic() + 10)
