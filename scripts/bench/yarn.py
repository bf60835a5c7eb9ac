"""A deep pipeline on YARN with everything on HDFS against the same on local[2] with local files: seconds of its stages.

    python scripts/bench/yarn.py [--quick] [--json FILE] [--data FOLDER]

Fashion-MNIST, a forest of 20 trees and a net of 4 epochs on two Horovod ranks, from raw files to the report; two tasks at once
and two ranks on both sides. Start-up is not counted: neither Python's, nor the session's (the JVM, YARN's containers). RPC,
shuffles and spills are encrypted on YARN (conf/env/yarn.yaml) and not locally. The services of `scripts/cluster` share the
machine's cores with the work.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

import pyspark

from scripts.bench.harness import PYTHONPATH, ROOT, Bench
from scripts.devcluster.cluster import Cluster
from sparkml.lineage.records import all_runs
from sparkml.storage import Store

SHARED = Path(os.environ.get("SPARKML_SHARED_DATA", ROOT.parent / "shared" / "data"), "fashion-mnist")
_SESSION = re.compile(r"Spark [\d.]+ on \S+ in ([\d.]+) s")


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data", default=str(SHARED))
    chosen, sys.argv[1:] = parser.parse_known_args()  # the rest is the harness's
    bench = Bench(__doc__.splitlines()[0] + " Also: --data FOLDER with the four files.")
    if not Path(chosen.data, "train-images-idx3-ubyte.gz").exists():
        sys.exit(f"{chosen.data} holds no Fashion-MNIST: give the folder of its four files by --data")
    small = {"train.candidates.forest.params.numTrees": 20, "train.candidates.net.epochs": 1 if bench.quick else 4}
    words = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    words += ["--set", "register.gates=[]"]
    turns = itertools.count()

    def side(root: str, *more: str) -> Callable[[], float]:
        def run() -> float:
            store = f"{root}/run-{next(turns)}"
            command = [sys.executable, "-m", "sparkml.cli", "run", "fashion_mnist", *words, "--set", f"store={store}", *more]
            env = {**os.environ, **PYTHONPATH, "XDG_STATE_HOME": f"{folder}/state"}
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
            found = _SESSION.search(done.stderr)
            if done.returncode or found is None:
                raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
            stages = next(all_runs(Store(store))).stages
            Store(root).remove(store.rpartition("/")[2])
            return sum(stage.seconds for stage in stages) - float(found[1])

        return run

    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as folder:
        cluster = Cluster(Path(folder, "cluster"), tied=True)
        try:
            cluster.up(["hdfs", "yarn"])
            os.environ.update(found := cluster.environment())
            os.environ["SPARKML_DEVCLUSTER"] = cluster.state()["mark"]
            jars = f"spark.conf.spark.yarn.jars=local:{Path(pyspark.__file__).parent}/jars/*"  # every container is on this host
            for path in Path(chosen.data).glob("*.gz"):
                Store(f"{found['SPARKML_HDFS']}/data").replace(path.name, path.read_bytes())
            here = ["--env", "local", "--set", "spark.master=local[2]", "--data", chosen.data]
            there = ["--env", "yarn", "--set", jars, "--data", f"{found['SPARKML_HDFS']}/data"]
            sides = {
                "local[2], local files": side(f"file://{folder}/stores", *here),
                "YARN, HDFS": side(f"{found['SPARKML_HDFS']}/stores", *there),
            }
            local, yarn = bench.compare(sides, repeats=1 if bench.quick else 3, warm_up=False).values()
        finally:
            cluster.down()
    bench.add("yarn: stages on local[2]", local.wall_median, "s")
    bench.add("yarn: stages on YARN and HDFS", yarn.wall_median, "s")
    judged = {} if bench.quick else {"at_most": 1.3}
    bench.add("yarn: YARN / local", yarn.wall_median / local.wall_median, "x", **judged)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
