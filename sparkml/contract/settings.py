"""Settings of the contract: what good rows look like."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sparkml.config import Options

Bound = int | float | str


class ColumnRule(Options):
    """The rules of one column; each that is broken sends the row to quarantine under ``rule:column``.

    Attributes
    ----------
    type
        Spark type name (``bigint``, ``double``, ``string``, ...); a table of another type is an error, not a bad row.
    finite
        NaN and infinities are broken rows.
    pattern
        Regular expression (Java's syntax) that the whole value matches.
    unique
        The first row of each value is kept (in the order of a hash of the row), the others are broken.
    distinct_min
        The column must have at least this many distinct values over all good rows: 2 refuses a constant column.
    """

    type: str | None = None
    nullable: bool = True
    min: Bound | None = None
    max: Bound | None = None
    allowed: list[Any] | None = None
    pattern: str | None = None
    unique: bool = False
    finite: bool = True
    distinct_min: int | None = Field(None, ge=1)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return value


class Check(Options):
    """A rule over several columns: rows where the SQL expression is false are broken; where it is null they pass."""

    name: str
    expr: str


class RowBounds(Options):
    """How many good rows there must be."""

    min: int = Field(1, ge=0)
    max: int | None = None


class ContractSettings(Options):
    """What good rows look like, and how many bad ones are tolerated."""

    columns: dict[str, ColumnRule] = {}
    checks: list[Check] = []
    rows: RowBounds = RowBounds()
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="above it the run stops with exit code 3")
    extra_columns: Literal["keep", "error"] = "keep"

    @model_validator(mode="after")
    def _names_differ(self) -> ContractSettings:
        names = [check.name for check in self.checks]
        if len(set(names)) < len(names):
            raise ValueError("two checks have the same name")
        return self
