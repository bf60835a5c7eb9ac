"""Faults of whole runs of a pipeline: its executors, driver, ranks and network; `cluster.py` runs them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from drill import RANK, ROOT, FaultError, SkipError, wait_for
from injection import Seen, Site

from sparkml.lineage.records import RunRecord, all_runs
from sparkml.registry.registry import Registry
from sparkml.storage import Store

Fault = Callable[[Site], Seen]
STAGES = ("ingest", "contract", "features", "train.forest", "train.net", "evaluate.net", "register", "score")
_RUN_SECONDS = 420.0
_STOPPED_SECONDS = 60.0
_CUT_SECONDS = 20.0
_EXECUTOR = "CoarseGrainedExecutorBackend"
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
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.said.append((time.time(), line.rstrip()))

    def until(self, text: str) -> None:
        """Wait until it says something. Raises `FaultError` if it never does."""
        if not wait_for(
            lambda: any(text in line for _, line in self.said), _RUN_SECONDS, lambda: self.process.poll() is not None
        ):
            raise FaultError(f"the run never said {text!r}: {self.tail()}")

    def finish(self) -> int:
        try:
            code = self.process.wait(_RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise FaultError(f"the run did not end within {_RUN_SECONDS:.0f} s: {self.tail()}") from None
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
    """Return a hash of what the last run made: rows of predictions, measurements of both candidates, weights of the net."""
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
    return next(all_runs(store))


def fault_free(site: Site, words: Sequence[str], prefix: Sequence[str] = (), **environment: str) -> str:
    """Return the digest of a run without a fault, made once for each way to run."""
    key = " ".join(word for word in words if not word.startswith("store="))
    if key not in _references:
        clean = Site(site.folder / "fault-free", site.cluster, f"{site.store.root}-fault-free", site.turn)
        run = Run(clean, words, prefix, **environment)
        if run.finish() != 0:
            raise FaultError(f"the run without a fault failed: {run.tail()}")
        _references[key] = digest(clean.store)
        clean.close()
    return _references[key]


_references: dict[str, str] = {}


def begun(site: Site, words: Sequence[str], prefix: Sequence[str] = (), **environment: str) -> Run:
    """Start a run, and remember what it has committed when it comes to its features."""
    run = Run(site, words, prefix, **environment)
    run.until("features ...")
    site.remember()
    return run


def outcome(
    site: Site,
    run: Run,
    at: float,
    pattern: str,
    reference: str,
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
    if digest(site.store) != reference:
        raise FaultError("(c) the output differs from that of a run without a fault")
    record = last(site.store)
    if record.status != "done" or not Registry(site.store).resolve(str(record.result["version"])):
        raise FaultError(f"the run's record says {record.status}")
    retries: dict[str, int] = {}
    for stage in record.stages:
        for service, count in stage.retries.items():
            retries[service] = retries.get(service, 0) + count
    return Seen(user, seconds, recovered, retries, "")


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
        run = begun(site, words)
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
    run = begun(site, words)
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
    deadline = time.monotonic() + _RUN_SECONDS
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


# --- the network ---


@contextlib.contextmanager
def other_host(site: Site) -> Iterator[tuple[str, str, str, str]]:
    """A network namespace joined to this one by a cable; yields its name, its address, ours, and our end of the cable.

    Raises
    ------
    SkipError
        This machine does not let us make one.
    """
    name, ours, theirs = f"sparkml{os.getpid() % 10000}", f"sm{os.getpid() % 10000}a", f"sm{os.getpid() % 10000}b"
    net = f"10.{200 + os.getpid() % 50}.{site.turn % 250}"
    commands = [
        f"ip netns add {name}",
        f"ip link add {ours} type veth peer name {theirs}",
        f"ip link set {theirs} netns {name}",
        f"ip addr add {net}.1/24 dev {ours}",
        f"ip link set {ours} up",
        f"ip -n {name} addr add {net}.2/24 dev {theirs}",
        f"ip -n {name} link set {theirs} up",
        f"ip -n {name} link set lo up",
    ]
    try:
        for command in commands:
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
            if done.returncode:
                raise SkipError(f"{command}: {done.stderr.strip()}")
        yield name, f"{net}.2", f"{net}.1", ours
    finally:
        subprocess.run(["ip", "link", "del", ours], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def network_cut(site: Site) -> Seen:
    """The driver is on another host (a network namespace), master and workers on this one; the cable is pulled, and put back."""
    import pyspark

    spark_class = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    local = Site(site.folder / "local", site.cluster, f"file://{site.folder}/store", site.turn)  # reached without a network
    daemons: list[subprocess.Popen[bytes]] = []
    with other_host(local) as (namespace, address, ours, cable):

        def spawn(*words: str) -> None:
            with (site.folder / f"{len(daemons)}.log").open("wb") as log:
                env = {**os.environ, "SPARK_LOCAL_IP": ours, "SPARKML_DEVCLUSTER": site.cluster.state()["mark"]}
                env["PYSPARK_PYTHON"] = sys.executable
                daemons.append(
                    subprocess.Popen(
                        [spark_class, *words], stdout=log, stderr=log, env=env, cwd=site.folder, start_new_session=True
                    )
                )

        deploy, where = "org.apache.spark.deploy", ["--host", ours, "--webui-port", "0"]
        spawn(f"{deploy}.master.Master", *where, "--port", "21777")
        for number in range(2):
            work = str(site.folder / f"worker-{number}")
            spawn(
                f"{deploy}.worker.Worker", *where, "--cores", "1", "--memory", "2g", "--work-dir", work, f"spark://{ours}:21777"
            )
        try:
            plain = ["spark.authenticate", "spark.network.crypto.enabled", "spark.io.encryption.enabled"]
            words = ["--env", "standalone", "--set", f"spark.master=spark://{ours}:21777"]
            words += [word for key in plain for word in ("--set", f"spark.conf.{key}=false")]
            words += [
                "--set",
                f"spark.conf.spark.driver.host={address}",
                "--set",
                f"spark.conf.spark.driver.bindAddress={address}",
            ]
            prefix = ["ip", "netns", "exec", namespace]
            reference = fault_free(local, words, prefix, SPARK_LOCAL_IP=address)
            run = begun(local, words, prefix, SPARK_LOCAL_IP=address)
            run.until(("train.forest ...", "train.net epoch 1/", "score ...")[site.turn % 3])
            at = time.time()
            subprocess.run(["ip", "link", "set", cable, "down"], check=True)
            time.sleep(_CUT_SECONDS)
            subprocess.run(["ip", "link", "set", cable, "up"], check=True)
            pattern = r"lost|stall|starts again|failed"
            seen = outcome(local, run, at, pattern, reference, words, prefix, SPARK_LOCAL_IP=address)
            local.check()
            return seen
        finally:
            for daemon in daemons:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(daemon.pid, signal.SIGKILL)


STANDALONE: dict[str, tuple[str, Fault]] = {
    "executor-plain": ("an executor is killed in a plain stage (training of a forest)", executor_killed("train.forest ...")),
    "executor-write": ("an executor is killed while Spark writes an artifact", executor_killed("score ...", being_written)),
    "executor-gang": ("an executor is killed in a barrier stage (training of a net)", executor_killed("train.net epoch 2/")),
    "rank-stopped": ("a rank is stopped for 60 s (stall limit 180 s)", rank_stopped),
    "speculation": ("second attempts of nearly every task, one executor slow", speculation),
}
LOCAL: dict[str, tuple[str, Fault]] = {
    "driver-killed": ("the driver is killed in every stage, one after the other", driver_killed_in_every_stage),
    "network-cut": (f"the network between driver and executors is cut for {_CUT_SECONDS:.0f} s", network_cut),
}
