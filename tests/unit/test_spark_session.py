"""What is said of a JVM that did not start."""

from __future__ import annotations

import pytest

from sparkml.spark_session import _reason

JAVA = """An error occurred while calling None.org.apache.spark.api.java.JavaSparkContext.
: java.lang.IllegalArgumentException: requirement failed: spark.network.timeoutInterval should be less
\tat scala.Predef$.require(Predef.scala:337)
Caused by: java.lang.Exception: another
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (JAVA, "requirement failed: spark.network.timeoutInterval should be less"),
        (
            JAVA.replace("lang.IllegalArgument", "net.Bind"),
            "java.net.BindException: requirement failed: spark.network.timeoutInterval",
        ),
        (
            "Java gateway process exited before sending its port number.\nmore",
            "Java gateway process exited before sending its port number.",
        ),
        ("", "RuntimeError"),
    ],
)
def test_java_s_own_words_are_told(text: str, line: str) -> None:
    assert _reason(RuntimeError(text)).startswith(line)
