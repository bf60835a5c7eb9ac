"""`Drill`: start a driver of `training` in a process of its own, find its ranks, and see who is left when it has ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from training import Settings, as_argument

ROOT = Path(__file__).resolve().parents[2]
RANK = "sparkml.launch.child"  # in the command of every rank
_TOKEN = "SPARKML_FAULT_DRILL"  # every process that a driver starts inherits it
_START_SECONDS = 180.0
_TRAIN_SECONDS = 300.0
_GONE_SECONDS = 60.0
_POLL_SECONDS = 0.02


class FaultError(Exception):
    """The fault was not survived as promised, or could not be injected."""


class SkipError(Exception):
    """This machine does not let us inject the fault."""


@dataclass
class Driver:
    """A running driver."""

    process: subprocess.Popen[bytes]
    folder: Path
    number: int

    @property
    def errors(self) -> str:
        return (self.folder / f"driver-{self.number}.err").read_text(errors="replace").strip()

    @property
    def printed(self) -> dict[str, Any]:
        lines = (self.folder / f"driver-{self.number}.out").read_text(errors="replace").strip().splitlines()
        return dict(json.loads(lines[-1])) if lines and lines[-1].startswith("{") else {}


class Drill:
    """One fault: a folder of its own, the settings of its training, the drivers that it starts."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.settings = replace(settings, folder=str(folder))
        self._token = uuid.uuid4().hex
        self._started = 0

    def start(self, **changed: Any) -> Driver:
        """Start the training."""
        self._started += 1
        settings = replace(self.settings, **changed)
        arguments = [sys.executable, str(Path(__file__).with_name("training.py")), as_argument(settings)]
        return Driver(self.spawn(arguments, f"driver-{self._started}"), self.folder, self._started)

    def spawn(self, arguments: list[str], name: str) -> subprocess.Popen[bytes]:
        """Start a process that counts as ours, and whatever it starts as well."""
        environment = {
            **os.environ,
            _TOKEN: self._token,
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "TMPDIR": str(self.folder),  # what was killed could not clean up
        }
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("wb") as err:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=self.folder,
                start_new_session=True,  # a process group of its own, so that a Ctrl-C on a terminal can be imitated
            )

    def mark(self, driver: Driver) -> float:
        """Wait until training is at the step of the fault, and return when it was (Unix time)."""
        path = self.folder / "mark.json"
        wait_for(path.exists, _START_SECONDS, lambda: driver.process.poll() is not None)
        if not path.exists():
            raise FaultError(f"training never came to the step of the fault: {driver.printed or driver.errors[-800:]}")
        return float(json.loads(path.read_text())["time"])

    def gang(self) -> dict[int, psutil.Process]:
        """Return the processes of the ranks that are there, by rank."""
        found = {}
        for file in (self.folder / "ranks").glob("*.json"):
            facts = json.loads(file.read_text())
            with contextlib.suppress(psutil.NoSuchProcess):
                found[int(facts["rank"])] = psutil.Process(facts["pid"])
        return found

    def sizes(self) -> list[int]:
        """Return the number of ranks of the gang of every rank so far, oldest first."""
        files = sorted((self.folder / "ranks").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        return [int(json.loads(file.read_text())["size"]) for file in files]

    def finish(self, driver: Driver) -> dict[str, Any]:
        """Wait for the end and return what the training says. Raises `FaultError` when it failed or left processes behind."""
        try:
            driver.process.wait(_TRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            raise FaultError(f"training did not end within {_TRAIN_SECONDS:.0f} s") from None
        told = driver.printed
        if driver.process.returncode != 0 or "digest" not in told:
            raise FaultError(str(told.get("error") or f"exit code {driver.process.returncode}: {driver.errors[-800:]}"))
        return told

    def ours(self, command: str = "") -> list[psutil.Process]:
        """Return the living processes of this drill (drivers, JVMs, Python workers, ranks) that have `command` in theirs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_TOKEN) == self._token and alive(process) and command in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def all_gone(self, since: float, command: str = "") -> float:
        """Wait until nothing of ours is left; return the seconds since `since`. Raises `FaultError` naming what stays."""
        if not wait_for(lambda: not self.ours(command), _GONE_SECONDS):
            left = sorted({_name(process) for process in self.ours(command)})
            raise FaultError(f"still running after {_GONE_SECONDS:.0f} s: {', '.join(left)}")
        return time.time() - since

    def close(self) -> None:
        """End whatever is left."""
        for process in self.ours():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def checkpoints(self) -> list[Path]:
        """Return the files of all checkpoints, oldest first."""
        return sorted(Path(self.settings.checkpoints or self.folder / "checkpoints").glob("checkpoints/*/e*.npz"))


def stopped(processes: list[psutil.Process], since: float) -> float:
    """Wait until all ranks of a gang are gone; return the seconds since `since`."""
    if not wait_for(lambda: not any(alive(process) for process in processes), _GONE_SECONDS):
        raise FaultError(f"the gang still ran {_GONE_SECONDS:.0f} s after the fault")
    return time.time() - since


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def jvms_above(process: psutil.Process) -> list[psutil.Process]:
    """Return the JVMs that a rank hangs from, the nearest (its executor) first."""
    return [parent for parent in process.parents() if "java" in parent.name()]


def wait_for(true: Callable[[], bool], seconds: float, hopeless: Callable[[], bool] = lambda: False) -> bool:
    """Return whether `true()` came true in time."""
    deadline = time.monotonic() + seconds
    while not (came := true()) and time.monotonic() < deadline and not hopeless():
        time.sleep(_POLL_SECONDS)
    return came or true()


def standalone_cluster(drill: Drill, workers: int) -> str:
    """Start a Spark master and workers of one core each on the loopback interface; return the master's URL."""
    import pyspark

    spark_class = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    deploy = "org.apache.spark.deploy"
    where = ["--host", "127.0.0.1", "--webui-port", "0"]
    drill.spawn([spark_class, f"{deploy}.master.Master", *where, "--port", str(port)], "master")
    url = f"spark://127.0.0.1:{port}"
    for number in range(workers):
        limits = ["--cores", "1", "--memory", "2g", "--work-dir", str(drill.folder / f"worker-{number}")]
        drill.spawn([spark_class, f"{deploy}.worker.Worker", *where, *limits, url], f"worker-{number}")
    return url


def interrupt(driver: Driver) -> None:
    """Press Ctrl-C: SIGINT for the whole group of processes in the foreground."""
    os.killpg(driver.process.pid, signal.SIGINT)


def _name(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        return "a process that has just ended"
    return next((word for word in words if word.startswith(("sparkml.", "pyspark."))), Path(words[0]).name if words else "?")
