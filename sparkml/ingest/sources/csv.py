"""Delimited text with a declared schema; whatever does not fit it is kept as a raw record, never nulled or dropped."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from typing import TYPE_CHECKING, Any, Literal

import fsspec
from pydantic import Field

from sparkml.errors import DataError
from sparkml.ingest.files import fsspec_url
from sparkml.ingest.source import Columns, FileOptions, ReadContext, Source, check_declared, with_source_columns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_DELIMITERS = (",", ";", "\t", "|")
_BYTES = "ISO-8859-1"  # every byte is a character of it
_BOM = "\xef\xbb\xbf"  # UTF-8's byte order mark, read as such bytes
_REPLACED = "\ufffd"  # what a decoder puts where it could not decode


class CsvOptions(FileOptions):
    """How the text is to be read; `columns` maps names to Spark SQL types in the file's order."""

    columns: Columns = Field(min_length=1)
    header: bool = False
    delimiter: str = Field(",", min_length=1, max_length=2)
    encoding: Literal["UTF-8", "ISO-8859-1", "US-ASCII"] = "UTF-8"
    quote: str = '"'
    escape: str = '"'
    comment: str | None = Field(None, min_length=1, max_length=1)
    null_values: list[str] = Field(["", "NA", "null"], description="texts that mean: no value")
    trim: bool = True
    multiline: bool = Field(False, description="quoted fields may hold line ends; a file is then read by one task")


class Csv(Source):
    """Every field is read as text and converted by a strict cast, so that a bad number is a bad row and not a null."""

    Options = CsvOptions

    def read(self, context: ReadContext) -> DataFrame:
        from pyspark.sql import functions as F

        for path in self.files():
            self._check_start(path)
        options = self.options
        records = self._records(context)
        fields = {name: F.col(f"fields.`{name}`") for name in options.columns}
        values = {name: F.when(~field.isin(options.null_values), field) for name, field in fields.items()}
        lost = [
            value.isNotNull() & value.try_cast(kind).isNull()
            for value, kind in zip(values.values(), options.columns.values(), strict=True)
            if kind != "string"
        ]
        broken = F.col("broken") | F.col("fields._corrupt").isNotNull() | _any(lost)
        typed = [F.when(~broken, values[name].try_cast(kind)).alias(name) for name, kind in options.columns.items()]
        return records.select(*typed, F.when(broken, F.col("raw")).alias("_corrupt"), "_file")

    def _records(self, context: ReadContext) -> DataFrame:
        """Return ``raw`` (the very record), ``fields`` (as text; ``_corrupt`` when too many or few), ``broken``, ``_file``."""
        from pyspark.sql import functions as F

        options = self.options
        texts = ", ".join(f"`{name}` string" for name in [*options.columns, "_corrupt"])
        parsing = {
            "sep": options.delimiter,
            "quote": options.quote,
            "escape": options.escape,
            "ignoreLeadingWhiteSpace": options.trim,
            "ignoreTrailingWhiteSpace": options.trim,
            "columnNameOfCorruptRecord": "_corrupt",
            "maxCharsPerColumn": -1,
        }
        filing: dict[str, Any] = {"header": options.header, "enforceSchema": True}
        if options.comment is not None:
            filing["comment"] = options.comment
        if options.multiline:
            reader = context.spark.read.options(encoding=options.encoding, multiLine=True, columnPruning=False, **parsing)
            rows = with_source_columns(reader.options(**filing).schema(texts).csv(self.files()))
            names = [F.col(f"`{name}`") for name in options.columns]
            raw = F.coalesce("_corrupt", F.to_csv(F.struct(*names), {"sep": options.delimiter}))
            garbled = _any([F.contains(name, F.lit(_REPLACED)) for name in names])
            return rows.select(raw.alias("raw"), F.struct(*names, "_corrupt").alias("fields"), garbled.alias("broken"), "_file")
        # one column of whole lines: a separator that text does not hold, no quotes, and an encoding that keeps every byte
        whole: dict[str, Any] = {
            "sep": "\x01",
            "quote": "",
            "encoding": _BYTES,
            "columnNameOfCorruptRecord": "_corrupt",
            "maxCharsPerColumn": -1,
        }
        lines = context.spark.read.options(**whole, **filing).schema("line string, _corrupt string").csv(self.files())
        rows = with_source_columns(lines).select(F.coalesce("_corrupt", "line").alias("line"), "_file")
        content = F.encode(F.regexp_replace("line", f"^{_BOM}", ""), _BYTES)
        valid = F.is_valid_utf8(content.cast("string")) if options.encoding == "UTF-8" else F.lit(True)
        raw = F.when(valid, F.decode(content, options.encoding)).otherwise(F.decode(content, _BYTES))
        return rows.select(raw.alias("raw"), (~valid).alias("broken"), "_file").select(
            "raw",
            F.from_csv("raw", texts, {key: str(value) for key, value in parsing.items()}).alias("fields"),
            "broken",
            "_file",
        )

    def lacks(self, column: str) -> bool:
        if column not in self.options.columns:
            return False
        starts = [self._fields(self._first_record(path)) for path in self.files()]
        if self.options.header:
            return not any(column in fields for fields in starts)
        return all(len(fields) == len(self.options.columns) - 1 for fields in starts)

    def _fields(self, record: str) -> list[str]:
        delimiter = self.options.delimiter
        if len(delimiter) > 1:  # Python's reader takes one character only
            record, delimiter = record.replace(delimiter, "\x1f"), "\x1f"
        fields = next(csv.reader(io.StringIO(record), delimiter=delimiter, quotechar=self.options.quote), [])
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
        raise DataError(f"{path} holds no records")


def _any(conditions: list[Column]) -> Column:
    from functools import reduce
    from operator import or_

    from pyspark.sql import functions as F

    return reduce(or_, [F.coalesce(condition, F.lit(False)) for condition in conditions], F.lit(False))
