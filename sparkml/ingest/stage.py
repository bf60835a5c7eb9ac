"""The ingest stage: a source's rows as Parquet, counted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel

from sparkml.errors import ConfigError, DataError
from sparkml.ingest.source import ReadContext, Source

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_GZIP_SIGNS = ("Unexpected end of input stream", "EOFException", "incorrect header check", "ZipException", "not a gzip file")


class IngestReport(BaseModel):
    """Rows of the table, and of these the ones that could not be read."""

    rows: int
    corrupt: int
    columns: dict[str, str]


def ingest(source: Source, context: ReadContext, target_url: str) -> IngestReport:
    """Read a source and write its table to `target_url`.

    Raises
    ------
    DataError
        There are no rows, or a file is damaged as a whole (truncated gzip, not Parquet).
    ConfigError
        A ``derive`` expression is not valid over these columns.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    try:
        _derived(source.read(context), source.options.derive).write.mode("append").parquet(target_url)
    except (PySparkException, Py4JJavaError) as error:
        reason = _reason(error)
        if reason is None:  # a full disk, a lost JVM: not the input's fault
            raise
        raise DataError(reason) from error
    written = context.spark.read.parquet(target_url)
    counts = written.select(F.count(F.lit(1)).alias("rows"), F.count("_corrupt").alias("corrupt")).first()
    assert counts is not None
    if counts["rows"] == 0:
        raise DataError("the input has no rows", hint="check source.path and, for csv, header and comment")
    columns = {field.name: field.dataType.simpleString() for field in written.schema}
    return IngestReport(rows=counts["rows"], corrupt=counts["corrupt"], columns=columns)


def _derived(rows: DataFrame, expressions: Mapping[str, str]) -> DataFrame:
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    for name, expression in expressions.items():
        try:
            rows = rows.withColumn(name, F.when(F.col("_corrupt").isNull(), F.expr(expression)))
        except AnalysisException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"source.derive.{name}: {expression!r} is not valid here: {reason}") from None
    return rows


def _reason(error: Exception) -> str | None:
    """What is wrong with the input, when that is what Spark complains about."""
    text = str(error)
    file = re.search(r"(?:file|s3a|hdfs):/[^\s,:;)\]]+", text)
    where = f"{file.group(0).rstrip('.')}: " if file else ""
    if any(sign in text for sign in _GZIP_SIGNS):
        return f"{where}the compressed file is truncated or damaged"
    own: list[str] = re.findall(r"\b(?:DataError|ValueError): (.+)", text)
    if own:
        return own[-1]
    return where + text.strip().splitlines()[0] if "FAILED_READ_FILE" in text else None
