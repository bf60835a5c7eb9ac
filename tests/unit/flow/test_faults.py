"""Spark's exceptions in a user's terms: the class of error (and so the exit code) and the cause out of the stack."""

from __future__ import annotations

import pytest

from sparkml.errors import DataError, LaunchError, SparkmlError, StorageError, TrainingError
from sparkml.flow.faults import explained


class SparkSideError(Exception):
    """Looks as if py4j had raised it."""


SparkSideError.__module__ = "py4j.protocol"

STACK = """An error occurred while calling o42.parquet.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 3.0 failed 1 times
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:1)
Caused by: {cause}
\tat java.base/java.io.FileOutputStream.write(FileOutputStream.java:1)"""

CASES: list[tuple[str, str, type[SparkmlError], str]] = [
    ("contract", "java.io.IOException: No space left on device", StorageError, "the disk is full: No space left on device"),
    ("ingest", "java.io.IOException: Mkdirs failed to create file:/x", StorageError, "may not write there: Mkdirs failed"),
    ("train.net", "java.lang.OutOfMemoryError: Java heap space", LaunchError, "the JVM ran out of memory: Java heap space"),
    (
        "contract",
        "org.apache.spark.SparkArithmeticException: [DIVIDE_BY_ZERO] Division by zero. Use `try_divide`",
        DataError,
        "an expression fails on a row",
    ),
    (
        "features",
        "org.apache.spark.SparkNumberFormatException: [CAST_INVALID_INPUT] The value 'x' of the type STRING cannot be cast",
        DataError,
        "an expression fails on a row",
    ),
    ("train.forest", "java.lang.IllegalArgumentException: requirement failed: bad depth", TrainingError, "bad depth"),
    ("score", "java.lang.IllegalStateException: something else", LaunchError, "Spark failed: something else"),
]


@pytest.mark.parametrize(("stage", "cause", "kind", "message"), CASES, ids=[case[1].partition(":")[0] for case in CASES])
def test_the_cause_decides_the_class(stage: str, cause: str, kind: type[SparkmlError], message: str) -> None:
    shown = explained(SparkSideError(STACK.format(cause=cause)), stage)
    assert type(shown) is kind
    assert message in str(shown)
    assert str(shown).startswith(f"{stage}: ")
    assert "\tat " not in str(shown)


def test_a_data_error_of_a_task_stays_one() -> None:
    text = STACK.format(cause="org.apache.spark.api.python.PythonException: Traceback\nsparkml.errors.DataError: a.csv is torn")
    shown = explained(SparkSideError(text), "ingest")
    assert (type(shown), str(shown)) == (DataError, "ingest: a.csv is torn")


def test_a_lost_driver_is_no_bug_of_the_user() -> None:
    assert isinstance(explained(ConnectionRefusedError("Connection refused"), "ingest"), LaunchError)


@pytest.mark.parametrize("error", [DataError("mine"), ValueError("a bug")])
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    assert explained(error, "ingest") is error
