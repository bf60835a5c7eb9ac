"""The ingest stage: a source's rows as Parquet, counted."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from sparkml.errors import ConfigError, DataError
from sparkml.ingest.source import ReadContext, Source

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
    from pyspark.errors import AnalysisException, PySparkException
    from pyspark.sql import functions as F

    rows = source.read(context)
    for name, expression in source.options.derive.items():
        try:
            rows = rows.withColumn(name, F.when(F.col("_corrupt").isNull(), F.expr(expression)))
        except AnalysisException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"source.derive.{name}: {expression!r} is not valid here: {reason}") from None
    try:
        rows.write.mode("append").parquet(target_url)
    except PySparkException as error:
        raise DataError(_reason(error)) from error
    except Exception as error:
        if type(error).__module__.startswith("py4j"):
            raise DataError(_reason(error)) from error
        raise
    written = context.spark.read.parquet(target_url)
    counts = written.select(F.count(F.lit(1)).alias("rows"), F.count("_corrupt").alias("corrupt")).first()
    assert counts is not None
    if counts["rows"] == 0:
        raise DataError("the input has no rows", hint="check source.path and, for csv, header and comment")
    columns = {field.name: field.dataType.simpleString() for field in written.schema}
    return IngestReport(rows=counts["rows"], corrupt=counts["corrupt"], columns=columns)


def _reason(error: Exception) -> str:
    import re

    text = str(error)
    file = re.search(r"(?:file|s3a|hdfs):/[^\s,:;)\]]+", text)
    where = f"{file.group(0).rstrip('.')}: " if file else ""
    if any(sign in text for sign in _GZIP_SIGNS):
        return f"{where}the compressed file is truncated or damaged"
    own: list[Any] = re.findall(r"(?:DataError|ValueError): (.+)", text)
    return where + str(own[-1] if own else text.strip().splitlines()[0])
