"""What a re-run with nothing changed, a dry run, the import and the help cost, against the start of a bare SparkSession.

A `java` that fails stands in for the real one while sparkml is measured: a command that starts a JVM would fail. That the trap
works is shown by the bare session, which must fall into it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

from scripts.bench.harness import Bench, Side, command, installed

PIPELINE = """\
source: {type: sklearn, dataset: iris}
contract: {columns: {id: {type: bigint, unique: true}}}
target: {column: target, task: classification}
split: {key: id}
features:
  stages:
    - {type: assembler, inputs: ["sepal_*", "petal_*"], output: features}
train:
  candidates:
    logistic: {trainer: mllib, algorithm: LogisticRegression}
"""
SESSION = """\
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[*]").config("spark.ui.enabled", "false").getOrCreate()
assert spark.range(1).count() == 1
"""
TRAP = """\
#!/bin/sh
echo "$0 $*" >> {log}
exit 1
"""


def main() -> int:
    bench = Bench(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory(prefix="sparkml-bench-") as folder:
        if bench.quick:
            pipeline = f"{folder}/iris.yaml"
            Path(pipeline).write_text(PIPELINE)
        else:
            pipeline = "digits"
        trap, caught = _trap(folder)
        run = (installed("sparkml"), "run", pipeline, "--env", "local", "--set", f"store={folder}/store")
        command(*run)
        session = (sys.executable, "-c", SESSION)
        timings = bench.compare(
            {
                "bare SparkSession": _side(*session),
                "re-run, nothing changed": _side(*run, env=trap),
                "--dry-run": _side(*run, "--dry-run", env=trap),
                "sparkml --help": _side(installed("sparkml"), "--help", env=trap),
                "import sparkml": _side(sys.executable, "-c", "import sparkml", env=trap),
                "an empty Python": _side(sys.executable, "-c", "pass"),
            },
            repeats=3 if bench.quick else 7,
        )
        started = len(caught.read_text().splitlines()) if caught.exists() else 0
        _falls_in(session, trap, caught)
    took = {name: timing.wall_median for name, timing in timings.items()}
    bare = took["bare SparkSession"]
    bench.add("re-run: bare SparkSession", bare, "s")
    bench.add("re-run: nothing changed", took["re-run, nothing changed"], "s")
    bench.add("re-run: nothing changed / bare SparkSession", took["re-run, nothing changed"] / bare, "x", at_most=1.5)
    bench.add("re-run: --dry-run / bare SparkSession", took["--dry-run"] / bare, "x", at_most=1.5)
    bench.add("re-run: JVMs started by re-runs and dry runs", started, "", at_most=0)
    bench.add("re-run: sparkml --help", took["sparkml --help"], "s", at_most=0.5)
    bench.add("re-run: import sparkml", took["import sparkml"], "s", at_most=0.5)
    return bench.finish()


def _side(*arguments: str, env: dict[str, str] | None = None) -> Side:
    return lambda: command(*arguments, env=env)[0]


def _trap(folder: str) -> tuple[dict[str, str], Path]:
    """Return an environment whose `java` notes its call and fails, and the file of notes."""
    caught = Path(folder, "caught")
    java = Path(folder, "jdk", "bin", "java")
    java.parent.mkdir(parents=True)
    java.write_text(TRAP.format(log=caught))
    java.chmod(0o755)
    return {"JAVA_HOME": f"{folder}/jdk", "PATH": f"{java.parent}{os.pathsep}{os.environ['PATH']}"}, caught


def _falls_in(session: tuple[str, ...], trap: dict[str, str], caught: Path) -> None:
    before = caught.read_text() if caught.exists() else ""
    try:
        command(*session, env=trap)
    except RuntimeError:
        if caught.exists() and caught.read_text() != before:
            return
    raise AssertionError("a bare session did not fall into the trap: the proof that no JVM starts proves nothing")


if __name__ == "__main__":
    sys.exit(main())
