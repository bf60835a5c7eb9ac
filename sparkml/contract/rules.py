"""The rules of one column as conditions on its rows; what its type cannot be compared with is refused before a row is read."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from sparkml.contract.settings import ColumnRule
from sparkml.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession
    from pyspark.sql.types import DataType

_DECIMAL_DIGITS = 38  # the most that Spark's decimals hold


def column_rules(name: str, kind: DataType, rule: ColumnRule, *, nullable: bool) -> list[tuple[str, Column]]:
    """Return the name of each rule of a column and the condition that breaks it (null where it does not apply).

    Raises
    ------
    ConfigError
        A bound or value is of another kind than the column, or a rule means nothing for its type.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import BooleanType, DoubleType, FloatType, MapType

    column = F.col(f"`{name}`")
    where = f"contract.columns.{name}"
    fractional = isinstance(kind, DoubleType | FloatType)
    if isinstance(kind, BooleanType) and (rule.min is not None or rule.max is not None):
        raise ConfigError(f"{where}: min and max mean nothing for a boolean column; use allowed: [true] or [false]")
    if isinstance(kind, MapType) and (rule.unique or rule.distinct_min is not None):
        raise ConfigError(f"{where}: unique and distinct_min mean nothing for a map column, Spark does not compare maps")
    found: list[tuple[str, Column]] = []
    if not nullable:
        found.append(("null", column.isNull()))
    if rule.finite and fractional:
        found.append(("finite", F.isnan(column) | (F.abs(column) == F.lit(float("inf")))))
    if rule.min is not None:
        found.append(("min", column < _constant(rule.min, kind, f"{where}.min")))
    if rule.max is not None:
        above = column > _constant(rule.max, kind, f"{where}.max")
        found.append(("max", above & ~F.isnan(column) if fractional else above))
    if rule.allowed is not None:
        found.append(("allowed", ~column.isin([_constant(value, kind, f"{where}.allowed") for value in rule.allowed])))
    if rule.pattern is not None:
        _check_has_text(kind, f"{where}.pattern")
        found.append(("pattern", ~column.cast("string").rlike(_whole(rule.pattern))))
    return found


def check_pattern(spark: SparkSession, name: str, pattern: str) -> None:
    """Raise `ConfigError` for what is no regular expression in Java's syntax, which is not quite Python's."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    try:
        spark.sql("VALUES ('')").select(F.lit("").rlike(pattern), F.lit("").rlike(_whole(pattern))).collect()
    except (PySparkException, Py4JJavaError):
        raise ConfigError(
            f"contract.columns.{name}.pattern: {pattern!r} is not a regular expression in Java's syntax",
            hint="see the documentation of java.util.regex.Pattern; in YAML, single quotes keep backslashes as they are",
        ) from None


def _whole(pattern: str) -> str:
    return rf"\A(?:{pattern})\z"  # unlike ^ and $, these do not match before a line end


def _check_has_text(kind: DataType, where: str) -> None:
    from pyspark.sql.types import DateType, DecimalType, IntegralType, StringType, TimestampNTZType, TimestampType

    if not isinstance(kind, StringType | IntegralType | DecimalType | DateType | TimestampType | TimestampNTZType):
        raise ConfigError(f"{where}: a {kind.simpleString()} column has no text of its own; derive one, or use min and max")


def _constant(value: Any, kind: DataType, where: str) -> Column:
    """Return `value` in the column's own type: as another one, Spark would compare 9007199254740993 and 0.1 inexactly."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import (
        BooleanType,
        DateType,
        DecimalType,
        DoubleType,
        FloatType,
        IntegralType,
        StringType,
        TimestampNTZType,
        TimestampType,
    )

    number = None if isinstance(value, bool | str) else value
    if isinstance(kind, BooleanType) and isinstance(value, bool):
        return F.lit(value)
    if isinstance(kind, IntegralType) and number is not None and -(2**63) <= number < 2**63:
        return F.lit(number if isinstance(number, int) else _decimal(number))
    if isinstance(kind, DecimalType) and not isinstance(value, bool) and (exact := _decimal(value)) is not None:
        return F.lit(exact)
    if isinstance(kind, DoubleType | FloatType) and number is not None and abs(number) < 2.0**1023:
        return F.lit(float(number)).cast(kind)
    if isinstance(kind, StringType) and isinstance(value, str):
        return F.lit(value)
    moment = _moment(value)
    if isinstance(kind, DateType) and moment is not None and not isinstance(moment, datetime):
        return F.lit(moment)
    zone = moment.tzinfo if isinstance(moment, datetime) else None
    if moment is not None and (isinstance(kind, TimestampType) or (isinstance(kind, TimestampNTZType) and zone is None)):
        return F.lit(moment.isoformat()).cast(kind)
    wanted = next((text for kinds, text in _wanted().items() if isinstance(kind, kinds)), None)
    if wanted is None:
        raise ConfigError(f"{where}: a {kind.simpleString()} column cannot be compared with a value")
    raise ConfigError(f"{where}: {value!r} cannot be compared with a {kind.simpleString()} column; allowed: {wanted}")


def _wanted() -> dict[tuple[type[DataType], ...], str]:
    from pyspark.sql import types

    return {
        (types.BooleanType,): "true or false",
        (types.IntegralType,): "a number within 64 bits",
        (types.DecimalType,): f"a number of at most {_DECIMAL_DIGITS} digits",
        (types.DoubleType, types.FloatType): "a finite number",
        (types.StringType,): "a text (in YAML put numbers, dates, yes and no in quotes)",
        (types.DateType,): "a date such as 2026-03-02",
        (types.TimestampType,): "a time such as 2026-03-02T10:30:00 or 2026-03-02T10:30:00+01:00",
        (types.TimestampNTZType,): "a time such as 2026-03-02T10:30:00, without a zone",
    }


def _decimal(value: float | str) -> Decimal | None:
    try:
        exact = Decimal(str(value))
    except InvalidOperation:
        return None
    if not exact.is_finite():
        return None
    plain = Decimal(f"{exact:f}")  # without an exponent: Spark knows no negative scale
    _, digits, exponent = plain.as_tuple()
    return plain if isinstance(exponent, int) and max(len(digits), -exponent) <= _DECIMAL_DIGITS else None


def _moment(value: Any) -> date | None:
    """A day, or a `datetime`, written in ISO 8601."""
    for read in (date.fromisoformat, datetime.fromisoformat):
        try:
            return read(value) if isinstance(value, str) else None
        except ValueError:
            continue
    return None
