"""`Site`: one injection of a fault: a store of its own, the work on it, and what must be true of the store afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from drill import ROOT, FaultError, wait_for
from store_workload import Settings, as_argument, work

from scripts.devcluster.cluster import Cluster
from scripts.devcluster.hadoop import DATANODES, Hadoop
from sparkml.class_archive import java
from sparkml.errors import StorageError
from sparkml.storage import Store
from sparkml.storage.manifest import MANIFEST

_BESIDE = ("/_claims/", "/ingest/_files", "/_dates/")  # small files of the store's own, each written in one step
_GATE_SECONDS = 90.0
_WORK_SECONDS = 420.0


@dataclass(frozen=True)
class Seen:
    """What became of one injection.

    Attributes
    ----------
    user
        What the user saw first: an error, or the warning that something is tried again.
    seconds
        From the injection until then; None: nothing was seen.
    recovered
        Whether it went on by itself, and if not, what made it go on.
    retries
        How often storage was tried again, by service.
    digest
        Of everything that the work made in the end.
    """

    user: str
    seconds: float | None
    recovered: str
    retries: Mapping[str, int]
    digest: str


@dataclass
class Job:
    """A running work."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    told: dict[str, Any] = field(default_factory=dict)

    def finish(self) -> dict[str, Any]:
        """Wait for the end and return what it printed."""
        try:
            self.process.wait(_WORK_SECONDS)
        except subprocess.TimeoutExpired:
            raise FaultError(f"the work did not end within {_WORK_SECONDS:.0f} s") from None
        lines = self.out.read_text().strip().splitlines()
        if not lines:
            raise FaultError(f"exit code {self.process.returncode} without a word: {self.err.read_text()[-600:]}")
        self.told = json.loads(lines[-1])
        return self.told

    def warnings(self) -> list[dict[str, Any]]:
        """Return the lines of its log so far."""
        found = []
        for line in self.err.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]


class Site:
    """A folder and a store of its own; `turn` counts the repeats."""

    def __init__(self, folder: Path, cluster: Cluster, url: str, turn: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.cluster, self.turn = folder, cluster, turn
        self.store = Store(url)
        self.replaced: set[str] = {"out-work"}  # what the work may replace by design
        self.environment: dict[str, str] = {}
        self._remembered: dict[str, bytes] = {}
        self._jobs: list[Job] = []
        self.processes: list[subprocess.Popen[Any]] = []  # leaders of sessions of their own, ended by `close`

    # --- the work ---

    def prepare(self) -> None:
        """Let the work of another content be done, and remember what it committed."""
        work(Settings(self.store.root, str(self.folder), lease="prepare", content=1))
        self.remember()

    def remember(self) -> None:
        """Remember what is committed now: `check` compares with it."""
        self._remembered = self.artifacts()

    def start(self, *, prefix: tuple[str, ...] = (), environment: Mapping[str, str] | None = None, **changed: Any) -> Job:
        """Start the work in a process of its own."""
        settings = Settings(self.store.root, str(self.folder), **changed)
        arguments = [*prefix, sys.executable, str(Path(__file__).with_name("store_workload.py")), as_argument(settings)]
        number = len(self._jobs)
        out, err = self.folder / f"work-{number}.out", self.folder / f"work-{number}.err"
        env = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment, **(environment or {})}
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=env, start_new_session=True
            )
        self.processes.append(process)
        self._jobs.append(Job(process, out, err))
        return self._jobs[-1]

    def at_gate(self, job: Job, gate: str) -> None:
        """Wait until the work is at a gate."""

        def there() -> bool:
            return any(self.folder.glob(f"{job.process.pid}-{gate}.reached"))

        if not wait_for(there, _GATE_SECONDS, lambda: job.process.poll() is not None):
            raise FaultError(f"the work never came to {gate!r}: {job.out.read_text()[-500:]} {job.err.read_text()[-500:]}")

    def open_gate(self, gate: str) -> None:
        """Let every work through a gate."""
        (self.folder / f"{gate}.open").touch()

    def noticed(self, job: Job, seconds: float = 60.0) -> None:
        """Wait until the work has seen the fault, or is over."""
        wait_for(lambda: bool(job.warnings()), seconds, lambda: job.process.poll() is not None)

    def seen(self, job: Job, at: float, clock: float = 0.0) -> Seen:
        """Return what became of the work, started again if it failed; `clock` is how far its clock is off."""
        told = job.finish()
        first = next((line for line in job.warnings() if line["time"] - clock >= at), None)
        if "digest" in told:
            user, when = (first["text"], first["time"]) if first else ("nothing", None)
            return Seen(user, when and when - clock - at, "yes", told["retries"], told["digest"])
        seconds = (first["time"] if first else told["time"]) - clock - at
        again = self.start().finish()
        if "digest" not in again:
            raise FaultError(f"after {told['error']!r} the same command failed again: {again['error']}")
        user = told["error"] + (f" -> {told['hint']}" if told["hint"] else "")
        return Seen(user, seconds, "by the same command again", told["retries"], again["digest"])

    # --- the store ---

    def artifacts(self) -> dict[str, bytes]:
        """Return all committed artifacts with the bytes of their manifests, after comparing every file with its checksum."""
        found = {}
        for path in self.store.files(""):
            if path.endswith(f"/{MANIFEST}") and not path.startswith("_staging/"):
                target = path.removesuffix(f"/{MANIFEST}")
                self.store.verify(target)
                found[target] = self.store.read(path)
        return found

    def check(self) -> None:
        """Raise `FaultError` unless (a) nothing committed was lost or changed and (b) nothing partial is to be seen."""
        try:
            now = self.artifacts()
        except StorageError as error:
            raise FaultError(f"(a) {error.message}") from None
        for target, manifest in self._remembered.items():
            if target not in now or (now[target] != manifest and target not in self.replaced):
                raise FaultError(f"(a) {target} is {'changed' if target in now else 'lost'}")
        listed = {f"{target}/{file.path}" for target in now for file in self.store.manifest(target).files}
        for path in self.store.files(""):
            room = path.partition("/")[0]
            shown = room in ("datasets", "models") or room.startswith("out-")
            kept_beside = path.endswith((f"/{MANIFEST}", "/aliases.json")) or any(part in path for part in _BESIDE)
            if shown and path not in listed and not kept_beside:
                raise FaultError(f"(b) {path} belongs to no artifact")

    def close(self) -> None:
        """End whatever is left, and remove the store."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.healthy()
        for name in self.store.list():
            self.store.remove(name)

    # --- HDFS ---

    @property
    def hadoop(self) -> Hadoop:
        return Hadoop(self.cluster.folder, self.cluster.jars / "daemons", java(), self.cluster.state()["ports"])

    def healthy(self) -> None:
        """Start the daemons that are dead, and wait until HDFS has left safe mode and counts all DataNodes."""
        for row in self.cluster.status():
            if not row["resident_mb"]:
                self.cluster.start(row["daemon"])
        if "hdfs" in self.cluster.state()["services"]:

            def whole() -> bool:
                with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                    return self.hadoop.live_datanodes() == DATANODES
                return False

            if not wait_for(whole, 60):
                raise FaultError("HDFS did not come back to health")

    def kill(self, *daemons: str) -> None:
        """Kill daemons with -9, and wait until they are gone."""
        for name in daemons:
            self.cluster.signal(name, signal.SIGKILL)
        gone = {row["pid"] for row in self.cluster.status() if row["daemon"] in daemons}
        wait_for(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in gone), 10)

    def blocks(self, kind: str = "finalized") -> list[Path]:
        """Return the files of the blocks on all DataNodes, oldest first; those being written are of the kind ``rbw``."""
        found = self.cluster.folder.glob(f"dn*/current/BP-*/current/{kind}/**/blk_*")
        return sorted((path for path in found if path.suffix != ".meta"), key=lambda path: path.stat().st_mtime_ns)

    def datanode(self, block: Path) -> str:
        """Return the name of the DataNode that has this file."""
        return f"datanode{block.relative_to(self.cluster.folder).parts[0].removeprefix('dn')}"
