"""`session`: one way to make or find the Spark session, with the settings that every pipeline needs and their reasons."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from sparkml import class_archive
from sparkml.config import looks_secret, references, resolve_reference
from sparkml.errors import LaunchError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Spark's own default covers "secret|password|token" in keys only; api keys and credentials leaked into the event log
REDACTION = "(?i)secret|passw|token|credential|api[._-]?key|access[._-]?key|private[._-]?key|account[._-]?key"

_REGEX = "spark.redaction.regex"

DEFAULTS: dict[str, str] = {
    _REGEX: REDACTION,
    "spark.sql.session.timeZone": "UTC",  # the same instants whatever the machine's zone
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.barrier.sync.timeout": "300",  # Spark's default is 365 days: a lost rank would hang the job
    "spark.sql.files.ignoreCorruptFiles": "false",  # a corrupt file is an error, never fewer rows
    "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",  # otherwise a small result is written as many tiny files
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.ui.showConsoleProgress": "false",  # it would draw over ours
}


def session(
    master: str | None = None, *, app_name: str = "sparkml", conf: Mapping[str, str] | None = None, jvm_log: Path | None = None
) -> SparkSession:
    """Return the running Spark session, or start one.

    Parameters
    ----------
    master
        ``local[*]``, ``yarn``, ``spark://...``. None keeps what ``spark-submit`` decided, else ``local[*]``.
    conf
        Spark settings; values may be ``${env:NAME}`` / ``${file:PATH}`` references.
    jvm_log
        Where a JVM that is started here writes what it prints; the terminal when None.

    Raises
    ------
    LaunchError
        Java is missing or the JVM did not start.
    """
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    if running is not None:
        return running
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers must run the driver's Python and packages
    settings = {**DEFAULTS, **(conf or {}), "spark.app.name": app_name, **({} if master is None else {"spark.master": master})}
    has_jvm = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit's, which knows what it was told
    if has_jvm:
        SparkContext._ensure_initialized()  # type: ignore[attr-defined]
    submitted = SparkConf()
    if (master or submitted.get("spark.master", None) or "local[*]").startswith("local"):
        for key in ("spark.driver.bindAddress", "spark.driver.host"):  # a laptop's driver has no business on the network
            if not submitted.contains(key):
                settings.setdefault(key, "127.0.0.1")
    for key in settings:
        if looks_secret(key) and key != _REGEX:
            settings[_REGEX] += f"|{key.rpartition('.')[2]}"
    given = {key: str(value) for key, value in settings.items() if not (submitted.contains(key) and [*references(str(value))])}
    try:
        with _stderr_to(jvm_log), nullcontext() if has_jvm else class_archive.used():
            _start_jvm({key: value for key, value in given.items() if resolve_reference(value) == value})
            builder = SparkSession.builder
            for key, value in given.items():
                builder = builder.config(key, resolve_reference(value))
            made = builder.getOrCreate()
    except (PySparkException, Py4JError, OSError, RuntimeError) as error:
        if "MetricsSystem" in str(error):  # all that Spark says when a master has not taken the application
            raise LaunchError(
                f"Spark did not start: {given.get('spark.master', 'the master')} is not there, or has refused the application",
                hint="check spark.master, and that spark.authenticate.secret is the cluster's",
            ) from error
        raise LaunchError(
            f"Spark did not start: {_reason(error)}", hint="sparkml doctor checks Java, versions and ports"
        ) from error
    made.sparkContext.setLogLevel("ERROR")
    return made


def _reason(error: Exception) -> str:
    """Return one line: of an exception in the JVM what Java says, not which call it was."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = [line.removeprefix(": ") for line in lines if line.startswith(": ")]
    return (said or lines)[0].removeprefix("java.lang.IllegalArgumentException: ")


def _start_jvm(settings: Mapping[str, str]) -> None:
    """Start Spark's JVM, if there is none. Its command line is for all to see: what a reference holds is told afterwards."""
    from pyspark import SparkConf, SparkContext

    conf = SparkConf()
    for key, value in settings.items():
        conf.set(key, value)
    SparkContext._ensure_initialized(conf=conf)  # type: ignore[attr-defined]


@contextmanager
def _stderr_to(path: Path | None) -> Iterator[None]:
    """Let a child that is started in the block inherit a file as its stderr: Spark's JVM and workers print there from then on."""
    if path is None:
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
