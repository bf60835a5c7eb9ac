"""A class-data archive of Spark's JVM (JEP 350): with it Spark starts, and runs its first jobs, in half the time.

Without one, Java reads, checks and links thousands of classes from Spark's jars in every process. ``sparkml warm`` makes
the archive once per environment and Java; whoever starts a JVM by `sparkml.spark_session.session` has it from then on. A JVM
that finds the archive made by another Java or of other jars goes without it.

Run as a script, this module is the work that the archive is made of: what it does not use, the archive does not hold.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparkml.errors import LaunchError, StorageError

_VARIABLE = "SPARK_SUBMIT_OPTS"  # read by Spark's own start script, in addition to the user's spark.driver.extraJavaOptions
_QUIET = "-Xlog:disable -Xlog:all=error:stderr"  # of classes that it leaves out, it would print a line for each
_SECONDS = 600


def java() -> Path:
    """Return the Java that Spark will start. Raises `LaunchError` if there is none."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if found is None or not Path(found).exists():
        where = f"in JAVA_HOME={home}" if home else "on the PATH"
        raise LaunchError(f"no java {where}", hint="apt-get install openjdk-17-jre-headless, or set JAVA_HOME")
    return Path(found).resolve()


def folder() -> Path:
    """Return where the archive of this Python environment and this Java belongs."""
    from pyspark import __version__ as version
    from pyspark.find_spark_home import _find_spark_home

    jvm = java()
    mark = f"{_find_spark_home()} {jvm} {jvm.stat().st_mtime_ns}"  # type: ignore[no-untyped-call]
    return Path(sys.prefix, "share", "sparkml", f"spark-{version}-{hashlib.sha256(mark.encode()).hexdigest()[:12]}")


def found() -> Path | None:
    """Return the archive, if it is there and whole: one that was cut short would crash Java."""
    for archive in folder().glob("*.jsa"):
        if archive.stem == str(archive.stat().st_size):
            return archive
    return None


@contextmanager
def used() -> Iterator[None]:
    """Have a JVM that Spark starts in the block use the archive, if there is one."""
    try:
        archive = found()
    except (LaunchError, OSError):  # no Java, as Spark will say itself; or it is being made anew
        archive = None
    with _options("" if archive is None else f"-XX:SharedArchiveFile={archive} {_QUIET}"):
        yield


@contextmanager
def _options(options: str) -> Iterator[None]:
    before = os.environ.get(_VARIABLE)
    if options:
        os.environ[_VARIABLE] = f"{options} {before or ''}".strip()  # of two that differ, Java takes the later, the user's
    try:
        yield
    finally:
        if options:
            del os.environ[_VARIABLE]
            if before is not None:
                os.environ[_VARIABLE] = before


def make() -> Path:
    """Make the archive, in less than a minute, and return where it is. One that is there is replaced.

    Raises
    ------
    LaunchError
        Java is missing, or makes no archive.
    StorageError
        The Python environment is not writable.
    """
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=place)
    except OSError as error:
        raise StorageError(f"{place} is not writable: {error.strerror}", hint="run it as the environment's owner") from None
    with temporary as scratch:
        made = Path(scratch, "made.jsa")
        environment = {**os.environ, _VARIABLE: f"-XX:ArchiveClassesAtExit={made} {_QUIET}", "PYSPARK_PYTHON": sys.executable}
        work = [sys.executable, "-m", "sparkml.class_archive", scratch]
        try:
            done = subprocess.run(work, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise LaunchError(f"{java()} made no class-data archive within {_SECONDS} s") from None
        if done.returncode or not made.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip() and not line[0].isspace()]  # no stack frames
            raise LaunchError(
                f"{java()} made no class-data archive: {lines[-1] if lines else 'it says nothing'}",
                hint="a JDK of version 17 or newer can; Spark runs without one, too",
            )
        with made.open("rb") as file:
            os.fsync(file.fileno())
        archive = place / f"{made.stat().st_size}.jsa"
        made.replace(archive)
    for other in set(place.glob("*.jsa")) - {archive}:
        other.unlink(missing_ok=True)
    return archive


def _work(scratch: str) -> None:
    """Do a little of all that pipelines do, so that its classes are loaded."""
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression, RandomForestClassifier
    from pyspark.ml.feature import StandardScaler, StringIndexer, VectorAssembler
    from pyspark.sql import SparkSession, Window
    from pyspark.sql import functions as F

    quiet = {"spark.ui.enabled": "false", "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    builder = SparkSession.builder.master("local[2]").config("spark.local.dir", scratch).config("spark.sql.shuffle.partitions", 2)
    spark = builder.config(map={**quiet}).getOrCreate()
    context = spark.sparkContext
    context.setCheckpointDir(f"{scratch}/checkpoints")
    rows = spark.range(400).select(
        "id", (F.col("id") % 7).alias("group"), F.rand(7).alias("x"), (F.col("id") % 2).cast("string").alias("kind")
    )
    rows.write.parquet(f"{scratch}/rows")
    rows.write.partitionBy("kind").csv(f"{scratch}/csv", header=True)
    read = spark.read.parquet(f"{scratch}/rows")
    spark.read.csv(f"{scratch}/csv", header=True, schema="id long, group long, x double").count()
    read.groupBy("group").agg(F.count("*"), F.avg("x"), F.stddev("x"), F.sum(F.xxhash64("x").cast("decimal(38,0)"))).collect()
    ranked = read.withColumn("rank", F.row_number().over(Window.partitionBy("group").orderBy("x")))
    ranked.join(read.select("id", "kind"), "id").repartition(2, "group").sortWithinPartitions("x").count()
    read.select(F.explode(F.array("x", "id")), F.split("kind", ",")).cache().count()
    for barrier in (False, True):
        read.select("x").repartition(2).mapInArrow(lambda batches: batches, "x double", barrier=barrier).collect()
    context.parallelize(range(10), 2).map(str).checkpoint()
    context.textFile(f"{scratch}/csv/*").map(len).sum()
    stages: list[Any] = [
        StringIndexer(inputCol="kind", outputCol="label"),
        VectorAssembler(inputCols=["group", "x"], outputCol="raw"),
    ]
    stages += [StandardScaler(inputCol="raw", outputCol="features"), LogisticRegression(maxIter=2)]
    Pipeline(stages=stages).fit(read).write().overwrite().save(f"{scratch}/model")
    forest = Pipeline(stages=[*stages[:-1], RandomForestClassifier(numTrees=2, maxDepth=2)]).fit(read)
    forest.transform(read).select("prediction").write.format("noop").mode("overwrite").save()
    gateway: Any = context._gateway
    jvm = gateway.proc
    spark.stop()
    gateway.shutdown()
    jvm.stdin.close()  # Spark's JVM ends with its Python, and writes the archive then
    sys.exit(jvm.wait(_SECONDS))


if __name__ == "__main__":
    _work(sys.argv[1])
