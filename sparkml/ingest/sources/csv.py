"""Delimited text with a declared schema; whatever does not fit it is kept as a raw record, never nulled or dropped."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from typing import TYPE_CHECKING

import fsspec
from pydantic import Field

from sparkml.errors import DataError
from sparkml.ingest.files import fsspec_url
from sparkml.ingest.source import FileOptions, ReadContext, Source, check_declared, with_source_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_DELIMITERS = (",", ";", "\t", "|")


class CsvOptions(FileOptions):
    """How the text is to be read; `columns` maps names to Spark SQL types in the file's order."""

    columns: dict[str, str] = Field(min_length=1)
    header: bool = False
    delimiter: str = Field(",", min_length=1, max_length=2)
    encoding: str = "UTF-8"
    quote: str = '"'
    escape: str = '"'
    comment: str | None = Field(None, min_length=1, max_length=1)
    null_values: list[str] = Field(["", "NA", "null"], description="texts that mean: no value")
    trim: bool = True
    multiline: bool = False


class Csv(Source):
    """Every field is read as text and converted by a strict cast, so that a bad number is a bad row and not a null."""

    Options = CsvOptions

    def read(self, context: ReadContext) -> DataFrame:
        from pyspark.sql import functions as F
        from pyspark.sql.types import StringType, StructField, StructType

        files = self.files()
        for path in files:
            self._check_start(path)
        options = self.options
        names = list(options.columns)
        texts = StructType([*[StructField(name, StringType()) for name in names], StructField("_corrupt", StringType())])
        reader = context.spark.read.schema(texts).options(
            header=options.header,
            sep=options.delimiter,
            encoding=options.encoding,
            quote=options.quote,
            escape=options.escape,
            ignoreLeadingWhiteSpace=options.trim,
            ignoreTrailingWhiteSpace=options.trim,
            multiLine=options.multiline,
            columnNameOfCorruptRecord="_corrupt",
            mode="PERMISSIVE",
            enforceSchema=True,
            maxCharsPerColumn=-1,
        )
        if options.comment is not None:
            reader = reader.option("comment", options.comment)
        rows = with_source_columns(reader.csv(files))
        missing = [F.when(~F.col(f"`{name}`").isin(options.null_values), F.col(f"`{name}`")).alias(name) for name in names]
        cleaned = rows.select(*missing, "_corrupt", "_file")
        typed = [F.col(f"`{name}`").try_cast(kind).alias(name) for name, kind in options.columns.items()]
        lost = [
            F.col(f"`{name}`").isNotNull() & F.col(f"`{name}`").try_cast(kind).isNull()
            for name, kind in options.columns.items()
            if kind.lower() != "string"
        ]
        garbled = [F.contains(F.col(f"`{name}`"), F.lit("�")) for name in names]
        unreadable = F.coalesce(_any([*lost, *garbled]), F.lit(False))
        line = F.concat_ws(options.delimiter, *[F.coalesce(F.col(f"`{name}`"), F.lit("")) for name in names])
        return cleaned.select(*typed, F.when(unreadable, line).otherwise(F.col("_corrupt")).alias("_corrupt"), "_file")

    def lacks(self, column: str) -> bool:
        if column not in self.options.columns:
            return False
        starts = [self._fields(self._first_record(path)) for path in self.files()]
        if self.options.header:
            return not any(column in fields for fields in starts)
        return all(len(fields) == len(self.options.columns) - 1 for fields in starts)

    def _fields(self, record: str) -> list[str]:
        options = self.options
        fields = next(csv.reader(io.StringIO(record), delimiter=options.delimiter, quotechar=options.quote), [])
        return [field.strip() for field in fields]

    def _check_start(self, path: str) -> None:
        """Compare the first record with the declared columns: a wrong delimiter or header stops here, before Spark reads on."""
        first = self._first_record(path)
        options = self.options
        fields = self._fields(first)
        wanted = len(options.columns)
        if len(fields) != wanted:
            better = [sign for sign in _DELIMITERS if sign != options.delimiter and first.count(sign) == wanted - 1]
            advice = f"; with delimiter {better[0]!r} it has {wanted}: is that the delimiter?" if better else ""
            what = "header" if options.header else "first record"
            raise DataError(
                f"{path}: the {what} has {len(fields)} fields, {wanted} columns are declared{advice}: {first[:120]!r}"
            )
        if options.header and fields != list(options.columns):
            found, declared = dict.fromkeys(fields, ""), dict.fromkeys(options.columns, "")
            wrong = check_declared(found, declared, path) or [f"{path}: the columns are in another order: {', '.join(fields)}"]
            raise DataError("the header does not match source.columns: " + "; ".join(wrong))

    def _first_record(self, path: str) -> str:
        fs, inside = fsspec.url_to_fs(fsspec_url(path))
        try:
            with fs.open(inside, "rb") as raw:
                data = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
                text = io.TextIOWrapper(data, self.options.encoding, errors="replace")
                for line in text:
                    line = line.removeprefix("\ufeff").rstrip("\r\n")
                    if line.strip() and not (self.options.comment and line.startswith(self.options.comment)):
                        return line
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise DataError(f"{path}: the compressed file is truncated or damaged") from None
        except LookupError:
            raise DataError(
                f"source.encoding {self.options.encoding!r} is not a known encoding", hint="UTF-8 or ISO-8859-1"
            ) from None
        raise DataError(f"{path} holds no records")


def _any(conditions: list):  # type: ignore[no-untyped-def,type-arg]
    from functools import reduce
    from operator import or_

    from pyspark.sql import functions as F

    return reduce(or_, [F.coalesce(condition, F.lit(False)) for condition in conditions])
