"""`Cluster`: brings the daemons up and down, and knows which of them live."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from scripts.devcluster import daemon
from scripts.devcluster.daemon import MARK, Daemon, NotReadyError
from scripts.devcluster.hadoop import DATANODES, NODEMANAGERS, Hadoop
from scripts.devcluster.objects import BUCKET, ObjectStore
from scripts.devcluster.spark import WORKERS, Standalone
from sparkml.class_archive import java

SERVICES = ("hdfs", "yarn", "standalone", "history", "s3")
ROOT = Path(__file__).resolve().parents[2]
_HERE = Path(__file__).parent
_READY_SECONDS = 90.0


class Cluster:
    """All that a cluster is lies in one folder: configuration, data, logs, and ``state.json`` with what was started.

    Parameters
    ----------
    jars
        Where the jars are kept when `down` removes everything else; clusters can share them.
    tied
        Daemons end when this process does, however it ends: for tests, of which nothing shall be left.
    """

    def __init__(self, folder: Path, jars: Path = ROOT / ".cluster" / "jars", *, tied: bool = False) -> None:
        self.folder, self.jars, self.tied = folder.resolve(), jars.resolve(), tied

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.json"

    def state(self) -> dict[str, Any]:
        """Return what was started; empty when nothing was."""
        return json.loads(self._state_file.read_text()) if self._state_file.exists() else {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # --- what it consists of ---

    def _parts(self, ports: dict[str, int]) -> tuple[Hadoop, Standalone, ObjectStore]:
        from pyspark.find_spark_home import _find_spark_home

        hadoop = Hadoop(self.folder, self.jars / "daemons", java(), ports)
        home = Path(_find_spark_home())  # type: ignore[no-untyped-call]
        return hadoop, Standalone(self.folder, home, java(), ports, hadoop.conf), ObjectStore(ports)

    def daemons(self, services: Sequence[str], ports: dict[str, int]) -> list[Daemon]:
        """Return the daemons of some services, in the order in which they start."""
        hadoop, spark, objects = self._parts(ports)
        found: list[Daemon] = []
        if "hdfs" in services:
            found += hadoop.hdfs()
        if "yarn" in services:
            found += hadoop.yarn()
        if "standalone" in services:
            found += spark.daemons()
        if "history" in services:
            found.append(spark.history(f"{hadoop.url}/spark-events"))
        if "s3" in services:
            found.append(objects.daemon())
        return found

    def environment(self) -> dict[str, str]:
        """Return the variables by which clients find the cluster: Hadoop's, AWS's, and ours."""
        state = self.state()
        hadoop, spark, objects = self._parts(state["ports"])
        found = {"HADOOP_CONF_DIR": str(hadoop.conf), "SPARKML_HDFS": hadoop.url, "JAVA_HOME": str(java().parents[1])}
        found |= {"SPARKML_STANDALONE": spark.url, "SPARKML_SECRET_FILE": str(spark.secret_file), "SPARK_LOCAL_IP": daemon.HOST}
        if "s3" in state["services"]:
            found |= {**objects.environment(), "SPARKML_S3": f"s3a://{BUCKET}"}
        return found

    # --- up and down ---

    def install(self) -> None:
        """Get the jars by Maven, once. Raises `NotReadyError` if that fails."""
        pom, target = _HERE / "pom.xml", self.jars / "daemons"
        stamp = target / "pom.xml"
        self.jars.mkdir(parents=True, exist_ok=True)
        with (self.jars / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # other clusters share the jars
            if stamp.exists() and stamp.read_text() == pom.read_text():
                return
            if shutil.which("mvn") is None:
                raise NotReadyError("mvn is missing. Install it with: apt-get install maven")
            fresh = self.jars / "fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            command = ["mvn", "--quiet", "--batch-mode", "-f", str(pom), "dependency:copy-dependencies"]
            done = subprocess.run([*command, f"-DoutputDirectory={fresh}"], capture_output=True, text=True, check=False)
            if done.returncode:
                errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
                raise NotReadyError(f"Maven could not get the jars: {(errors or ['it says nothing'])[0]}")
            (fresh / "pom.xml").write_text(pom.read_text())
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)

    def up(self, services: Sequence[str] = SERVICES) -> dict[str, float]:
        """Start the services that do not run yet; return the seconds that each phase took.

        Raises
        ------
        NotReadyError
            A daemon did not come up; those that did still run.
        """
        took: dict[str, float] = {}
        with self._locked():
            began = time.monotonic()
            if not self.state() and (strange := {item.name for item in self.folder.iterdir()} - {"jars", "lock"}):
                raise NotReadyError(f"{self.folder} is no cluster's folder: it holds {min(strange)}")
            self.install()
            took["jars"] = time.monotonic() - began
            began = time.monotonic()
            state = self.state() or self._fresh_state()
            wanted = [name for name in SERVICES if name in {*services, *state["services"]}]
            if "hdfs" not in wanted and {"history"} & {*wanted}:
                raise NotReadyError("the history server reads from HDFS: start hdfs, too")
            state["services"] = wanted
            self._save(state)  # before anything is started: `down` finds it all by the mark
            hadoop, spark, _ = self._parts(state["ports"])
            hadoop.configure(MARK)
            spark.configure()
            if "hdfs" in wanted:
                hadoop.format()
            waiting = []
            for each in self.daemons(wanted, state["ports"]):
                if each.name == "history-server":  # reads a folder that must be there
                    self._wait(waiting)
                    self._until(lambda: hadoop.live_datanodes() == DATANODES, "all DataNodes have joined")
                    self._make_events_folder(hadoop)
                if daemon.alive(state["daemons"].get(each.name)) is None:
                    state["daemons"][each.name] = each.start(self.folder, state["mark"], tied=self.tied)
                    self._save(state)
                waiting.append((each, state["daemons"][each.name]))
            self._wait(waiting)
            if "hdfs" in wanted:
                self._until(lambda: hadoop.live_datanodes() == DATANODES, "all DataNodes have joined")
            if "yarn" in wanted:
                self._until(lambda: hadoop.live_nodemanagers() == NODEMANAGERS, "all NodeManagers have joined")
            if "standalone" in wanted:
                self._until(lambda: spark.live_workers() == WORKERS, "all workers have joined")
            took["daemons"] = time.monotonic() - began
        return took

    def _fresh_state(self) -> dict[str, Any]:
        purposes = [*Hadoop.purposes(), *Standalone.purposes(), *ObjectStore.purposes()]
        ports = dict(zip(purposes, daemon.free_ports(len(purposes)), strict=True))
        return {"mark": uuid.uuid4().hex, "ports": ports, "daemons": {}, "services": []}

    def _save(self, state: dict[str, Any]) -> None:
        scratch = self._state_file.with_suffix(".tmp")
        scratch.write_text(json.dumps(state, indent=1))
        scratch.replace(self._state_file)

    def _wait(self, waiting: list[tuple[Daemon, dict[str, Any]]]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while waiting:
            each, record = waiting.pop(0)
            each.wait(record, self.folder, deadline)

    @staticmethod
    def _until(done: Any, what: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                if done():
                    return
            if time.monotonic() > deadline:
                raise NotReadyError(f"waited {_READY_SECONDS:.0f} s until {what}")
            time.sleep(0.2)

    @staticmethod
    def _make_events_folder(hadoop: Hadoop) -> None:
        import hdfs_native

        hdfs_native.Client(hadoop.url).mkdirs("/spark-events", create_parent=True)

    def start(self, name: str) -> None:
        """Start one daemon again, after `signal`, with the ports and the data that it had."""
        with self._locked():
            state = self.state()
            each = next(each for each in self.daemons(state["services"], state["ports"]) if each.name == name)
            state["daemons"][name] = each.start(self.folder, state["mark"], tied=self.tied)
            self._save(state)
            self._wait([(each, state["daemons"][name])])

    def fsck(self, path: str) -> str:
        """Return what the NameNode says of the files below a path. Raises `NotReadyError` when there is no HDFS."""
        state = self.state()
        if "hdfs" not in state.get("services", ()):
            raise NotReadyError("there is no HDFS: scripts/cluster up hdfs")
        return self._parts(state["ports"])[0].fsck(path)

    def signal(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one daemon. Raises `KeyError` when it was never started, `psutil.NoSuchProcess` when it has ended."""
        process = daemon.alive(self.state()["daemons"][name])
        if process is None:
            raise psutil.NoSuchProcess(self.state()["daemons"][name]["pid"], name)
        process.send_signal(number)

    def down(self) -> int:
        """Stop all daemons and what jobs left behind, remove all data; return how many processes were stopped."""
        with self._locked():
            if not (state := self.state()):
                return 0
            stopped: set[int] = set()
            while found := daemon.marked(state["mark"]):  # again: one that ended last may have started another
                daemon.stop(found)
                stopped |= {process.pid for process in found}
            for item in self.folder.iterdir():
                if item not in (self.jars, self.folder / "lock", self._state_file):
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
            self._state_file.unlink()  # last: until here `down` can be called again
        return len(stopped)

    def status(self) -> list[dict[str, Any]]:
        """Return each daemon with its pid, ports and resident MiB; MiB is 0 for one that is dead."""
        rows = []
        for name, record in self.state().get("daemons", {}).items():
            process = daemon.alive(record)
            resident = 0.0 if process is None else process.memory_info().rss / (1 << 20)
            rows.append({"daemon": name, "pid": record["pid"], "resident_mb": resident, "ports": record["ports"]})
        return rows
