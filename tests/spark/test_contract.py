"""The contract: each rule against rows counted by hand; a broken row is in quarantine with its rules and raw record."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from sparkml.contract.enforce import RAW_SHOWN, _broken, _row_hash, enforce
from sparkml.contract.report import ContractReport
from sparkml.contract.settings import ColumnRule, ContractSettings
from sparkml.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SCHEMA = (
    "id bigint, age int, height double, name string, day date, price decimal(10,2), ok boolean, `odd.name` int, "
    "blob binary, big bigint, share float, seen timestamp, day_ntz timestamp_ntz, tags array<int>, facts map<string,int>, "
    "_corrupt string, _file string"
)


def row(id: int | None, **values: Any) -> tuple[Any, ...]:
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
        "big": 2**53 + 1,
        "share": 0.1,
        "seen": datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC),
        "day_ntz": datetime.datetime(2026, 3, 2, 12),
        "tags": [1],
        "facts": {"a": 1},
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
    assert (report.rows, report.bad) == (len(rows), len(bad))
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
    "a pattern is no match before a line end": ({"name": {"pattern": "ann"}}, [row(1, name="ann\n")], {"pattern:name": 1}),
    "a pattern in Java's syntax": (
        {"name": {"pattern": r"\p{Lu}\p{L}*+"}},
        [row(1, name="Élan"), row(2, name="élan")],
        {"pattern:name": 1},
    ),
    "a pattern of a number": ({"age": {"pattern": "[0-9]{2}"}}, [row(1), row(2, age=100)], {"pattern:age": 1}),
    "numbers that a double does not hold": (
        {"big": {"max": 2**53, "min": 2**53 + 0.0}, "price": {"allowed": ["9.50", 9]}},
        [row(1), row(2, big=2**53)],
        {"max:big": 1},
    ),
    "a single-precision number is its own bound": ({"share": {"min": 0.1, "max": 0.1, "allowed": [0.1]}}, [row(1)], {}),
    "times": (
        {"seen": {"min": "2026-03-02T13:00:00+01:00", "max": "2026-03-02T11:59:59Z"}, "day_ntz": {"max": "2026-03-02"}},
        [row(1)],
        {"max:seen": 1, "max:day_ntz": 1},
    ),
    "dates as YAML reads them": (
        {"day": {"min": datetime.date(2026, 3, 2), "allowed": [datetime.date(2026, 3, 3)]}},
        [row(1)],
        {"allowed:day": 1},
    ),
    "a name with a dot": ({"odd.name": {"min": 1}}, [row(1), row(2, **{"odd.name": 0})], {"min:odd.name": 1}),
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


@pytest.fixture(scope="module")
def counted(spark: SparkSession) -> dict[str, dict[str, int]]:
    """Broken rows by case and rule, of all cases in one query."""
    rows = [(*values, name) for name, (_, given, _) in RULES.items() for values in given]
    df = spark.createDataFrame(rows, f"{SCHEMA}, case string")
    broken = []
    for name, (columns, _, _) in RULES.items():
        contract = ContractSettings.model_validate({"columns": columns})
        broken += [F.when(F.col("case") == name, rule) for rule in _broken(df, contract, frozenset())]
    found = (
        df.select("case", F.explode(F.array_compact(F.array(*broken))).alias("rule")).groupBy("case", "rule").count().collect()
    )
    return {name: {row["rule"]: row["count"] for row in found if row["case"] == name} for name in RULES}


@pytest.mark.parametrize(("name", "by_rule"), [(name, by_rule) for name, (_, _, by_rule) in RULES.items()], ids=RULES.keys())
def test_each_rule_by_hand(counted: dict[str, dict[str, int]], name: str, by_rule: dict[str, int]) -> None:
    assert counted[name] == by_rule


def test_unique_keeps_one_of_each_value_and_every_null(spark: SparkSession, tmp_path: Path) -> None:
    rows = [row(1), row(1, age=3), row(1, age=4), row(2), row(None), row(None), row(2, age=-1)]
    columns = {"id": {"unique": True}, "age": {"min": 0}, "odd.name": {"distinct_min": 1}}
    report, good, _ = judge(spark, tmp_path, rows, {"columns": columns})
    assert report.by_rule == {"unique:id": 2, "min:age": 1}  # a row that is broken anyway takes no one's place
    assert sorted(str(found["id"]) for found in good.collect()) == ["1", "2", "None", "None"]


def test_good_rows_are_unchanged_and_bad_ones_keep_their_record(spark: SparkSession, tmp_path: Path) -> None:
    rows = [row(1), row(2, age=200), row(None, _corrupt="2;the very line")]
    report, good, bad = judge(spark, tmp_path, rows, {"columns": {"age": {"max": 150}}})
    assert_df_equality(good, spark.createDataFrame([row(1)], SCHEMA).drop("_corrupt"))
    assert bad[0] == (["corrupt_record"], "2;the very line")
    assert bad[1][0] == ["max:age"]
    kept = json.loads(bad[1][1])
    assert (kept["id"], kept["age"], kept["blob"]) == (2, 200, "AAE=")
    assert {example.raw for example in report.examples} == {"2;the very line", bad[1][1][:RAW_SHOWN]}


def test_which_of_equal_keys_stays_depends_on_the_rows_alone(spark: SparkSession, tmp_path: Path) -> None:
    rows = [row(1, age=age) for age in range(20)]
    contract = {"columns": {"id": {"unique": True}}}
    _, first, _ = judge(spark, tmp_path / "a", rows, contract)
    _, second, _ = judge(spark, tmp_path / "b", rows[::-1], contract)
    assert first.collect() == second.collect()
    assert first.count() == 1


def test_rows_that_differ_in_where_a_null_stands_are_told_apart(spark: SparkSession, tmp_path: Path) -> None:
    """Two jobs write the good and the bad rows: after a tie, one row could be in both and the other in neither."""
    rows = [row(1, age=5, **{"odd.name": None}), row(1, age=None, **{"odd.name": 5})]
    rows += [row(1, tags=[5, None]), row(1, tags=[None, 5])]
    df = spark.createDataFrame(rows, SCHEMA)
    assert df.select(_row_hash(list(df.schema))).distinct().count() == 4
    report, good, bad = judge(spark, tmp_path, rows, {"columns": {"id": {"unique": True}}})
    assert report.by_rule == {"unique:id": 3}
    found = [good.toJSON().first(), *[raw for _, raw in bad]]
    wanted = df.withColumn("blob", F.base64("blob")).drop("_corrupt", "_file").toJSON().collect()
    assert sorted(str(_values(text)) for text in found) == sorted(str(_values(text)) for text in wanted)


def _values(text: str | None) -> dict[str, Any]:
    return {name: value for name, value in json.loads(text or "").items() if name in {"age", "odd.name", "tags"}}


def test_rows_that_appear_or_vanish_are_an_error(spark: SparkSession, tmp_path: Path) -> None:
    """Without `unique`, good and bad rows are judged by two jobs: here each sees another table."""
    source = f"file://{tmp_path}/source"
    spark.createDataFrame([row(1), row(2, age=-1)], SCHEMA).write.parquet(source)
    good, bad = tmp_path / "good", f"file://{tmp_path}/bad"
    spark.createDataFrame([row(3)], SCHEMA).drop("_corrupt").write.parquet(f"file://{good}")  # left by another job
    with pytest.raises(DataError, match="given 2 rows and found 2 good and 1 bad ones"):
        enforce(spark.read.parquet(source), ContractSettings(columns={"age": ColumnRule(min=0)}), f"file://{good}", bad)


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


def test_distinct_values_are_counted_whatever_their_type(spark: SparkSession, tmp_path: Path) -> None:
    day = [datetime.date(2026, 3, n + 1) for n in range(3)]
    kinds: dict[str, list[Any]] = {
        "height": [0.0, -0.0, float("nan")],  # zeros are equal, whatever their sign
        "share": [0.5, 1.5, float("nan")],
        "name": ["", "a", None],
        "price": [Decimal("1.10"), Decimal("1.10"), Decimal("1.11")],
        "day": day,
        "seen": [datetime.datetime.combine(value, datetime.time(1), datetime.UTC) for value in day],
        "ok": [True, False, None],
        "big": [2**53, 2**53 + 1, -1],
        "odd.name": [None, None, None],
    }
    rows = [row(n, **{name: values[n % 3] for name, values in kinds.items()}) for n in range(9)]
    report, _, _ = judge(spark, tmp_path, rows, {})
    found = {name: report.columns[name].distinct for name in kinds}
    assert found == {"height": 2, "share": 3, "name": 2, "price": 2, "day": 3, "seen": 3, "ok": 2, "big": 3, "odd.name": 0}


def test_many_distinct_values_are_estimated(spark: SparkSession, tmp_path: Path) -> None:
    df = spark.range(50_000).selectExpr("id", "id % 20000 AS some", "string(null) AS _corrupt", "'a' AS _file")
    report = enforce(df, ContractSettings(), f"file://{tmp_path}/good", f"file://{tmp_path}/bad")
    assert report.columns["id"].distinct == pytest.approx(50_000, rel=0.06)  # four standard errors
    assert report.columns["some"].distinct == pytest.approx(20_000, rel=0.06)


def test_statistics_are_json_and_know_late_dates(spark: SparkSession, tmp_path: Path) -> None:
    df = spark.createDataFrame([row(1, height=float("inf")), row(2, height=float("nan"))], SCHEMA)
    rows = df.withColumn("day", F.expr("make_date(12026, 3, 2)"))
    contract = ContractSettings.model_validate({"columns": {"height": {"finite": False}}})
    report = enforce(rows, contract, f"file://{tmp_path}/good", f"file://{tmp_path}/bad")
    height, day = report.columns["height"], report.columns["day"]
    assert (height.minimum, height.mean, height.maximum, day.maximum) == ("inf", None, "nan", "+12026-03-02")
    json.dumps(report.model_dump(mode="json"), allow_nan=False)


SHAPES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "missing column": ({"columns": {"hieght": {}}}, DataError, r"hieght is missing \(did you mean 'height'"),
    "another type": ({"columns": {"age": {"type": "bigint"}}}, DataError, "age is int, the contract says bigint"),
    "extra column": ({"columns": {"age": {}}, "extra_columns": "error"}, DataError, "height is not in the contract"),
    "a check that is no SQL": (
        {"checks": [{"name": "a", "expr": "agee >"}]},
        ConfigError,
        r"contract\.checks: a: .* is not valid",
    ),
    "a check over many rows": (
        {"checks": [{"name": "a", "expr": "count(*) > 1"}]},
        ConfigError,
        r"contract\.checks: a: .* is not valid here",
    ),
    "a check that is no condition": ({"checks": [{"name": "a", "expr": "age + 1"}]}, ConfigError, "is not valid here: .*BOOLEAN"),
    "no such type": ({"columns": {"age": {"type": "bigintt"}}}, ConfigError, r"age\.type: 'bigintt' is not a Spark SQL type"),
    "a pattern that is none": ({"columns": {"name": {"pattern": "a("}}}, ConfigError, r"name\.pattern: 'a\(' is not a regular"),
    "a pattern that leaves its group": ({"columns": {"name": {"pattern": "a)|(b"}}}, ConfigError, "is not a regular expression"),
    "a pattern of bytes": ({"columns": {"blob": {"pattern": "a"}}}, ConfigError, "a binary column has no text"),
    "a text for a number": ({"columns": {"age": {"min": "x"}}}, ConfigError, r"age\.min: 'x' cannot .* int .*: a number within"),
    "a number for a text": ({"columns": {"name": {"min": 5}}}, ConfigError, r"name\.min: 5 cannot .* string .*quotes"),
    "yes for a text": ({"columns": {"name": {"allowed": ["a", True]}}}, ConfigError, r"name\.allowed: True cannot .* in quotes"),
    "a number for a boolean": ({"columns": {"ok": {"allowed": [1]}}}, ConfigError, r"ok\.allowed: 1 cannot .* true or false"),
    "an order of booleans": ({"columns": {"ok": {"min": 0}}}, ConfigError, "min and max mean nothing for a boolean"),
    "a date in another order": ({"columns": {"day": {"max": "02.03.2026"}}}, ConfigError, r"day\.max: .*such as 2026-03-02"),
    "a time for a date": ({"columns": {"day": {"max": "2026-03-02T10:00"}}}, ConfigError, r"day\.max: .*such as 2026-03-02"),
    "no time": ({"columns": {"seen": {"min": "soon"}}}, ConfigError, r"seen\.min: 'soon' .*such as 2026-03-02T10:30:00"),
    "a zone where there is none": ({"columns": {"day_ntz": {"min": "2026-03-02T10:00Z"}}}, ConfigError, "without a zone"),
    "beyond 64 bits": ({"columns": {"big": {"max": 10**30}}}, ConfigError, r"big\.max: 10{30} cannot .* within 64 bits"),
    "an infinite bound": ({"columns": {"height": {"max": float("inf")}}}, ConfigError, r"height\.max: inf .* a finite number"),
    "a value for an array": ({"columns": {"tags": {"allowed": [1]}}}, ConfigError, "array<int> column cannot be compared"),
    "unique maps": ({"columns": {"facts": {"unique": True}}}, ConfigError, "Spark does not compare maps"),
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


def test_rules_of_the_whole_table_stop_the_run(spark: SparkSession, tmp_path: Path) -> None:
    columns = {"id": {"distinct_min": 3001}, "name": {"distinct_min": 2}, "age": {"distinct_min": 1}}
    report, _, _ = judge(spark, tmp_path, [row(n) for n in range(3000)], {"columns": columns, "rows": {"min": 5000}})
    with pytest.raises(DataError) as caught:
        report.verdict("the quarantine")
    assert str(caught.value) == (
        "the table breaks the contract: 3,000 good rows, contract.rows.min is 5,000; id has 3000 distinct values, distinct_min "
        "is 3001; name has 1 distinct values, distinct_min is 2"
    )


def test_bad_rows_count_against_neither_bound(spark: SparkSession, tmp_path: Path) -> None:
    contract = {"columns": {"age": {"min": 0}}, "rows": {"max": 1}, "max_bad_fraction": 0.9}
    judge(spark, tmp_path / "a", [row(1, age=-1), row(2)], contract)[0].verdict("the quarantine")
    with pytest.raises(DataError, match=r"2 good rows, contract\.rows\.max is 1"):
        judge(spark, tmp_path / "b", [row(1), row(2)], contract)[0].verdict("the quarantine")
