"""Settings of the contract: what good rows look like."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from sparkml.config import Options


def _plain(value: Any) -> Any:
    """YAML reads 2026-03-02 as a date; it stays text until the column's type is known."""
    return value.isoformat() if isinstance(value, date) else value


def _comparable(value: Any) -> Any:
    if isinstance(value, bool) or value != value:
        raise ValueError("must be a number, a date or a text")
    return _plain(value)


Bound = Annotated[int | float | str, BeforeValidator(_comparable)]


class ColumnRule(Options):
    """The rules of one column; each that is broken sends the row to quarantine under ``rule:column``.

    Attributes
    ----------
    type
        Spark type name (``bigint``, ``double``, ``string``, ...); a table of another type is an error, not a bad row.
    finite
        NaN and infinities are broken rows.
    min, max, allowed
        In the column's own type: numbers, ISO dates and times, texts; whether they fit it is checked before a row is read.
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
    allowed: list[Annotated[bool | int | float | str, BeforeValidator(_plain)]] | None = Field(None, min_length=1)
    pattern: str | None = None
    unique: bool = False
    finite: bool = True
    distinct_min: int | None = Field(None, ge=1)

    @field_validator("allowed", mode="before")
    @classmethod
    def _null_is_no_value(cls, value: Any) -> Any:
        if isinstance(value, list) and None in value:
            raise ValueError("null is not a value; nullable: true allows it")
        return value

    @model_validator(mode="after")
    def _bounds_in_order(self) -> ColumnRule:
        low, high = self.min, self.max
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            raise ValueError(f"min {low} is above max {high}")
        return self


class Check(Options):
    """A rule over several columns: rows where the SQL condition is false are broken; where it is null they pass."""

    name: str = Field(min_length=1)
    expr: str = Field(min_length=1)


class RowBounds(Options):
    """How many good rows there must be."""

    min: int = Field(1, ge=0)
    max: int | None = None

    @model_validator(mode="after")
    def _in_order(self) -> RowBounds:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


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
