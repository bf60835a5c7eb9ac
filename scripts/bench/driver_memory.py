"""Whether the driver's memory grows with the data: a pipeline on a cluster of two executors, at 1e5 and at 1e7 rows.

Measured are the driver's Python process and the driver's JVM, not the executors, every 100 ms. A JVM takes as much heap as it may
before it collects, so its RSS says nothing about need. Therefore the heap is fixed and touched from the start (-Xms = -Xmx,
AlwaysPreTouch): what RSS grows by lies outside of it. What is alive inside is measured on its own, by a full collection every few
seconds, from the collector's log. The sum of both peaks is what the driver needs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import PYTHONPATH, ROOT, Bench, installed

HEAP_MB, FEATURES, FILES = 1024, 4, 10
SAMPLE_SECONDS, COLLECT_SECONDS = 0.1, 3.0
MB = 1 << 20

PIPELINE = """\
store: {folder}/store
spark:
  master: local-cluster[2,1,1024]
  conf:
    spark.driver.memory: {heap}m
    spark.driver.extraJavaOptions: -Xms{heap}m -XX:+AlwaysPreTouch -Xlog:gc:file={folder}/gc.log
    spark.executorEnv.PYTHONPATH: {root}
    spark.sql.shuffle.partitions: "8"
    spark.ui.enabled: "false"
source: {{type: parquet, path: {folder}/raw, columns: {{id: bigint, {columns}, target: int}}}}
contract: {{columns: {{target: {{allowed: [0, 1]}}, x0: {{nullable: false}}}}}}
target: {{column: target, task: classification}}
split: {{key: id}}
features:
  stages:
    - {{type: assembler, inputs: ["x*"], output: raw}}
    - {{type: standard_scaler, input: raw, output: features}}
train:
  candidates:
    logistic: {{trainer: mllib, algorithm: LogisticRegression, params: {{maxIter: 5}}}}
evaluate:
  metrics: [accuracy, log_loss, auc]
  bootstrap: {{replicates: 20}}
"""


@dataclass(frozen=True)
class Peak:
    """The driver's largest sizes over a run, in MB, and its seconds. `heap` is the largest live heap after a full collection."""

    python: float
    jvm: float
    heap: float
    seconds: float
    collections: int

    @property
    def rss(self) -> float:
        return self.python + self.jvm

    @property
    def needed(self) -> float:
        return self.rss - HEAP_MB + self.heap


def main() -> int:
    bench = Bench(__doc__.splitlines()[0])
    sizes = (100_000, 1_000_000 if bench.quick else 10_000_000)
    heads = f"{'Python MB':>11}{'JVM MB':>9}{'RSS MB':>9}{'live heap MB':>14}{'full GCs':>10}{'needed MB':>11}"
    print(f"{'rows':>12}{'seconds':>9}{heads}", flush=True)
    peaks = []
    for rows in sizes:
        peaks.append(peak := _pipeline(rows))
        sides = f"{peak.python:>11.0f}{peak.jvm:>9.0f}{peak.rss:>9.0f}{peak.heap:>14.0f}"
        print(f"{rows:>12,}{peak.seconds:>9.1f}{sides}{peak.collections:>10}{peak.needed:>11.0f}", flush=True)
    small, large = peaks
    bench.add(f"driver memory: peak RSS at {sizes[1]:.0e} rows", large.rss, "MB")
    bench.add("driver memory: live heap, more than at 1e5 rows", large.heap - small.heap, "MB")
    bench.add("driver memory: peak RSS, more than at 1e5 rows", large.rss - small.rss, "MB", at_most=100)
    bench.add("driver memory: needed, more than at 1e5 rows", large.needed - small.needed, "MB", at_most=100)
    return bench.finish()


def _pipeline(rows: int) -> Peak:
    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as folder:
        _make(f"{folder}/raw", rows)
        columns = ", ".join(f"x{number}: double" for number in range(FEATURES))
        pipeline = Path(folder, "memory.yaml")
        pipeline.write_text(PIPELINE.format(folder=folder, heap=HEAP_MB, root=ROOT, columns=columns))
        return measure([installed("sparkml"), "run", str(pipeline)], Path(folder, "gc.log"))


def _make(folder: str, rows: int) -> None:
    """Write Parquet whose target is a noisy linear function of its features."""
    random = np.random.default_rng(7)
    os.makedirs(folder)
    for number in range(FILES):
        count = rows // FILES
        x = random.standard_normal((FEATURES, count))
        noisy = np.arange(1, FEATURES + 1) @ x + 2 * random.standard_normal(count) > 0
        table = {
            "id": np.arange(count) + number * count,
            **{f"x{at}": x[at] for at in range(FEATURES)},
            "target": noisy.astype(np.int32),
        }
        pq.write_table(pa.table(table), f"{folder}/part-{number}.parquet", row_group_size=1 << 17)


def measure(arguments: Sequence[str], gc_log: Path) -> Peak:
    """Run a pyspark driver and return its peaks. `gc_log` is where its JVM logs collections.

    Raises
    ------
    RuntimeError
        It failed, or its JVM was never seen or never collected.
    """
    began = collected = time.monotonic()
    python = jvm = 0.0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(arguments, cwd=ROOT, env={**os.environ, **PYTHONPATH}, stdout=output, stderr=subprocess.STDOUT)
        driver, machine = psutil.Process(process.pid), None
        while process.poll() is None:
            machine = machine or _driver_jvm(driver)
            python = max(python, _rss(driver))
            if machine is not None:
                jvm = max(jvm, _rss(machine))
                if time.monotonic() - collected > COLLECT_SECONDS and _collects(gc_log):
                    subprocess.Popen(["jcmd", str(machine.pid), "GC.run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    collected = time.monotonic()
            time.sleep(SAMPLE_SECONDS)
        seconds = time.monotonic() - began
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {process.returncode}\n{text[-3000:]}")
    alive = [int(size) for size in re.findall(r"Pause Full.* \d+M->(\d+)M\(", gc_log.read_text())] if gc_log.exists() else []
    if not jvm or not alive:
        raise RuntimeError(f"no figures: JVM of {jvm:.0f} MB, {len(alive)} full collections\n{text[-3000:]}")
    return Peak(python, jvm, max(alive), seconds, len(alive))


def _driver_jvm(driver: psutil.Process) -> psutil.Process | None:
    """Return the JVM that the driver's Python started, once spark-submit's scripts have become it; executors are its children."""
    try:
        for child in driver.children():
            if "org.apache.spark.deploy.SparkSubmit" in child.cmdline():
                return child
    except psutil.NoSuchProcess:
        pass
    return None


def _collects(gc_log: Path) -> bool:
    """Whether the JVM is up: jcmd knocks by a signal, of which a JVM dies that is not listening yet."""
    return gc_log.exists() and "Pause" in gc_log.read_text()


def _rss(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / MB
    except psutil.NoSuchProcess:
        return 0.0


if __name__ == "__main__":
    sys.exit(main())
