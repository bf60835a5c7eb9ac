"""Faults of the network between a driver and its executors: they are on two hosts, and the cable between them is pulled."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyspark
from drill import SkipError
from injection import Seen, Site
from whole_run import Fault, begun, fault_free, outcome

_CUT_SECONDS, _LONG_CUT_SECONDS = 20.0, 45.0
_PORT = 21777  # of the master, on an address of its own


@contextlib.contextmanager
def other_host(site: Site) -> Iterator[tuple[str, str, str, str]]:
    """A network namespace joined to this one by a cable; yields its name, its address, ours, and our end of the cable.

    Raises
    ------
    SkipError
        This machine does not let us make one.
    """
    name, ours, theirs = f"sparkml{os.getpid() % 10000}", f"sm{os.getpid() % 10000}a", f"sm{os.getpid() % 10000}b"
    net = f"10.{200 + os.getpid() % 50}.77"  # the same in every repeat: one run without a fault for all
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


@contextlib.contextmanager
def standalone(site: Site, host: str) -> Iterator[str]:
    """A Spark master and two workers of one core each, bound to one address; yields the master's URL."""
    spark_class = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    env = {
        **os.environ,
        "SPARK_LOCAL_IP": host,
        "SPARKML_DEVCLUSTER": site.cluster.state()["mark"],
        "PYSPARK_PYTHON": sys.executable,
    }
    daemons: list[subprocess.Popen[bytes]] = []

    def start(main: str, *words: str) -> None:
        command = [spark_class, f"org.apache.spark.deploy.{main}", "--host", host, "--webui-port", "0", *words]
        with (site.folder / f"daemon-{len(daemons)}.log").open("wb") as log:
            daemons.append(subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=site.folder, start_new_session=True))

    url = f"spark://{host}:{_PORT}"
    try:
        start("master.Master", "--port", str(_PORT))
        for number in range(2):
            size = ["--cores", "1", "--memory", "2g", "--work-dir", str(site.folder / f"worker-{number}")]
            start("worker.Worker", *size, url)
        yield url
    finally:
        for daemon in daemons:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)


def cut(seconds: float, **conf: str) -> Fault:
    """Pull the cable between the driver, alone in a network namespace, and master and workers here; put it back after a while."""

    def fault(site: Site) -> Seen:
        local = Site(site.folder / "local", site.cluster, f"file://{site.folder}/store", site.turn)  # reached without a network
        with other_host(site) as (namespace, address, ours, cable), standalone(site, ours) as master:
            plain = ("spark.authenticate", "spark.network.crypto.enabled", "spark.io.encryption.enabled")
            settings = dict.fromkeys(plain, "false") | {f"spark.{name.replace('_', '.')}": value for name, value in conf.items()}
            settings |= {"spark.driver.host": address, "spark.driver.bindAddress": address}
            words = ["--env", "standalone", "--set", f"spark.master={master}"]
            words += [word for key, value in settings.items() for word in ("--set", f"spark.conf.{key}={value}")]
            prefix = ["ip", "netns", "exec", namespace]
            reference = fault_free(local, words, prefix, SPARK_LOCAL_IP=address)
            run = begun(local, reference, words, prefix, SPARK_LOCAL_IP=address)
            run.until(("train.forest ...", "train.net epoch 1/", "score ...")[site.turn % 3])
            at = time.time()
            subprocess.run(["ip", "link", "set", cable, "down"], check=True)
            time.sleep(seconds)
            subprocess.run(["ip", "link", "set", cable, "up"], check=True)
            seen = outcome(local, run, at, r"lost|stall|starts again|failed", reference, words, prefix, SPARK_LOCAL_IP=address)
            local.check()
            return seen

    return fault


NETWORK: dict[str, tuple[str, Fault]] = {
    "network-cut": (f"the network between driver and executors is cut for {_CUT_SECONDS:.0f} s", cut(_CUT_SECONDS)),
    "network-cut-long": (
        f"the same for {_LONG_CUT_SECONDS:.0f} s, longer than `spark.network.timeout` (20 s there)",
        cut(_LONG_CUT_SECONDS, network_timeout="20s", network_timeoutInterval="5s", executor_heartbeatInterval="5s"),
    ),
}
