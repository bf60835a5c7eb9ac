"""``sparkml doctor``: the checks that explain most failures before they happen."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, util
from typing import Any

from sparkml import class_archive
from sparkml.errors import SparkmlError
from sparkml.lineage.records import versions
from sparkml.observe.logs import log_folder
from sparkml.settings import RunSettings, load_run_settings
from sparkml.storage import Store

Finding = dict[str, Any]


def examine(env: str | None, assignments: list[str]) -> list[Finding]:
    """Run every check and return ``{check, ok, found, advice}`` of each."""
    settings = load_run_settings(env, assignments)
    checks: list[tuple[str, Callable[[], str], str]] = [
        ("Python 3.11 or 3.12", _python, "use the environment that `make setup` creates"),
        ("Java 17 or newer", _java, "apt-get install openjdk-17-jre-headless, or set JAVA_HOME"),
        ("packages", _packages, "make setup"),
        ("TensorFlow and Horovod (deep)", _deep, "pip install 'sparkml[deep]'; `make setup` compiles Horovod"),
        ("storage: write, publish, exclusive create", lambda: _storage(settings), "choose a writable root: --set store=URL"),
        (
            "Spark starts, executors' Python",
            lambda: _spark(settings),
            "set PYSPARK_PYTHON to the driver's interpreter on every node",
        ),
    ]
    return [_try(*check) for check in checks]


def _try(check: str, look: Callable[[], str], advice: str) -> Finding:
    try:
        return {"check": check, "ok": True, "found": look(), "advice": ""}
    except SparkmlError as error:
        return {"check": check, "ok": False, "found": error.message, "advice": error.hint or advice}
    except Exception as error:  # any failure is the finding
        lines = str(error).strip().splitlines()
        return {"check": check, "ok": False, "found": lines[0] if lines else type(error).__name__, "advice": advice}


def _python() -> str:
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        raise RuntimeError(f"{platform.python_version()} is not supported")
    return f"{platform.python_version()} ({sys.executable})"


def _java() -> str:
    java = class_archive.java()
    text = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    found = re.search(r'version "(\d+)[^"]*"', text)
    if found is None or int(found.group(1)) < 17:
        raise RuntimeError(f"{text.splitlines()[0]} is too old for Spark 4")
    warm = "starts from its class archive" if class_archive.found() else "`sparkml warm` would halve Spark's start"
    return f"{found.group(0).removeprefix('version ')} ({java}); {warm}"


def _packages() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items() if name not in {"python", "platform"})


def _deep() -> str:
    absent = [name for name in ("tensorflow", "keras", "horovod") if util.find_spec(name) is None]
    if absent:
        raise RuntimeError(f"not installed: {', '.join(absent)} (only pipelines with a keras trainer need them)")
    code = "import horovod.tensorflow as hvd; hvd.init(); print(hvd.gloo_built())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        raise RuntimeError(f"Horovod does not import: {done.stderr.strip().splitlines()[-1]}")
    return f"horovod {metadata.version('horovod')} over Gloo"


def _storage(settings: RunSettings) -> str:
    store = Store(settings.store)
    with store.stage() as staging:
        store.replace(f"{staging.path}/probe", b"sparkml doctor")
        _, first = store.publish(staging, "_doctor/artifact", kind="probe", fingerprint="probe")
    with store.stage() as staging:
        store.replace(f"{staging.path}/probe", b"sparkml doctor")
        _, second = store.publish(staging, "_doctor/artifact", kind="probe", fingerprint="probe")
    exclusive = [store.create_exclusive("_doctor/claim", b"1"), store.create_exclusive("_doctor/claim", b"2")]
    store.remove("_doctor")
    if (first, second, exclusive) != (True, False, [True, False]):
        raise RuntimeError(f"{store.root} does not publish atomically: {first}, {second}, {exclusive}")
    return store.root


def _spark(settings: RunSettings) -> str:
    from sparkml.spark_session import session

    log = log_folder("doctor") / "spark.log"
    spark = session(settings.spark.master, app_name="sparkml doctor", conf=settings.spark.conf, jvm_log=log)
    context = spark.sparkContext
    slots = context.defaultParallelism

    def look(_: Any) -> list[tuple[str, str]]:
        import platform

        import numpy

        return [(platform.python_version(), numpy.__version__)]

    seen = set(context.parallelize(range(slots), slots).mapPartitions(look).collect())
    here = (platform.python_version(), metadata.version("numpy"))
    if seen != {here}:
        raise RuntimeError(f"executors run Python, numpy {sorted(seen)}, the driver {here}")
    return f"Spark {spark.version} on {context.master}, {slots} slots, Python {here[0]} everywhere"
