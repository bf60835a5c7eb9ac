"""HDFS and YARN: configuration files and daemons."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from scripts.devcluster.daemon import HOST, Daemon, listens

DATANODES, NODEMANAGERS, REPLICATION = 3, 2, 2
NODE_MB, NODE_CORES = 6144, 4
URGENT = "urgent"  # a queue of YARN with a right to most of it: what runs in the default one is preempted for it
# small, and quick to start: these JVMs live for minutes and do little
JAVA = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k", "-XX:ReservedCodeCacheSize=64m", "-XX:CICompilerCount=1"]
_OPEN = ["--add-opens=java.base/java.lang=ALL-UNNAMED"]


def whole(report: str) -> bool:
    """Whether a report of fsck says that every file is there and has all of its replicas."""
    return "is HEALTHY" in report and bool(re.search(r"Under-replicated blocks:\s+0\b", report))


class Hadoop:
    """The daemons' files and commands in one folder. `ports` maps purpose to port; see `purposes`."""

    def __init__(self, folder: Path, jars: Path, java: Path, ports: Mapping[str, int]) -> None:
        self.folder, self.jars, self.java, self.ports = folder, jars, java, ports
        self.conf = folder / "hadoop-conf"

    @staticmethod
    def purposes() -> list[str]:
        """Return the ports that HDFS and YARN need."""
        names = ["nn", "nn-http", "rm", "rm-scheduler", "rm-tracker", "rm-admin", "rm-http"]
        names += [f"dn{at}{kind}" for at in range(DATANODES) for kind in ("", "-http", "-ipc")]
        return names + [f"nm{at}{kind}" for at in range(NODEMANAGERS) for kind in ("", "-localizer", "-http")]

    @property
    def url(self) -> str:
        return f"hdfs://{HOST}:{self.ports['nn']}"

    def configure(self, mark_variable: str) -> None:
        """Write the clients' configuration, and one more for each DataNode and NodeManager."""
        for page in ("hdfs", "datanode"):  # the web pages are not in Maven's jars; without a folder for them no daemon starts
            (self.conf / "webapps" / page).mkdir(parents=True, exist_ok=True)
        self._site(self.conf, "core", self._core())
        self._site(self.conf, "hdfs", self._hdfs())
        self._site(self.conf, "yarn", self._yarn(mark_variable))
        queue = "yarn.scheduler.capacity.root"
        capacity = {f"{queue}.queues": f"default,{URGENT}"}
        for name, share in (("default", 20), (URGENT, 80)):  # either may take everything while the other asks for nothing
            mine = {"capacity": share, "maximum-capacity": 100, "user-limit-factor": 10}
            capacity |= {f"{queue}.{name}.{key}": str(value) for key, value in mine.items()}
        capacity["yarn.scheduler.capacity.maximum-am-resource-percent"] = "0.9"
        # otherwise only memory counts, and a two-core container is given one
        by = "org.apache.hadoop.yarn.util.resource.DominantResourceCalculator"
        capacity["yarn.scheduler.capacity.resource-calculator"] = by
        self._file(self.conf, "capacity-scheduler.xml", capacity)
        for at in range(DATANODES):
            folder = f"file://{self.folder}/dn{at}"
            own = {"dfs.datanode.data.dir": folder} | {
                f"dfs.datanode.{kind}address": f"{HOST}:{self.ports[f'dn{at}{name}']}"
                for kind, name in (("", ""), ("http.", "-http"), ("ipc.", "-ipc"))
            }
            self._copy(f"dn{at}", "hdfs", self._hdfs() | own)
        for at in range(NODEMANAGERS):
            own = {
                "yarn.nodemanager.address": f"{HOST}:{self.ports[f'nm{at}']}",
                "yarn.nodemanager.localizer.address": f"{HOST}:{self.ports[f'nm{at}-localizer']}",
                "yarn.nodemanager.webapp.address": f"{HOST}:{self.ports[f'nm{at}-http']}",
                "yarn.nodemanager.local-dirs": f"{self.folder}/nm{at}/local",
                "yarn.nodemanager.log-dirs": f"{self.folder}/nm{at}/logs",
            }
            self._copy(f"nm{at}", "yarn", self._yarn(mark_variable) | own)

    def _core(self) -> dict[str, str]:
        return {"fs.defaultFS": self.url, "hadoop.tmp.dir": f"{self.folder}/tmp", "ipc.client.connect.max.retries": "2"}

    def _hdfs(self) -> dict[str, str]:
        return {
            "dfs.replication": str(REPLICATION),
            "dfs.namenode.name.dir": f"file://{self.folder}/nn",
            "dfs.namenode.rpc-address": f"{HOST}:{self.ports['nn']}",
            "dfs.namenode.http-address": f"{HOST}:{self.ports['nn-http']}",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.namenode.safemode.extension": "1000",
            "dfs.namenode.handler.count": "4",
            "dfs.heartbeat.interval": "1",
            # a DataNode is dead after 2 x this + 10 heartbeats: 20 s here, 10 minutes by default
            "dfs.namenode.heartbeat.recheck-interval": "5000",
            "dfs.namenode.reconstruction.pending.timeout-sec": "10",
            "dfs.client.socket-timeout": "10000",
            "dfs.datanode.handler.count": "2",
            "dfs.permissions.enabled": "false",
            "dfs.client.block.write.replace-datanode-on-failure.best-effort": "true",
        }

    def _yarn(self, mark_variable: str) -> dict[str, str]:
        rm = {"address": "rm", "scheduler.address": "rm-scheduler", "resource-tracker.address": "rm-tracker"}
        rm |= {"admin.address": "rm-admin", "webapp.address": "rm-http"}
        return {f"yarn.resourcemanager.{name}": f"{HOST}:{self.ports[port]}" for name, port in rm.items()} | {
            "yarn.resourcemanager.hostname": HOST,
            "yarn.resourcemanager.scheduler.class": (
                "org.apache.hadoop.yarn.server.resourcemanager.scheduler.capacity.CapacityScheduler"
            ),
            "yarn.nodemanager.bind-host": HOST,
            "yarn.nodemanager.resource.memory-mb": str(NODE_MB),
            "yarn.nodemanager.resource.cpu-vcores": str(NODE_CORES),
            "yarn.scheduler.minimum-allocation-mb": "128",
            "yarn.scheduler.maximum-allocation-mb": str(NODE_MB),
            "yarn.scheduler.maximum-allocation-vcores": str(NODE_CORES),
            "yarn.nodemanager.vmem-check-enabled": "false",
            "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": "99.5",
            "yarn.nodemanager.env-whitelist": f"JAVA_HOME,HADOOP_CONF_DIR,{mark_variable}",
            "yarn.nodemanager.delete.debug-delay-sec": "600",  # a container's logs can be read for a while
            "yarn.nm.liveness-monitor.expiry-interval-ms": "20000",
            "yarn.nodemanager.heartbeat.interval-ms": "500",
            "yarn.resourcemanager.nodemanagers.heartbeat-interval-ms": "500",
            "yarn.resourcemanager.scheduler.monitor.enable": "true",  # preemption, within seconds: by default it takes its time
            "yarn.resourcemanager.monitor.capacity.preemption.monitoring_interval": "500",
            "yarn.resourcemanager.monitor.capacity.preemption.max_wait_before_kill": "2000",
            "yarn.resourcemanager.monitor.capacity.preemption.total_preemption_per_round": "1.0",
            "yarn.resourcemanager.monitor.capacity.preemption.natural_termination_factor": "1.0",
        }

    def _copy(self, name: str, kind: str, values: Mapping[str, str]) -> None:
        target = self.folder / "conf" / name
        shutil.copytree(self.conf, target, dirs_exist_ok=True)
        self._site(target, kind, values)

    def _site(self, folder: Path, kind: str, values: Mapping[str, str]) -> None:
        self._file(folder, f"{kind}-site.xml", values)

    @staticmethod
    def _file(folder: Path, name: str, values: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = [f"<property><name>{key}</name><value>{escape(value)}</value></property>\n" for key, value in values.items()]
        (folder / name).write_text(f'<?xml version="1.0"?>\n<configuration>\n{"".join(rows)}</configuration>\n')
        (folder / "log4j.properties").write_text(
            "log4j.rootLogger=WARN,out\nlog4j.appender.out=org.apache.log4j.ConsoleAppender\n"
            "log4j.appender.out.layout=org.apache.log4j.PatternLayout\n"
            "log4j.appender.out.layout.ConversionPattern=%d %p %c{1}: %m%n\n"
        )

    def _command(self, conf: Path, main: str, heap_mb: int, *arguments: str) -> list[str]:
        classes = f"{conf}:{self.jars}/*"
        home = f"-Dhadoop.home.dir={self.folder}"  # there is no installation, and it looks for one
        return [str(self.java), *JAVA, *_OPEN, f"-Xmx{heap_mb}m", home, "-cp", classes, main, *arguments]

    def format(self) -> None:
        """Make the NameNode's folder unless it is there. Raises `CalledProcessError` with Hadoop's output."""
        if not (self.folder / "nn" / "current").exists():
            main = "org.apache.hadoop.hdfs.server.namenode.NameNode"
            command = self._command(self.conf, main, 128, "-format", "-nonInteractive")
            subprocess.run(command, check=True, capture_output=True, text=True, cwd=self.folder)

    def hdfs(self) -> list[Daemon]:
        """Return the NameNode, then the DataNodes."""
        name = "org.apache.hadoop.hdfs.server"
        nodes = [self._daemon("namenode", self.conf, f"{name}.namenode.NameNode", 192, ["nn", "nn-http"])]
        for node in range(DATANODES):
            ports = [f"dn{node}", f"dn{node}-http", f"dn{node}-ipc"]
            conf, main = self.folder / "conf" / f"dn{node}", f"{name}.datanode.DataNode"
            nodes.append(self._daemon(f"datanode{node}", conf, main, 128, ports))
        return nodes

    def yarn(self) -> list[Daemon]:
        """Return the ResourceManager, then the NodeManagers."""
        name = "org.apache.hadoop.yarn.server"
        ports = ["rm", "rm-scheduler", "rm-tracker", "rm-admin", "rm-http"]
        main = f"{name}.resourcemanager.ResourceManager"
        nodes = [self._daemon("resourcemanager", self.conf, main, 256, ports)]
        for node in range(NODEMANAGERS):
            ports = [f"nm{node}", f"nm{node}-localizer", f"nm{node}-http"]
            conf, main = self.folder / "conf" / f"nm{node}", f"{name}.nodemanager.NodeManager"
            nodes.append(self._daemon(f"nodemanager{node}", conf, main, 160, ports))
        return nodes

    def _daemon(self, name: str, conf: Path, main: str, heap_mb: int, ports: list[str]) -> Daemon:
        first = self.ports[ports[0]]
        env = {"HADOOP_CONF_DIR": str(conf), "JAVA_HOME": str(self.java.parents[1])}
        return Daemon(
            name, self._command(conf, main, heap_mb), env, {port: self.ports[port] for port in ports}, lambda: listens(first)
        )

    def live_datanodes(self) -> int:
        """Return how many DataNodes the NameNode counts, 0 while it is in safe mode."""
        state = self._bean("Hadoop:service=NameNode,name=FSNamesystemState")
        return 0 if state["FSState"] != "Operational" else int(state["NumLiveDataNodes"])

    def _bean(self, name: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{HOST}:{self.ports['nn-http']}/jmx?qry={name}", timeout=5) as answer:
            bean: dict[str, Any] = json.load(answer)["beans"][0]
        return bean

    def fsck(self, path: str) -> str:
        """Return what ``hdfs fsck`` prints, which asks the same page of the NameNode."""
        asked = urllib.parse.urlencode({"path": path, "ugi": "root"})
        with urllib.request.urlopen(f"http://{HOST}:{self.ports['nn-http']}/fsck?{asked}", timeout=60) as answer:
            return str(answer.read(), "utf-8").strip()

    def live_nodemanagers(self) -> int:
        """Return how many NodeManagers the ResourceManager counts."""
        with urllib.request.urlopen(f"http://{HOST}:{self.ports['rm-http']}/ws/v1/cluster/metrics", timeout=5) as answer:
            return int(json.load(answer)["clusterMetrics"]["activeNodes"])
