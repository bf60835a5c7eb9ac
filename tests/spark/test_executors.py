"""A real executor is killed: what is told of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import time, psutil
from sparkml import session
from sparkml.observe.executors import LostExecutors

spark = session("local-cluster[1,1,1024]")
news = LostExecutors(spark.sparkContext)
spark.range(10).repartition(2).count()
assert news() == []
ours = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
(executor,) = [child for child in ours if "CoarseGrainedExecutorBackend" in " ".join(child.cmdline())]
executor.kill()
told, deadline = [], time.monotonic() + 60
while not told and time.monotonic() < deadline:
    time.sleep(0.2)
    told = news()
print(told)
"""


def test_a_killed_executor_is_told_with_sparks_reason(tmp_path: Path) -> None:
    command, env = [sys.executable, "-c", SCRIPT], {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "executor 0 on " in done.stdout and "was lost: " in done.stdout, done.stdout + done.stderr[-1000:]
    assert "does not say why" not in done.stdout
