"""Applies a contract: good rows to one table, broken ones with rules and raw record to another, nothing vanishes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sparkml.config import suggest
from sparkml.contract.report import BadExample, ColumnStats, ContractReport
from sparkml.contract.rules import check_pattern, column_rules
from sparkml.contract.settings import ContractSettings
from sparkml.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType, StructField

_INTERNAL = ("_corrupt", "_file")
_RULES = "_sparkml_rules"
EXAMPLES = 10
_SKETCH_BITS = 12  # 4,096 registers
RAW_SHOWN = 200  # characters of a raw record that a report or message shows


def enforce(
    rows: DataFrame, contract: ContractSettings, good_url: str, bad_url: str, *, optional: frozenset[str] = frozenset()
) -> ContractReport:
    """Write good rows to `good_url`, broken ones (``rules``, ``raw``, ``file``) to `bad_url`, and count.

    Parameters
    ----------
    rows
        A table as ingest wrote it: typed columns, ``_corrupt`` (the raw record of rows that could not be read), ``_file``.
    optional
        Columns that may be absent or null, such as the target when scoring.

    Raises
    ------
    DataError
        Columns are missing, of another type, or (with ``extra_columns: error``) too many; or rows came out that did not go in.
    ConfigError
        A check is no SQL condition over these columns, a bound or value is of another kind than its column.
    """
    from pyspark.sql import functions as F

    _check_columns(rows, contract, optional)
    spark = rows.sparkSession
    judged = rows.withColumn(_RULES, F.array_compact(F.array(*_broken(rows, contract, optional))))
    judged = _judge_unique(judged, contract)
    values = [name for name in rows.columns if name not in _INTERNAL]
    raw = F.coalesce(F.col("_corrupt"), F.to_json(F.struct(*[_printable(rows, name) for name in values])))
    good = judged.where(F.size(_RULES) == 0).drop(_RULES, "_corrupt")
    bad = judged.where(F.size(_RULES) > 0).select(F.col(_RULES).alias("rules"), raw.alias("raw"), F.col("_file").alias("file"))
    good.write.mode("append").parquet(good_url)
    bad.write.mode("append").parquet(bad_url)
    report = _count(spark.read.parquet(good_url), spark.read.parquet(bad_url), contract)
    if report.rows != (given := rows.count()):
        raise DataError(
            f"the contract was given {given:,} rows and found {report.good:,} good and {report.bad:,} bad ones",
            hint="a check that asks for the time or for a random number may judge a row twice, differently",
        )
    return report


def _check_columns(rows: DataFrame, contract: ContractSettings, optional: frozenset[str]) -> None:
    types = {field.name: field.dataType for field in rows.schema if field.name not in _INTERNAL}
    wrong = []
    for name, rule in contract.columns.items():
        if name not in types:
            if name not in optional:
                wrong.append(f"{name} is missing ({suggest(name, types)})")
        elif rule.type is not None and types[name] != _declared(name, rule.type):
            wrong.append(f"{name} is {types[name].simpleString()}, the contract says {rule.type}")
    if contract.extra_columns == "error":
        wrong += [f"{name} is not in the contract" for name in types if name not in contract.columns]
    if wrong:
        raise DataError("the table's columns are not those of the contract: " + "; ".join(wrong))


def _declared(name: str, kind: str) -> DataType:
    from pyspark.errors import ParseException
    from pyspark.sql.types import _parse_datatype_string

    try:
        return _parse_datatype_string(kind)
    except ParseException:
        raise ConfigError(f"contract.columns.{name}.type: {kind!r} is not a Spark SQL type, such as bigint or string") from None


def _broken(rows: DataFrame, contract: ContractSettings, optional: frozenset[str]) -> list[Column]:
    """One column per rule: its name where the row breaks it, null where not. Unreadable rows break one rule only."""
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    readable = F.col("_corrupt").isNull()
    rules = [F.when(~readable, F.lit("corrupt_record"))]
    types = {field.name: field.dataType for field in rows.schema}
    for name, rule in contract.columns.items():
        if name in types:
            if rule.pattern is not None:
                check_pattern(rows.sparkSession, name, rule.pattern)
            for label, broken in column_rules(name, types[name], rule, nullable=rule.nullable or name in optional):
                rules.append(F.when(readable & F.coalesce(broken, F.lit(False)), F.lit(f"{label}:{name}")))
    for check in contract.checks:
        holds = F.expr(check.expr)
        try:
            rows.where(holds)  # takes conditions on one row only: no aggregates, no windows, nothing that is not a boolean
        except AnalysisException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"contract.checks: {check.name}: {check.expr!r} is not valid here: {reason}") from None
        rules.append(F.when(readable & F.coalesce(~holds, F.lit(False)), F.lit(f"check:{check.name}")))
    return rules


def _judge_unique(judged: DataFrame, contract: ContractSettings) -> DataFrame:
    """Which of equal values is kept depends on the rows alone, not on their order."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    row = _row_hash([field for field in judged.schema if field.name not in (_RULES, "_corrupt")])
    for name, rule in contract.columns.items():
        if rule.unique and name in judged.columns:
            column = F.col(f"`{name}`")
            counts = column.isNotNull() & (F.size(_RULES) == 0)
            spread = F.when(~counts, row)  # rows that are not compared need not meet in one task
            place = F.row_number().over(Window.partitionBy(column, counts, spread).orderBy(row))
            again = counts & (place > 1)
            judged = judged.withColumn(_RULES, F.when(again, F.array(F.lit(f"unique:{name}"))).otherwise(F.col(_RULES)))
    return judged


def _row_hash(fields: list[StructField]) -> Column:
    """xxHash64 passes nulls over and takes no maps: where nulls stand is hashed too, and nested values are as text."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, MapType, StructType

    values = []
    for field in fields:
        column = F.col(f"`{field.name}`")
        values.append(F.to_json(column) if isinstance(field.dataType, ArrayType | MapType | StructType) else column)
    return F.xxhash64(*values, *[value.isNull() for value in values])


def _printable(rows: DataFrame, name: str) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql.types import BinaryType

    column = F.col(f"`{name}`")
    return F.base64(column).alias(name) if isinstance(rows.schema[name].dataType, BinaryType) else column


def _count(good: DataFrame, bad: DataFrame, contract: ContractSettings) -> ContractReport:
    from pyspark.sql import functions as F

    by_rule = {
        row["rule"]: row["count"]
        for row in bad.select(F.explode("rules").alias("rule")).groupBy("rule").count().orderBy(F.desc("count"), "rule").collect()
    }
    bad_rows = bad.count() if by_rule else 0
    shown = bad.select("rules", "raw").orderBy(F.xxhash64("raw")).limit(EXAMPLES).collect() if by_rule else []
    examples = [BadExample(rules=row["rules"], raw=row["raw"][:RAW_SHOWN]) for row in shown]
    good_rows, columns = _statistics(good)
    report = ContractReport(
        rows=good_rows + bad_rows,
        good=good_rows,
        bad=bad_rows,
        by_rule=by_rule,
        examples=examples,
        columns=columns,
        max_bad_fraction=contract.max_bad_fraction,
    )
    return report.model_copy(update={"problems": _problems(report, good, contract)})


def _problems(report: ContractReport, good: DataFrame, contract: ContractSettings) -> list[str]:
    from pyspark.sql import functions as F

    found = []
    if report.good < contract.rows.min:
        found.append(f"{report.good:,} good rows, contract.rows.min is {contract.rows.min:,}")
    if contract.rows.max is not None and report.good > contract.rows.max:
        found.append(f"{report.good:,} good rows, contract.rows.max is {contract.rows.max:,}")
    for name, rule in contract.columns.items():
        stats = report.columns.get(name)
        if rule.distinct_min is not None and stats is not None and (stats.distinct or 0) < 2 * rule.distinct_min:
            values = good.select(f"`{name}`").where(F.col(f"`{name}`").isNotNull()).distinct()
            exact = values.limit(rule.distinct_min).count()  # the statistic is an estimate
            if exact < rule.distinct_min:
                found.append(f"{name} has {exact} distinct values, distinct_min is {rule.distinct_min}")
    return found


def _statistics(good: DataFrame) -> tuple[int, dict[str, ColumnStats]]:
    """Nulls, distinct values (HyperLogLog, 1.6 % error), minimum, mean and maximum of every plain column, in one pass."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import AtomicType, BinaryType, BooleanType, NumericType

    fields = [field for field in good.schema if field.name not in _INTERNAL]
    wanted: list[Column] = [F.count(F.lit(1)).alias("rows")]
    for place, field in enumerate(fields):
        column = F.col(f"`{field.name}`")
        wanted.append(F.count_if(column.isNull()).alias(f"nulls{place}"))
        if isinstance(field.dataType, AtomicType) and not isinstance(field.dataType, BinaryType):
            # not approx_count_distinct: with 52 columns of state each, 66 columns took 2 s longer, however few rows
            sketch = F.hll_sketch_agg(F.when(column.isNotNull(), F.xxhash64(column)), F.lit(_SKETCH_BITS))
            wanted.append(F.hll_sketch_estimate(sketch).alias(f"distinct{place}"))
            if not isinstance(field.dataType, BooleanType):
                least, most = F.min(column), F.max(column)
                if not isinstance(field.dataType, NumericType):  # Python knows no dates after the year 9999
                    least, most = least.cast("string"), most.cast("string")
                wanted += [least.alias(f"min{place}"), most.alias(f"max{place}")]
        if isinstance(field.dataType, NumericType):
            wanted.append(F.avg(column).alias(f"mean{place}"))
    row = good.select(*wanted).first()
    assert row is not None
    found = row.asDict()
    stats = {
        field.name: ColumnStats(
            type=field.dataType.simpleString(),
            nulls=found[f"nulls{place}"],
            distinct=found.get(f"distinct{place}"),
            minimum=_plain(found.get(f"min{place}")),
            mean=_finite(found.get(f"mean{place}")),
            maximum=_plain(found.get(f"max{place}")),
        )
        for place, field in enumerate(fields)
    }
    return found["rows"], stats


def _plain(value: Any) -> str | float | None:
    """A number as such, anything else as text: decimals, and NaN and infinities, which are not JSON."""
    number = _finite(value) if isinstance(value, int | float) else None
    return number if number is not None or value is None else str(value)


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
