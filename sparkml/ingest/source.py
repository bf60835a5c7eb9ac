"""What a source is: raw files or a bundled set on one side, a typed table on the other."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from sparkml.config import Options, suggest
from sparkml.ingest.download import Download, cached, fetch
from sparkml.ingest.files import expand
from sparkml.plugins import Plugin

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


_PLAIN_TYPES = (
    *("tinyint", "byte", "smallint", "short", "int", "integer", "bigint", "long", "float", "real", "double"),
    *("string", "boolean", "date", "timestamp", "timestamp_ntz", "binary"),
)
_OTHER_TYPES = re.compile(r"(?:decimal|numeric)\(\d+,\s*\d+\)|(?:array|map|struct)<.+>")


def _spark_knows(kind: str) -> str:
    kind = kind.strip().lower()
    if kind not in _PLAIN_TYPES and not _OTHER_TYPES.fullmatch(kind):
        raise ValueError(f"not a Spark SQL type; {suggest(kind, (*_PLAIN_TYPES, 'decimal(10,2)'))}")
    return kind


SqlType = Annotated[str, AfterValidator(_spark_knows)]


def _plain_name(name: str) -> str:
    if not name or "`" in name or name.lower() in {"_corrupt", "_file"}:
        raise ValueError("a column may not be called '_corrupt' or '_file', nor hold a backtick")
    return name


Columns = dict[Annotated[str, AfterValidator(_plain_name)], SqlType]


class SourceOptions(Options):
    """Options of every source. `derive` adds or replaces columns by Spark SQL expressions, in order, after reading."""

    derive: dict[str, str] = {}


class FileOptions(SourceOptions):
    """Options of every source that reads files: paths, folders or globs, local or on any store; or what to download instead."""

    path: list[str] = []
    downloads: list[Download] = Field([], description="fetched into the user's cache when no path is given")

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _from_somewhere(self) -> FileOptions:
        if not self.path and not self.downloads:
            raise ValueError("needs 'path' or 'downloads'")
        return self


@dataclass
class ReadContext:
    """What reading may use: the session, a folder for checkpoints that is removed afterwards, and notes for the lineage."""

    spark: SparkSession
    scratch_url: str
    notes: dict[str, Any] = field(default_factory=dict)


class Source(Plugin):
    """Raw data. `files` and `identity` need no JVM: they decide whether anything has to be read at all."""

    def fetch(self) -> None:
        """Make missing raw files: download them with their checksum, or generate them. Does nothing for files of the user."""
        if isinstance(self.options, FileOptions) and not self.options.path:
            fetch(self.options.downloads)

    def fetched(self) -> bool:
        """Whether `fetch` would have nothing to do."""
        if not isinstance(self.options, FileOptions) or self.options.path:
            return True
        return all(cached(item).exists() for item in self.options.downloads)

    def files(self) -> list[str]:
        """Return the raw files, sorted; empty for sources that have none. Raises `DataError` for missing input."""
        if not isinstance(self.options, FileOptions):
            return []
        return expand(self.options.path or [str(cached(item)) for item in self.options.downloads])

    def identity(self) -> dict[str, Any]:
        """Return what decides the table beside the files' content: the options without where the files lie."""
        return {"source": self.plugin_name(), **self.options.model_dump(mode="json", exclude={"path", "downloads"})}

    def lacks(self, column: str) -> bool:
        """Whether the raw files come without this declared column: rows to score need no target. Needs no JVM."""
        return False

    @abstractmethod
    def read(self, context: ReadContext) -> DataFrame:
        """Return the typed columns, ``_corrupt`` (raw record of what could not be read, else null) and ``_file``."""


def with_source_columns(rows: DataFrame) -> DataFrame:
    """Add ``_file`` (base name of the raw file) and, where the reader made none, an empty ``_corrupt``."""
    from pyspark.sql import functions as F

    if "_corrupt" not in rows.columns:
        rows = rows.withColumn("_corrupt", F.lit(None).cast("string"))
    if "_file" not in rows.columns:
        rows = rows.withColumn("_file", F.col("_metadata.file_name"))
    return rows


def check_declared(found: dict[str, str], declared: dict[str, str], where: str) -> Sequence[str]:
    """Return the differences between the columns that were found and those declared, as sentences."""
    wrong = [f"{name} is missing ({suggest(name, found)})" for name in declared if name not in found]
    wrong += [f"{name} is {found[name]}, declared {kind}" for name, kind in declared.items() if found.get(name, kind) != kind]
    wrong += [f"{name} is not declared" for name in found if name not in declared]
    return [f"{where}: {item}" for item in wrong]
