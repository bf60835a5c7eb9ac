"""`Daemon`: one process of the cluster, recorded by pid and start time, so that it is stopped and never a stranger."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sparkml.launch.parent import die_with_parent
from sparkml.storage.owner import started

MARK = "SPARKML_DEVCLUSTER"  # in the environment of every process that the cluster, or a job on it, starts
HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)  # Linux gives connections ports from 32768 on: one of them could be taken before its daemon starts
_STOP_SECONDS = 5.0


class NotReadyError(Exception):
    """A daemon did not come up."""


@dataclass(frozen=True)
class Daemon:
    """How one process is started and how to see that it is ready.

    Attributes
    ----------
    ports
        Its ports by purpose; for `status`.
    ready
        Called again and again until it returns True; whatever it raises means not yet.
    """

    name: str
    command: list[str]
    env: Mapping[str, str]
    ports: Mapping[str, int]
    ready: Callable[[], bool]

    def start(self, folder: Path, mark: str, *, tied: bool = False) -> dict[str, Any]:
        """Start the process with its output in ``logs/NAME.log`` and return its record; `tied`: it ends with this process."""
        log = folder / "logs" / f"{self.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.env, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,  # Ctrl-C in the terminal that started the cluster is not meant for it
                preexec_fn=die_with_parent if tied else None,
            )
        return {"pid": process.pid, "started": started(psutil.Process(process.pid)), "ports": dict(self.ports)}

    def wait(self, record: Mapping[str, Any], folder: Path, deadline: float) -> None:
        """Wait until it is ready. Raises `NotReadyError` with its last lines when it has ended or takes too long."""
        while True:
            dead = alive(record) is None  # first: somebody else may answer at its port
            try:
                if not dead and self.ready():
                    return
            except Exception:
                pass  # not yet
            if dead or time.monotonic() > deadline:
                tail = "\n".join((folder / "logs" / f"{self.name}.log").read_text(errors="replace").splitlines()[-12:])
                raise NotReadyError(f"{self.name} {'has ended' if dead else 'is not ready in time'}:\n{tail}")
            time.sleep(0.2)


def alive(record: Mapping[str, Any] | None) -> psutil.Process | None:
    """Return the recorded process if it, and not another with its pid, still runs; None if nothing was recorded."""
    if record is None:
        return None
    try:
        process = psutil.Process(int(record["pid"]))
        same = started(process) == record["started"]
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def stop(processes: list[psutil.Process]) -> None:
    """End processes: asked first, killed after some seconds."""
    for ask in (psutil.Process.resume, psutil.Process.terminate):  # a stopped one would not hear
        for process in processes:
            try:
                ask(process)
            except psutil.NoSuchProcess:
                continue
    _, left = psutil.wait_procs(processes, _STOP_SECONDS)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, _STOP_SECONDS)


def marked(mark: str) -> list[psutil.Process]:
    """Return all processes with this cluster's mark in their environment: daemons, and what YARN and Spark started for jobs."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                found.append(process)
        except (psutil.Error, OSError):
            continue  # another user's, or gone
    return found


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody listens on now, below those that connections get by themselves."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with closing(socket.socket()) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise NotReadyError(f"fewer than {count} of the ports {_PORTS.start} to {_PORTS.stop} are free")


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a port of the loopback address."""
    with closing(socket.socket()) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0
