"""Spark's standalone master, its workers, and the history server: the daemons of pyspark's own jars."""

from __future__ import annotations

import json
import os
import secrets
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from scripts.devcluster.daemon import HOST, Daemon, listens
from scripts.devcluster.hadoop import JAVA

WORKERS, WORKER_CORES, WORKER_MB = 2, 2, 4096


class Standalone:
    """A master with two workers."""

    def __init__(self, folder: Path, home: Path, java: Path, ports: Mapping[str, int], hadoop_conf: Path) -> None:
        self.folder, self.home, self.java, self.ports, self.hadoop_conf = folder, home, java, ports, hadoop_conf
        self.secret_file, self._properties = folder / "spark-secret", folder / "spark.conf"

    @staticmethod
    def purposes() -> list[str]:
        """Return the ports that these daemons need."""
        return ["spark", "spark-http", "history", *(f"worker{at}{kind}" for at in range(WORKERS) for kind in ("", "-http"))]

    @property
    def url(self) -> str:
        return f"spark://{HOST}:{self.ports['spark']}"

    def configure(self) -> None:
        """Make the secret that the master, its workers and their applications share."""
        if not self.secret_file.exists():
            for path in (self.secret_file, self._properties):
                path.touch(mode=0o600)
            self.secret_file.write_text(secrets.token_hex(16))
            self._properties.write_text(
                "spark.authenticate true\nspark.network.crypto.enabled true\n"
                f"spark.authenticate.secret {self.secret_file.read_text()}\n"
            )

    def daemons(self) -> list[Daemon]:
        """Return the master, then the workers."""
        master = "org.apache.spark.deploy.master.Master"
        at = self.ports
        web = ["--webui-port", str(at["spark-http"])]
        known = ["--properties-file", str(self._properties)]
        command = self._command(master, 192, "--host", HOST, "--port", str(at["spark"]), *web, *known)
        found = [self._daemon("spark-master", command, ["spark", "spark-http"])]
        for node in range(WORKERS):
            ports = [f"worker{node}", f"worker{node}-http"]
            where = ["--host", HOST, "--port", str(at[ports[0]]), "--webui-port", str(at[ports[1]])]
            size = ["--cores", str(WORKER_CORES), "--memory", f"{WORKER_MB}m", "--work-dir", f"{self.folder}/{ports[0]}"]
            command = self._command("org.apache.spark.deploy.worker.Worker", 160, *where, *size, *known, self.url)
            found.append(self._daemon(f"spark-worker{node}", command, ports))
        return found

    def history(self, events: str) -> Daemon:
        """Return the history server of a folder of event logs."""
        settings = {"spark.history.fs.logDirectory": events, "spark.history.ui.port": str(self.ports["history"])}
        settings["spark.history.fs.update.interval"] = "2s"
        java = [f"-D{name}={value}" for name, value in settings.items()]
        return self._daemon(
            "history-server", self._command("org.apache.spark.deploy.history.HistoryServer", 192, java=java), ["history"]
        )

    def live_workers(self) -> int:
        """Return how many workers the master counts."""
        with urllib.request.urlopen(f"http://{HOST}:{self.ports['spark-http']}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])

    def _command(self, main: str, heap_mb: int, *arguments: str, java: list[str] | None = None) -> list[str]:
        opens = ["--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.nio=ALL-UNNAMED"]
        opens += ["--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED"]
        classes = f"{self.hadoop_conf}:{self.home}/jars/*"
        return [str(self.java), *JAVA, *opens, f"-Xmx{heap_mb}m", *(java or []), "-cp", classes, main, *arguments]

    def _daemon(self, name: str, command: list[str], ports: list[str]) -> Daemon:
        env = {
            "SPARK_HOME": str(self.home),
            "SPARK_SCALA_VERSION": "2.13",  # Spark's start scripts say so; a worker that does not know it starts no executor
            "SPARK_LOCAL_IP": HOST,
            "HADOOP_CONF_DIR": str(self.hadoop_conf),
            "JAVA_HOME": str(self.java.parents[1]),
            "PYSPARK_PYTHON": sys.executable,
            "PATH": os.environ["PATH"],
        }
        return Daemon(name, command, env, {port: self.ports[port] for port in ports}, lambda: listens(self.ports[ports[0]]))
