"""The contract: each rule against rows counted by hand; a broken row is in quarantine with its rules and raw record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from sparkml.contract.enforce import enforce
from sparkml.contract.report import ContractReport
from sparkml.contract.settings import ContractSettings
from sparkml.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SCHEMA = (
    "id bigint, age int, height double, name string, day date, price decimal(10,2), ok boolean, `odd.name` int, "
    "blob binary, _corrupt string, _file string"
)


def row(id: int | None, **values: Any) -> tuple[Any, ...]:
    import datetime
    from decimal import Decimal

    plain: dict[str, Any] = {
        "id": id,
        "age": 30,
        "height": 170.0,
        "name": "ann",
        "day": datetime.date(2026, 3, 2),
        "price": Decimal("9.50"),
        "ok": True,
        "odd.name": 1,
        "blob": b"\x00\x01",
        "_corrupt": None,
        "_file": "a.csv",
    }
    return tuple({**plain, **values}.values())


def judge(
    spark: SparkSession, folder: Path, rows: list[tuple[Any, ...]], contract: dict[str, Any], **options: Any
) -> tuple[ContractReport, DataFrame, list[tuple[list[str], str]]]:
    df = spark.createDataFrame(rows, SCHEMA).repartition(3)
    urls = [f"file://{folder}/good", f"file://{folder}/bad"]
    report = enforce(df, ContractSettings.model_validate(contract), *urls, **options)
    bad = sorted((sorted(item["rules"]), item["raw"]) for item in spark.read.parquet(urls[1]).collect())
    return report, spark.read.parquet(urls[0]), bad


RULES: dict[str, tuple[dict[str, Any], list[tuple[Any, ...]], dict[str, int]]] = {
    "not null": ({"age": {"nullable": False}}, [row(1), row(2, age=None)], {"null:age": 1}),
    "null is allowed": ({"age": {"min": 0, "max": 9, "allowed": [1]}}, [row(1, age=None)], {}),
    "min and max": (
        {"age": {"min": 18, "max": 65}},
        [row(1, age=17), row(2, age=18), row(3, age=65), row(4, age=66), row(5, age=67)],
        {"min:age": 1, "max:age": 2},
    ),
    "dates": ({"day": {"min": "2026-03-02", "max": "2026-03-02"}}, [row(1), row(2, day=None)], {}),
    "dates out of range": ({"day": {"min": "2026-03-03"}}, [row(1)], {"min:day": 1}),
    "decimals": ({"price": {"min": 9.5, "max": 9.5}}, [row(1)], {}),
    "decimals out of range": ({"price": {"max": 9.49}}, [row(1)], {"max:price": 1}),
    "finite": (
        {"height": {}},
        [row(1, height=float("nan")), row(2, height=float("inf")), row(3, height=-float("inf")), row(4)],
        {"finite:height": 3},
    ),
    "not finite is allowed": ({"height": {"finite": False, "max": 200}}, [row(1, height=float("nan"))], {}),
    "allowed text": ({"name": {"allowed": ["ann", "bob"]}}, [row(1), row(2, name="Ann"), row(3, name="")], {"allowed:name": 2}),
    "allowed numbers": ({"age": {"allowed": [30, 31]}}, [row(1), row(2, age=32)], {"allowed:age": 1}),
    "allowed booleans": ({"ok": {"allowed": [True]}}, [row(1), row(2, ok=False)], {"allowed:ok": 1}),
    "pattern is of the whole value": (
        {"name": {"pattern": "a|an"}},
        [row(1, name="a"), row(2, name="an"), row(3, name="ann"), row(4, name="xa")],
        {"pattern:name": 2},
    ),
    "a name with a dot": ({"odd.name": {"min": 1}}, [row(1), row(2, **{"odd.name": 0})], {"min:odd.name": 1}),
    "unique": ({"id": {"unique": True}}, [row(1), row(1, age=3), row(1, age=4), row(2), row(None), row(None)], {"unique:id": 2}),
    "unreadable rows break one rule": (
        {"id": {"nullable": False}, "age": {"nullable": False}},
        [row(None, age=None, _corrupt="x,y"), row(1)],
        {"corrupt_record": 1},
    ),
    "several rules at once": (
        {"age": {"min": 40}, "name": {"allowed": ["bob"]}},
        [row(1)],
        {"allowed:name": 1, "min:age": 1},
    ),
}


@pytest.mark.parametrize(("columns", "rows", "by_rule"), RULES.values(), ids=RULES.keys())
def test_each_rule_by_hand(
    spark: SparkSession, tmp_path: Path, columns: dict[str, Any], rows: list[tuple[Any, ...]], by_rule: dict[str, int]
) -> None:
    report, good, bad = judge(spark, tmp_path, rows, {"columns": columns})
    assert report.by_rule == by_rule
    assert report.rows == len(rows) == good.count() + len(bad)
    assert (report.good, report.bad) == (good.count(), len(bad))


def test_good_rows_are_unchanged_and_bad_ones_keep_their_record(spark: SparkSession, tmp_path: Path) -> None:
    rows = [row(1), row(2, age=200), row(None, _corrupt="2;the very line")]
    report, good, bad = judge(spark, tmp_path, rows, {"columns": {"age": {"max": 150}}})
    assert_df_equality(good, spark.createDataFrame([row(1)], SCHEMA).drop("_corrupt"))
    assert bad[0] == (["corrupt_record"], "2;the very line")
    assert bad[1][0] == ["max:age"]
    kept = json.loads(bad[1][1])
    assert (kept["id"], kept["age"], kept["blob"]) == (2, 200, "AAE=")
    assert {example.raw for example in report.examples} == {"2;the very line", bad[1][1]}


def test_which_of_equal_keys_stays_depends_on_the_rows_alone(spark: SparkSession, tmp_path: Path) -> None:
    rows = [row(1, age=age) for age in range(20)]
    contract = {"columns": {"id": {"unique": True}}}
    _, first, _ = judge(spark, tmp_path / "a", rows, contract)
    _, second, _ = judge(spark, tmp_path / "b", rows[::-1], contract)
    assert first.collect() == second.collect()
    assert first.count() == 1


def test_checks_over_several_columns(spark: SparkSession, tmp_path: Path) -> None:
    checks = [{"name": "tall_adults", "expr": "age < 18 OR height > 150"}, {"name": "cheap", "expr": "price < 100"}]
    rows = [row(1), row(2, height=100.0), row(3, height=100.0, age=5), row(4, height=None), row(5, price=None)]
    report, _, _ = judge(spark, tmp_path, rows, {"checks": checks})
    assert report.by_rule == {"check:tall_adults": 1}


def test_statistics_of_the_good_rows(spark: SparkSession, tmp_path: Path) -> None:
    rows = [row(n, age=n, name="ab"[n % 2]) for n in range(10)] + [row(10, age=None)]
    report, _, _ = judge(spark, tmp_path, rows, {})
    age, name = report.columns["age"], report.columns["name"]
    assert (age.nulls, age.minimum, age.mean, age.maximum, age.distinct) == (1, 0, 4.5, 9, 10)
    assert (name.nulls, name.distinct, name.minimum, name.maximum) == (0, 3, "a", "b")


SHAPES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "missing column": ({"columns": {"hieght": {}}}, DataError, r"hieght is missing \(did you mean 'height'"),
    "another type": ({"columns": {"age": {"type": "bigint"}}}, DataError, "age is int, the contract says bigint"),
    "extra column": ({"columns": {"age": {}}, "extra_columns": "error"}, DataError, "height is not in the contract"),
    "a check that is no SQL": (
        {"checks": [{"name": "a", "expr": "agee >"}]},
        ConfigError,
        r"contract\.checks: a: .* is not valid",
    ),
    "a check over an unknown column": (
        {"checks": [{"name": "a", "expr": "agee > 1"}]},
        ConfigError,
        r"contract\.checks: a: .* is not valid here",
    ),
}


@pytest.mark.parametrize(("contract", "error", "message"), SHAPES.values(), ids=SHAPES.keys())
def test_a_table_of_another_shape_is_refused(
    spark: SparkSession, tmp_path: Path, contract: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        judge(spark, tmp_path, [row(1)], contract)
    assert not (tmp_path / "good").exists()


def test_optional_columns_may_be_null_or_absent(spark: SparkSession, tmp_path: Path) -> None:
    contract = {"columns": {"age": {"nullable": False}, "label": {"nullable": False}}}
    report, _, _ = judge(spark, tmp_path, [row(1, age=None)], contract, optional=frozenset({"age", "label"}))
    assert report.bad == 0


VERDICTS: dict[str, tuple[dict[str, Any], list[tuple[Any, ...]], str]] = {
    "too many bad rows": ({"max_bad_fraction": 0.3}, [row(1, age=-1), row(2, age=-1), row(3)], r"2 of 3 rows \(66\.67%\)"),
    "no good rows": ({"max_bad_fraction": 1.0}, [row(1, age=-1)], "no good rows are left of 1"),
    "too few rows": ({"rows": {"min": 5}}, [row(1)], r"1 good rows, contract\.rows\.min is 5"),
    "too many rows": ({"rows": {"max": 1}}, [row(1), row(2)], r"2 good rows, contract\.rows\.max is 1"),
    "a constant column": (
        {"columns": {"name": {"distinct_min": 2}}},
        [row(1), row(2)],
        "name has 1 distinct values, distinct_min is 2",
    ),
}


@pytest.mark.parametrize(("contract", "rows", "message"), VERDICTS.values(), ids=VERDICTS.keys())
def test_the_verdict_stops_the_run(
    spark: SparkSession, tmp_path: Path, contract: dict[str, Any], rows: list[tuple[Any, ...]], message: str
) -> None:
    columns = {"age": {"min": 0}, **contract.get("columns", {})}
    report, _, _ = judge(spark, tmp_path, rows, {**contract, "columns": columns})
    with pytest.raises(DataError, match=message):
        report.verdict("the quarantine")


def test_within_bounds_the_verdict_is_silent(spark: SparkSession, tmp_path: Path) -> None:
    contract = {"columns": {"age": {"min": 0}}, "max_bad_fraction": 0.5}
    report, good, _ = judge(spark, tmp_path, [row(1, age=-1), row(2)], contract)
    report.verdict("the quarantine")
    assert good.select(F.sum("id")).first() == (2,)
