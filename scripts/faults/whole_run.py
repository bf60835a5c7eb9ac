"""`Run`: one run of the digits pipeline in a process of its own, and what its output must be in the end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import pyarrow.parquet as pq
from drill import ROOT, FaultError, wait_for
from injection import Seen, Site

from sparkml.lineage.records import RunRecord, all_runs
from sparkml.registry.registry import Registry
from sparkml.storage import Store

Fault = Callable[[Site], Seen]
RUN_SECONDS = 420.0
EXECUTORS = 2  # of conf/env
# small, with everything in it: a shuffle, a forest, a gang of two ranks, metrics, a registration, a table of predictions
_SMALL = {
    "train.candidates.forest.params.numTrees": "20",
    "train.candidates.net.epochs": "12",
    "evaluate.bootstrap.replicates": "20",
    "register.gates": "[]",
}


class Run:
    """One `sparkml run` of the digits pipeline in a process of its own; what it says is kept with its time."""

    def __init__(self, site: Site, words: Sequence[str], prefix: Sequence[str] = (), **environment: str) -> None:
        small = [word for key, value in _SMALL.items() for word in ("--set", f"{key}={value}")]
        command = [
            *prefix,
            sys.executable,
            "-m",
            "sparkml.cli",
            "run",
            "digits",
            *small,
            "--set",
            f"store={site.store.root}",
            *words,
        ]
        env = {**os.environ, "XDG_STATE_HOME": str(site.folder / "state"), "SPARKML_CONF_DIR": str(ROOT / "conf"), **environment}
        env["SPARKML_DEVCLUSTER"] = site.cluster.state()["mark"]
        self.said: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=env, cwd=site.folder, start_new_session=True,
        )  # fmt: skip
        site.processes.append(self.process)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.said.append((time.time(), line.rstrip()))

    def until(self, text: str) -> None:
        """Wait until it says something. Raises `FaultError` if it never does."""
        if not wait_for(lambda: any(text in line for _, line in self.said), RUN_SECONDS, lambda: self.process.poll() is not None):
            raise FaultError(f"the run never said {text!r}: {self.tail()}")

    def finish(self) -> int:
        try:
            code = self.process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise FaultError(f"the run did not end within {RUN_SECONDS:.0f} s: {self.tail()}") from None
        self._reader.join(10)
        return code

    def kill(self) -> None:
        """Kill the driver's process with -9, and wait until all that it had started is gone."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        _, left = psutil.wait_procs(children, timeout=60)
        if left:
            raise FaultError(f"outlived the driver: {[process.name() for process in left]}")

    def first_after(self, at: float, pattern: str) -> tuple[str, float | None]:
        """Return what it said first about a fault, and after how many seconds."""
        for when, line in self.said:
            if when >= at and re.search(pattern, line):
                return re.sub(r"^\[ *[\d.]+ s\] ", "", line), when - at
        return "nothing", None

    def tail(self) -> str:
        return " | ".join(line for _, line in self.said[-6:])


def standalone(site: Site) -> list[str]:
    """Return the words of a run on the cluster's standalone master."""
    words = ["--env", "standalone", "--set", f"spark.master={os.environ['SPARKML_STANDALONE']}"]
    return [*words, "--set", f"spark.conf.spark.authenticate.secret=${{file:{os.environ['SPARKML_SECRET_FILE']}}}"]


def digest(store: Store) -> str:
    """Return a hash of what the last run made: rows of predictions, measurements of both candidates."""
    run = last(store)
    found = hashlib.sha256()
    paths = {stage.stage: f"datasets/digits/{stage.stage.replace('.', '/')}/{stage.fingerprint}" for stage in run.stages}
    rows = []
    for path in store.files(f"{paths['score']}/predictions"):
        if path.endswith(".parquet"):
            with store.open(f"{paths['score']}/predictions/{path}") as file:
                rows += [json.dumps(row, sort_keys=True, default=str) for row in pq.read_table(file).to_pylist()]
    found.update("\n".join(sorted(rows)).encode())
    for candidate in ("forest", "net"):
        measured = store.read_json(f"{paths[f'evaluate.{candidate}']}/evaluation.json")
        found.update(json.dumps(measured["metrics"], sort_keys=True).encode())
    return found.hexdigest()


def last(store: Store) -> RunRecord:
    run = next(all_runs(store), None)
    if run is None:
        raise FaultError("(a) the run left no record")
    return run


@dataclass(frozen=True)
class Reference:
    """A run without a fault: the digest of its output, and its store."""

    digest: str
    store: Store


def fault_free(site: Site, words: Sequence[str], prefix: Sequence[str] = (), **environment: str) -> Reference:
    """Return a run without a fault, made once for each way to run."""
    key = " ".join([site.store.scheme, *words])
    if key not in _references:
        clean = Site(site.folder / "fault-free", site.cluster, f"{site.store.root}-fault-free", site.turn)
        run = Run(clean, words, prefix, **environment)
        if run.finish() != 0:
            raise FaultError(f"the run without a fault failed: {run.tail()}")
        _references[key] = Reference(digest(clean.store), clean.store)
    return _references[key]


_references: dict[str, Reference] = {}


def begun(site: Site, reference: Reference, words: Sequence[str], prefix: Sequence[str] = (), **environment: str) -> Run:
    """Start a run at its training: what comes before was committed by a run without a fault, and is remembered."""
    for stage in ("ingest", "contract", "features"):
        for path in reference.store.files(f"datasets/digits/{stage}"):
            site.store.replace(f"datasets/digits/{stage}/{path}", reference.store.read(f"datasets/digits/{stage}/{path}"))
    site.remember()
    began = time.time()
    run = Run(site, words, prefix, **environment)
    run.until("] train.forest ...")
    if not wait_for(lambda: tasks_run(site, began), RUN_SECONDS, lambda: run.process.poll() is not None):
        raise FaultError(f"no tasks ran in the training of the forest: {run.tail()}")
    return run


def tasks_run(site: Site, since: float) -> bool:
    """Whether both executors, those that write to their logs since then, have begun a task."""
    places = ("worker*/app-*/*/stderr", "nm*/logs/application_*/*/stderr")  # Spark's own cluster, YARN
    logs = [*site.folder.parent.glob(places[0]), *(log for place in places for log in site.cluster.folder.glob(place))]
    return sum(log.stat().st_mtime >= since and b"Running task" in log.read_bytes() for log in logs) >= EXECUTORS


def outcome(
    site: Site,
    run: Run,
    at: float,
    pattern: str,
    reference: Reference,
    again: Sequence[str] = (),
    prefix: Sequence[str] = (),
    **env: str,
) -> Seen:
    """Return what became of a run; started again by its own resume command if it failed."""
    recovered = "yes"
    if run.finish() != 0:
        record = last(site.store)
        more = Run(site, [*again, "--resume", record.run_id], prefix, **env)
        if more.finish() != 0:
            raise FaultError(f"resumed, it failed again: {more.tail()}")
        recovered = "by its resume command"
    user, seconds = run.first_after(at, pattern)
    if digest(site.store) != reference.digest:
        raise FaultError("(c) the output differs from that of a run without a fault")
    record = last(site.store)
    if record.status != "done" or not Registry(site.store).resolve(str(record.result["version"])):
        raise FaultError(f"the run's record says {record.status}")
    retries: dict[str, int] = {}
    for stage in record.stages:
        for service, count in stage.retries.items():
            retries[service] = retries.get(service, 0) + count
    return Seen(user, seconds, recovered, retries, "")
