"""What Spark's exceptions mean for a user: the cause out of the Java stack, and the error class it belongs to."""

from __future__ import annotations

import re

from sparkml.errors import DataError, LaunchError, SparkmlError, StorageError, TrainingError

_SPACE = re.compile(r"No space left on device|Disk quota exceeded|DiskOutOfSpaceException")
_DENIED = re.compile(r"Permission denied|AccessControlException|Mkdirs failed|Access Denied|Read-only file system")
_MEMORY = re.compile(r"java\.lang\.OutOfMemoryError|GC overhead limit exceeded")
_LOST = re.compile(r"Connection refused|Answer from Java side is empty|SparkContext (?:was|has been) shut ?down|stopped SparkCo")
_VALUE = re.compile(r"\[(DIVIDE_BY_ZERO|CAST_INVALID_INPUT|CAST_OVERFLOW|ARITHMETIC_OVERFLOW|INVALID_ARRAY_INDEX)[\w.]*\]")
_CAUSE = re.compile(r"^(?:Caused by: |: )?(?:[\w$]+\.)+\w*(?:Exception|Error): (.+)$", re.MULTILINE)
_PYTHON = re.compile(r"^(?:sparkml\.errors\.)?(\w+Error): (.+)$", re.MULTILINE)


def explained(error: BaseException, stage: str) -> BaseException:
    """Return the error to show for what a stage raised: our own and Python's as they are, Spark's in a user's terms."""
    if isinstance(error, SparkmlError) or not _is_sparks(error):
        return error
    text = str(error)
    cause = _root_cause(text)
    if _SPACE.search(text):
        return StorageError(
            f"{stage}: the disk is full: {cause}",
            hint="free some space in the store and in spark.local.dir (`df -h`); finished stages are kept",
        )
    if _DENIED.search(text):
        return StorageError(f"{stage}: Spark may not write there: {cause}", hint="choose another root with --set store=URL")
    if _MEMORY.search(text):
        return LaunchError(
            f"{stage}: the JVM ran out of memory: {cause}",
            hint="give it more: --set spark.conf='{spark.driver.memory: 6g}' (local) or spark.executor.memory (cluster)",
        )
    if _LOST.search(text):
        return LaunchError(f"{stage}: the Spark driver's JVM is gone: {cause}", hint="its last words are in spark.log of the run")
    ours = _PYTHON.findall(text)
    if ours and ours[-1][0] == "DataError":
        return DataError(f"{stage}: {ours[-1][1]}")
    if _VALUE.search(text):
        return DataError(
            f"{stage}: an expression fails on a row: {cause}", hint="try_cast, try_divide and the like give null instead"
        )
    return TrainingError(f"{stage}: {cause}") if stage.startswith("train") else LaunchError(f"{stage}: Spark failed: {cause}")


def _is_sparks(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in {"py4j", "pyspark"} or isinstance(error, ConnectionRefusedError)


def _root_cause(text: str) -> str:
    causes = _CAUSE.findall(text)
    lines = text.strip().splitlines()
    return str(causes[-1] if causes else lines[0] if lines else "no reason given")[:400]
