"""What the contract found, and its verdict."""

from __future__ import annotations

from pydantic import BaseModel

from sparkml.errors import DataError


class BadExample(BaseModel):
    """A row of the quarantine, its raw record shortened."""

    rules: list[str]
    raw: str


class ColumnStats(BaseModel):
    """One column of the good rows."""

    type: str
    nulls: int
    distinct: int | None = None
    minimum: str | float | None = None
    mean: float | None = None
    maximum: str | float | None = None


class ContractReport(BaseModel):
    """Counts of good and bad rows, by rule; a row can break several rules."""

    rows: int
    good: int
    bad: int
    by_rule: dict[str, int]
    examples: list[BadExample]
    columns: dict[str, ColumnStats]
    max_bad_fraction: float
    problems: list[str] = []

    @property
    def bad_fraction(self) -> float:
        return self.bad / self.rows if self.rows else 0.0

    def verdict(self, quarantine_url: str) -> None:
        """Raise `DataError` when too many rows are bad, too few are good, or a whole-column rule is broken."""
        rules = ", ".join(f"{rule} {count:,}" for rule, count in list(self.by_rule.items())[:5])
        example = f"; for example {self.examples[0].raw!r}" if self.examples else ""
        where = f"look at the rows in {quarantine_url}" if self.bad else None
        if self.bad_fraction > self.max_bad_fraction:
            raise DataError(
                f"{self.bad:,} of {self.rows:,} rows ({self.bad_fraction:.2%}) break the contract, max_bad_fraction is "
                f"{self.max_bad_fraction:.2%}: {rules}{example}",
                hint=where,
            )
        if self.good == 0:
            raise DataError(f"no good rows are left of {self.rows:,}" + (f": {rules}{example}" if self.bad else ""), hint=where)
        if self.problems:
            raise DataError("the table breaks the contract: " + "; ".join(self.problems), hint=where)
