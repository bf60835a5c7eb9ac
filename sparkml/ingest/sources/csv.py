"""Delimited text with a declared schema; whatever does not fit it is kept as a raw record, never nulled or dropped."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from sparkml.errors import DataError
from sparkml.ingest.files import spark_urls
from sparkml.ingest.source import Columns, FileOptions, ReadContext, Source, check_declared, with_source_columns
from sparkml.storage import opened

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_DELIMITERS = (",", ";", "\t", "|")
_BYTES = "ISO-8859-1"  # every byte is a character of it
_BOM = "\xef\xbb\xbf"  # UTF-8's byte order mark, read as such bytes
_NEVER = ("\ue000", "\ue001", "\ue002")  # no characters of ISO-8859-1: as separator, quote and escape they leave lines whole
_END = "."  # a field after the last one: an open quote swallows it, and then a field is missing
_BLOCK = 1024  # records that a task hands to Spark at a time


class CsvOptions(FileOptions):
    """How the text is to be read; `columns` maps names to Spark SQL types in the file's order."""

    columns: Columns = Field(min_length=1)
    header: bool = False
    delimiter: str = Field(",", min_length=1, max_length=2)
    encoding: Literal["UTF-8", "ISO-8859-1", "US-ASCII"] = "UTF-8"
    quote: str = Field('"', min_length=1, max_length=1)
    escape: str = Field('"', min_length=1, max_length=1)
    comment: str | None = Field(None, min_length=1, max_length=1)
    null_values: list[str] = Field(["", "NA", "null"], description="texts that mean: no value")
    trim: bool = True
    multiline: bool = Field(False, description="quoted fields may hold line ends; a file is then read by one task")

    @model_validator(mode="after")
    def _unambiguous(self) -> CsvOptions:
        if self.quote in self.delimiter or self.comment in (self.delimiter, self.quote):
            raise ValueError(f"delimiter {self.delimiter!r}, quote {self.quote!r} and comment {self.comment!r} must differ")
        taken: dict[str, str] = {}
        for name in self.columns:
            if (other := taken.setdefault(name.lower(), name)) != name:
                raise ValueError(f"columns {other!r} and {name!r} differ in case only, which Spark does not tell apart")
        return self


class Csv(Source):
    """Every field is read as text and converted by a strict cast, so that a bad number is a bad row and not a null."""

    Options = CsvOptions

    def read(self, context: ReadContext) -> DataFrame:
        from pyspark.sql import functions as F

        for path in self.files():
            self._check_start(path)
        options = self.options
        kinds = options.columns.values()
        texts = [F.col(f"fields.f{place}") for place in range(len(options.columns))]
        values = [F.when(~text.isin(options.null_values), text) for text in texts]
        lost = [_lost(value, kind) for value, kind in zip(values, kinds, strict=True) if kind != "string"]
        broken = _any([F.col("broken"), F.col("fields._corrupt").isNotNull(), *lost])
        typed = [
            F.when(~broken, value.try_cast(kind)).alias(name)
            for name, value, kind in zip(options.columns, values, kinds, strict=True)
        ]
        return self._records(context).select(*typed, F.when(broken, F.col("raw")).alias("_corrupt"), "_file")

    def _records(self, context: ReadContext) -> DataFrame:
        """Return ``raw`` (the very record), ``fields`` (``f0``, ``f1``, ... as text; ``_corrupt`` when too many or few),
        ``broken`` (what its encoding does not allow, or a NUL, which the parser would drop) and ``_file``.
        """
        from pyspark.sql import functions as F

        options = self.options
        whole = self._whole_records(context) if options.multiline else self._whole_lines(context)
        record = F.regexp_replace("record", f"^{_BOM}", "")
        content = F.encode(record, _BYTES)
        utf8 = options.encoding == "UTF-8"
        valid = (
            F.is_valid_utf8(content.cast("string"))
            if utf8
            else F.lit(options.encoding == _BYTES) | ~record.rlike("[^\\x00-\\x7f]")
        )
        raw = F.when(valid, F.decode(content, "UTF-8")).otherwise(record) if utf8 else record
        parsing = {
            "sep": options.delimiter,
            "quote": options.quote,
            "escape": options.escape,
            "ignoreLeadingWhiteSpace": str(options.trim),
            "ignoreTrailingWhiteSpace": str(options.trim),
            "columnNameOfCorruptRecord": "_corrupt",
            "maxCharsPerColumn": "-1",
            "maxColumns": str(max(20480, 2 * len(options.columns))),
        }
        schema = ", ".join([*(f"f{place} string" for place in range(len(options.columns))), "ended string", "_corrupt string"])
        return whole.select(raw.alias("raw"), (~valid | record.contains("\0")).alias("broken"), "_file").select(
            "raw",
            F.from_csv(F.concat("raw", F.lit(options.delimiter + _END)), schema, parsing).alias("fields"),
            "broken",
            "_file",
        )

    def _whole_lines(self, context: ReadContext) -> DataFrame:
        """Return ``record`` (bytes as ISO-8859-1's characters) and ``_file``, one row per line."""
        options = self.options
        reading: dict[str, Any] = dict(zip(("sep", "quote", "escape"), _NEVER, strict=True))
        if options.comment is not None:
            reading["comment"] = options.comment
        reader = context.spark.read.options(
            encoding=_BYTES, header=options.header, enforceSchema=True, maxCharsPerColumn=-1, **reading
        )
        return with_source_columns(reader.schema("record string").csv(spark_urls(self.files()))).select("record", "_file")

    def _whole_records(self, context: ReadContext) -> DataFrame:
        """The same where a quoted field may hold line ends; a file is read by one task."""
        files = self.files()
        tasks = context.spark.range(0, len(files), 1, len(files))
        return tasks.mapInArrow(partial(_read_files, files=files, options=self.options), "record string, _file string")

    def lacks(self, column: str) -> bool:
        if column not in self.options.columns:
            return False
        starts = [self._fields(_first_record(path, self.options)) for path in self.files()]
        if self.options.header:
            return not any(column in fields for fields in starts)
        return all(len(fields) == len(self.options.columns) - 1 for fields in starts)

    def _fields(self, record: str) -> list[str]:
        delimiter = self.options.delimiter
        if len(delimiter) > 1:  # Python's reader takes one character only
            record, delimiter = record.replace(delimiter, "\x1f"), "\x1f"
        quote, escape = self.options.quote, self.options.escape
        csv.field_size_limit(max(csv.field_size_limit(), len(record)))
        escaping: dict[str, Any] = {"doublequote": True} if escape == quote else {"doublequote": False, "escapechar": escape}
        fields = next(csv.reader(io.StringIO(record), delimiter=delimiter, quotechar=quote, **escaping), [])
        return [field.strip() for field in fields]

    def _check_start(self, path: str) -> None:
        """Compare the first record with the declared columns: a wrong delimiter or header stops here, before Spark reads on."""
        options = self.options
        first = _first_record(path, options)
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


def _first_record(path: str, options: CsvOptions) -> str:
    for record in _records_of(path, options):
        return record.encode(_BYTES).decode(options.encoding, errors="replace")
    raise DataError(f"{path} holds no records")


def _read_files(batches: Iterable[pa.RecordBatch], files: list[str], options: CsvOptions) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column(0).to_pylist():
            records = _records_of(files[number], options)
            if options.header:
                next(records, None)
            name = files[number].rpartition("/")[2]
            while block := list(islice(records, _BLOCK)):
                yield pa.RecordBatch.from_pydict({"record": block, "_file": [name] * len(block)})


def _records_of(path: str, options: CsvOptions) -> Iterator[str]:
    """Yield a file's records, header included, without line ends, blank lines and comments; each character is a byte."""
    fs, inside = opened(path)
    quotes, record = _Quotes(options), ""
    try:
        with fs.open(inside, "rb") as raw:
            data = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
            text = io.TextIOWrapper(data, _BYTES, newline="\n" if options.multiline else None)
            for number, line in enumerate(text):
                if number == 0:
                    line = line.removeprefix(_BOM)
                if not record and (not line.strip() or (options.comment and line.startswith(options.comment))):
                    continue
                still_open = options.multiline and quotes.open_after(line, is_open=bool(record))
                record += line
                if not still_open:
                    yield record.rstrip("\r\n")
                    record = ""
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path}: the compressed file is truncated or damaged") from None
    if record:
        yield record


class _Quotes:
    """Whether a line ends inside a quoted field. As for Spark, a quote opens at the start of a field only."""

    def __init__(self, options: CsvOptions) -> None:
        self._quote, self._delimiter, sign = (
            text.encode(options.encoding).decode(_BYTES) for text in (options.quote, options.delimiter, options.escape)
        )
        quote, escape = re.escape(self._quote), re.escape(sign)
        blank = "" if not options.trim else " *" if options.delimiter == "\t" else r"[ \t]*"
        escaped = quote + quote if escape == quote else f"{escape}."
        self._opening = re.compile(blank + quote)
        self._rest = re.compile(f"(?:(?!{quote}|{escape}).|{escaped})*+{quote}", re.DOTALL)

    def open_after(self, line: str, *, is_open: bool) -> bool:
        if self._quote not in line:
            return is_open
        place = 0
        while True:
            opening = None if is_open else self._opening.match(line, place)
            if is_open or opening is not None:
                closed = self._rest.match(line, place if opening is None else opening.end())
                if closed is None:
                    return True
                is_open, place = False, closed.end()
            place = line.find(self._delimiter, place) + len(self._delimiter)
            if place < len(self._delimiter):
                return False


def _lost(value: Column, kind: str) -> Column:
    """Whether a conversion would lose a text: it gives nothing, or a decimal of fewer digits."""
    from pyspark.sql import functions as F

    converted = value.try_cast(kind)
    nothing = value.isNotNull() & converted.isNull()
    if not kind.startswith(("decimal", "numeric")):
        return nothing
    return nothing | F.coalesce(converted.cast("decimal(38,18)") != value.try_cast("decimal(38,18)"), F.lit(False))


def _any(conditions: list[Column]) -> Column:
    from functools import reduce
    from operator import or_

    from pyspark.sql import functions as F

    return reduce(or_, [F.coalesce(condition, F.lit(False)) for condition in conditions], F.lit(False))
