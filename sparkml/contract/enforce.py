"""Applies a contract: good rows to one table, broken ones with rules and raw record to another, nothing vanishes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkml.config import suggest
from sparkml.contract.report import BadExample, ColumnStats, ContractReport
from sparkml.contract.settings import ColumnRule, ContractSettings
from sparkml.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

_INTERNAL = ("_corrupt", "_file")
_RULES = "_rules"
EXAMPLES = 10
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
        Columns are missing, of another type, or (with ``extra_columns: error``) too many.
    ConfigError
        A check's expression is not valid SQL over these columns.
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
    return _count(spark.read.parquet(good_url), spark.read.parquet(bad_url), contract)


def _check_columns(rows: DataFrame, contract: ContractSettings, optional: frozenset[str]) -> None:
    from pyspark.sql.types import _parse_datatype_string

    types = {field.name: field.dataType for field in rows.schema if field.name not in _INTERNAL}
    wrong = []
    for name, rule in contract.columns.items():
        if name not in types:
            if name not in optional:
                wrong.append(f"{name} is missing ({suggest(name, types)})")
        elif rule.type is not None and types[name] != _parse_datatype_string(rule.type):
            wrong.append(f"{name} is {types[name].simpleString()}, the contract says {rule.type}")
    if contract.extra_columns == "error":
        wrong += [f"{name} is not in the contract" for name in types if name not in contract.columns]
    if wrong:
        raise DataError("the table's columns are not those of the contract: " + "; ".join(wrong))


def _broken(rows: DataFrame, contract: ContractSettings, optional: frozenset[str]) -> list[Column]:
    """One column per rule: its name where the row breaks it, null where not. Unreadable rows break one rule only."""
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    readable = F.col("_corrupt").isNull()
    rules = [F.when(~readable, F.lit("corrupt_record"))]
    types = {field.name: field.dataType for field in rows.schema}
    for name, rule in contract.columns.items():
        if name in types:
            for label, broken in _column_rules(F.col(f"`{name}`"), types[name], rule, nullable=rule.nullable or name in optional):
                rules.append(F.when(readable & F.coalesce(broken, F.lit(False)), F.lit(f"{label}:{name}")))
    for check in contract.checks:
        holds = F.expr(check.expr).cast("boolean")
        try:
            rows.select(holds)
        except AnalysisException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"contract.checks: {check.name}: {check.expr!r} is not valid here: {reason}") from None
        rules.append(F.when(readable & F.coalesce(~holds, F.lit(False)), F.lit(f"check:{check.name}")))
    return rules


def _column_rules(column: Column, kind: DataType, rule: ColumnRule, *, nullable: bool) -> list[tuple[str, Column]]:
    from pyspark.sql import functions as F
    from pyspark.sql.types import DoubleType, FloatType

    found: list[tuple[str, Column]] = []
    if not nullable:
        found.append(("null", column.isNull()))
    if rule.finite and isinstance(kind, DoubleType | FloatType):
        found.append(("finite", F.isnan(column) | (F.abs(column) == F.lit(float("inf")))))
    if rule.min is not None:
        found.append(("min", column < F.lit(rule.min)))
    if rule.max is not None:
        found.append(("max", (column > F.lit(rule.max)) & ~_is_nan(column, kind)))
    if rule.allowed is not None:
        found.append(("allowed", ~column.isin(rule.allowed)))
    if rule.pattern is not None:
        found.append(("pattern", ~column.cast("string").rlike(f"^(?:{rule.pattern})$")))
    return found


def _is_nan(column: Column, kind: DataType) -> Column:
    from pyspark.sql import functions as F
    from pyspark.sql.types import DoubleType, FloatType

    return F.isnan(column) if isinstance(kind, DoubleType | FloatType) else F.lit(False)


def _judge_unique(judged: DataFrame, contract: ContractSettings) -> DataFrame:
    """Which of equal values is kept depends on the rows alone, not on their order."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    values = [F.col(f"`{name}`") for name in judged.columns if name not in (_RULES, "_corrupt")]
    for name, rule in contract.columns.items():
        if rule.unique and name in judged.columns:
            column = F.col(f"`{name}`")
            place = F.row_number().over(Window.partitionBy(column, F.size(_RULES) == 0).orderBy(F.xxhash64(*values)))
            again = column.isNotNull() & (F.size(_RULES) == 0) & (place > 1)
            judged = judged.withColumn(_RULES, F.when(again, F.array(F.lit(f"unique:{name}"))).otherwise(F.col(_RULES)))
    return judged


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
    examples = [
        BadExample(rules=row["rules"], raw=row["raw"][:RAW_SHOWN])
        for row in bad.select("rules", "raw").orderBy(F.xxhash64("raw")).limit(EXAMPLES).collect()
    ]
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
    return report.model_copy(update={"problems": _problems(report, contract)})


def _problems(report: ContractReport, contract: ContractSettings) -> list[str]:
    found = []
    if report.good < contract.rows.min:
        found.append(f"{report.good:,} good rows, contract.rows.min is {contract.rows.min:,}")
    if contract.rows.max is not None and report.good > contract.rows.max:
        found.append(f"{report.good:,} good rows, contract.rows.max is {contract.rows.max:,}")
    for name, rule in contract.columns.items():
        stats = report.columns.get(name)
        if rule.distinct_min is not None and stats is not None and (stats.distinct or 0) < rule.distinct_min:
            found.append(f"{name} has {stats.distinct} distinct values, distinct_min is {rule.distinct_min}")
    return found


def _statistics(good: DataFrame) -> tuple[int, dict[str, ColumnStats]]:
    """Nulls, distinct values (HyperLogLog, 5 % error), minimum, mean and maximum of every plain column, in one pass."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import AtomicType, BinaryType, BooleanType, NumericType

    fields = [field for field in good.schema if field.name not in _INTERNAL]
    wanted: list[Column] = [F.count(F.lit(1)).alias("rows")]
    for place, field in enumerate(fields):
        column = F.col(f"`{field.name}`")
        wanted.append(F.count_if(column.isNull()).alias(f"nulls{place}"))
        if isinstance(field.dataType, AtomicType) and not isinstance(field.dataType, BinaryType):
            wanted.append(F.approx_count_distinct(column).alias(f"distinct{place}"))
            if not isinstance(field.dataType, BooleanType):
                wanted += [F.min(column).alias(f"min{place}"), F.max(column).alias(f"max{place}")]
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
            mean=None if found.get(f"mean{place}") is None else float(found[f"mean{place}"]),
            maximum=_plain(found.get(f"max{place}")),
        )
        for place, field in enumerate(fields)
    }
    return found["rows"], stats


def _plain(value: Any) -> str | float | None:
    return value if value is None or isinstance(value, str) else float(value) if isinstance(value, int | float) else str(value)
