"""Web-server logs, parsed and sessionised on RDDs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from pydantic import Field, model_validator

from sparkml.errors import DataError
from sparkml.ingest.source import FileOptions, ReadContext, Source
from sparkml.ingest.weblog.generate import TRUTH, VERSION, Generate, generate
from sparkml.ingest.weblog.lines import SPLIT_BYTES, splits
from sparkml.lineage.fingerprint import fingerprint
from sparkml.storage import opened

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class WebLogsOptions(FileOptions):
    """Logs in the combined log format; a file named `labels` beside them (``host,label``) says what a client is."""

    gap_minutes: float = Field(30, gt=0, description="a pause that ends a session")
    max_malformed_fraction: float = Field(0.02, ge=0, le=1, description="of lines; above it the run stops with exit code 3")
    labels: str = TRUTH
    split_bytes: int = Field(SPLIT_BYTES, ge=1024, description="bytes of a log that one task reads")
    generate: Generate | None = None

    @model_validator(mode="after")
    def _from_somewhere(self) -> WebLogsOptions:
        if not self.path and not self.downloads and self.generate is None:
            raise ValueError("needs 'path', 'downloads' or 'generate'")
        return self


class WebLogs(Source):
    """One row per session; a malformed line is a row with nothing but its text, for the quarantine.

    The RDD's lineage goes into the run record before and after it is truncated by a reliable checkpoint in the store, which the
    ingest stage removes when the table is written.
    """

    Options = WebLogsOptions

    def fetch(self) -> None:
        if self._generated is not None:
            generate(self._generated, self.options.generate)
        else:
            super().fetch()

    def fetched(self) -> bool:
        return super().fetched() if self._generated is None else self._generated.exists()

    def files(self) -> list[str]:
        if self._generated is not None:
            options = self.options.model_copy(update={"path": [str(self._generated)]})
            return WebLogs(options).files()
        found = super().files()
        if all(path.rpartition("/")[2] == self.options.labels for path in found):
            raise DataError(f"there is no log beside {found[0]}", hint="check source.path")
        return found

    @property
    def _generated(self) -> Path | None:
        """Where generated logs lie: a folder in the user's cache that is named by what was generated."""
        if self.options.path or self.options.downloads or self.options.generate is None:
            return None
        mark = fingerprint([VERSION, self.options.generate.model_dump()])
        return Path(platformdirs.user_cache_path("sparkml")) / "generated" / f"web-logs-{mark}"

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in super().identity().items() if key not in {"generate", "split_bytes"}}

    def read(self, context: ReadContext) -> DataFrame:
        from pyspark import StorageLevel
        from pyspark.sql import functions as F

        from sparkml.ingest.weblog.sessions import SCHEMA, session_rows

        found = self.files()
        logs = [path for path in found if path.rpartition("/")[2] != self.options.labels]
        labels = _labels([path for path in found if path not in logs])
        pieces = splits([(path, _size(path)) for path in logs], self.options.split_bytes)
        spark = context.spark.sparkContext
        rows = session_rows(spark, pieces, labels, gap_seconds=round(self.options.gap_minutes * 60))
        context.notes["rdd_lineage"] = _lineage(rows)

        spark.setCheckpointDir(context.scratch_url)
        rows.persist(StorageLevel.DISK_ONLY).checkpoint()  # persisted: otherwise the checkpoint computes everything again
        try:
            sessions, requests, malformed = _counted(rows)
        finally:
            rows.unpersist()
            spark.setCheckpointDir(None)  # type: ignore[arg-type]  # others would go on writing into a folder that is removed
        context.notes["rdd_lineage_after_checkpoint"] = _lineage(rows)
        context.notes["lines"] = {"read": requests + malformed, "malformed": malformed, "sessions": sessions}
        self._check(requests, malformed, rows)
        return context.spark.createDataFrame(rows, SCHEMA).withColumn("started", F.timestamp_seconds("started"))

    def _check(self, requests: int, malformed: int, rows: Any) -> None:
        lines = requests + malformed
        if lines and malformed / lines > self.options.max_malformed_fraction:
            example = next(row[-1] for row in rows.filter(lambda row: row[-1] is not None).toLocalIterator())
            raise DataError(
                f"{malformed:,} of {lines:,} lines ({malformed / lines:.2%}) are malformed, source.max_malformed_fraction is "
                f"{self.options.max_malformed_fraction:.2%}; for example {example[:200]!r}",
                hint="are these logs in the combined log format?",
            )


def _counted(rows: Any) -> tuple[int, int, int]:
    """Compute all rows; return the numbers of sessions, requests and malformed lines. A task's `DataError` is raised as such."""
    from py4j.protocol import Py4JJavaError

    try:
        return rows.map(_counts).fold((0, 0, 0), _add)  # type: ignore[no-any-return]
    except Py4JJavaError as error:
        own = re.search(r"\bDataError: (.+)", str(error))
        if own is None:
            raise
        raise DataError(own[1]) from None


def _counts(row: tuple[Any, ...]) -> tuple[int, int, int]:
    return (1, row[5], 0) if row[-1] is None else (0, 0, 1)


def _add(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _lineage(rows: Any) -> list[str]:
    text = rows.toDebugString()
    return [] if text is None else [line.rstrip() for line in text.decode().splitlines()]


def _size(path: str) -> int:
    fs, inside = opened(path)
    return int(fs.size(inside))


def _labels(paths: Sequence[str]) -> dict[str, str]:
    """Return the label of each host.

    Raises
    ------
    DataError
        A file lacks a column, a row lacks a value, or a host has two labels.
    """
    known: dict[str, str] = {}
    for path in paths:
        fs, inside = opened(path)
        try:
            with fs.open(inside, "rb") as raw:
                reader = csv.DictReader(io.TextIOWrapper(raw, "utf-8-sig"))
                if reader.fieldnames is None or not {"host", "label"} <= set(reader.fieldnames):
                    raise DataError(f"{path} must have the columns host and label, it has {', '.join(reader.fieldnames or [])}")
                for row in reader:
                    host, label, where = row["host"], row["label"], f"{path}, line {reader.line_num}"
                    if not host or not label:
                        raise DataError(f"{where}: needs a host and its label, found {host!r} and {label!r}")
                    if known.setdefault(host, label) != label:
                        raise DataError(f"{where}: the host {host} is {label!r} here and {known[host]!r} before")
        except UnicodeDecodeError:
            raise DataError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None
    return known
