"""Parquet files with declared columns; a renamed, retyped or extra column is an error that names it, file by file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from sparkml.errors import DataError
from sparkml.ingest.files import spark_urls
from sparkml.ingest.source import Columns, FileOptions, ReadContext, Source, check_declared, with_source_columns
from sparkml.storage import opened

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_SHOWN = 10  # differences that a message lists


class ParquetOptions(FileOptions):
    """`columns` maps names to Spark SQL types; their order does not matter."""

    columns: Columns = Field(min_length=1)
    drop_undeclared: bool = Field(False, description="leave columns that are not declared out instead of refusing the file")


class Parquet(Source):
    """Every file's footer is compared with the declaration before Spark reads a row."""

    Options = ParquetOptions

    def lacks(self, column: str) -> bool:
        return column in self.options.columns and not any(column in _schema(path).names for path in self.files())

    def read(self, context: ReadContext) -> DataFrame:
        from pyspark.sql.types import StructField, StructType, _parse_datatype_string

        files = self.files()
        schema = StructType([StructField(name, _parse_datatype_string(kind)) for name, kind in self.options.columns.items()])
        declared = {field.name: field.dataType.simpleString() for field in schema.fields}
        with ThreadPoolExecutor(8) as pool:
            footers = list(pool.map(_columns, files))
        wrong: list[str] = []
        for path, found in zip(files, footers, strict=True):
            if self.options.drop_undeclared:
                found = {name: kind for name, kind in found.items() if name in declared}
            wrong += check_declared(found, declared, path)
        if wrong:
            more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise DataError(
                "the files do not match source.columns: " + "; ".join(wrong[:_SHOWN]) + more,
                hint="correct source.columns or the files; source.drop_undeclared: true leaves extra columns out",
            )
        return with_source_columns(context.spark.read.schema(schema).parquet(*spark_urls(files)))


def _columns(path: str) -> dict[str, str]:
    from pyspark.sql.pandas.types import from_arrow_type

    return {field.name: from_arrow_type(field.type).simpleString() for field in _schema(path)}


def _schema(path: str) -> pa.Schema:
    """Read a file's footer."""
    fs, inside = opened(path)
    try:
        with fs.open(inside, "rb") as file:
            return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a whole Parquet file: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise DataError(f"cannot read the input file {path}: {error.strerror or error}") from None
