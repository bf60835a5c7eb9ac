"""Splits depend on the rows' values and the seed: nothing else moves a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

import sparkml
from sparkml.errors import ConfigError
from sparkml.features.settings import SplitSettings
from sparkml.features.splits import assign_split, row_hash

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


def rows(spark: SparkSession, count: int = 4000) -> DataFrame:
    return spark.range(count).select("id", (F.col("id") % 7).alias("group"), F.concat(F.lit("row "), "id").alias("text"))


def assigned(df: DataFrame, **settings: Any) -> DataFrame:
    return assign_split(df, SplitSettings.model_validate({"fractions": FRACTIONS, **settings}))


@pytest.mark.parametrize("settings", [{"key": "id"}, {"key": ["id", "text"]}, {}], ids=["one key", "two keys", "whole row"])
def test_order_partitions_and_further_rows_move_nothing(spark: SparkSession, settings: dict[str, Any]) -> None:
    first = assigned(rows(spark), **settings)
    moved = assigned(rows(spark, 6000).orderBy(F.desc("text")).repartition(5), **settings).where("id < 4000")
    assert_df_equality(first.select("id", "_split"), moved.select("id", "_split"), ignore_row_order=True)


def test_fractions_are_kept_within_chance(spark: SparkSession) -> None:
    counts = {row["_split"]: row["count"] for row in assigned(rows(spark, 20_000), key="id").groupBy("_split").count().collect()}
    for name, fraction in FRACTIONS.items():
        spread = (20_000 * fraction * (1 - fraction)) ** 0.5
        assert abs(counts[name] - 20_000 * fraction) < 4 * spread


def test_another_seed_is_another_split(spark: SparkSession) -> None:
    one, other = assigned(rows(spark), key="id"), assigned(rows(spark), key="id", seed=8)
    same = one.join(other.select("id", F.col("_split").alias("then")), "id").where("_split = then").count()
    assert same / 4000 == pytest.approx(0.7**2 + 0.1**2 + 0.2**2, abs=0.04)  # as independent draws agree


def test_rows_with_one_key_stay_together(spark: SparkSession) -> None:
    splits = assigned(rows(spark), key="group").groupBy("group").agg(F.count_distinct("_split").alias("n")).collect()
    assert {row["n"] for row in splits} == {1}


def test_where_a_null_stands_counts(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, None), (None, 1), (None, None), (1, 1)], "a int, b int")
    assert df.select(row_hash(["a", "b"]).alias("h")).distinct().count() == 4


def test_an_expression_names_the_split_of_some_rows(spark: SparkSession) -> None:
    found = assigned(rows(spark), key="id", assign="CASE WHEN group = 3 THEN 'test' END")
    assert {row["_split"] for row in found.where("group = 3").select("_split").distinct().collect()} == {"test"}
    rest = {row["_split"]: row["count"] for row in found.where("group <> 3").groupBy("_split").count().collect()}
    assert set(rest) == {"train", "validation"}
    assert rest["train"] / sum(rest.values()) == pytest.approx(0.7 / 0.8, abs=0.03)


def test_an_expression_may_name_every_split(spark: SparkSession) -> None:
    every = "CASE WHEN group = 3 THEN 'test' WHEN group = 4 THEN 'validation' WHEN group < 3 THEN 'train' END"
    found = assigned(rows(spark), key="id", assign=every)
    by_group = {row["group"]: row["_split"] for row in found.select("group", "_split").distinct().collect()}
    assert by_group == {0: "train", 1: "train", 2: "train", 3: "test", 4: "validation", 5: "train", 6: "train"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key": "idd"}, r"split\.key: no column 'idd'; did you mean 'id'"),
        ({"assign": "CASE WHEN grp = 1 THEN 'test' END"}, r"split\.assign: .* is not valid here"),
    ],
)
def test_what_is_not_there_is_named(spark: SparkSession, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assigned(rows(spark), **settings)


def test_the_public_split_divides_without_overlap(spark: SparkSession) -> None:
    parts = sparkml.split(rows(spark), [0.5, 0.3, 0.2], key="id", seed=3)
    assert sum(part.count() for part in parts) == 4000
    assert parts[0].union(parts[1]).union(parts[2]).select("id").distinct().count() == 4000
    again = sparkml.split(rows(spark).repartition(3), [0.5, 0.3, 0.2], key="id", seed=3)
    assert_df_equality(parts[1], again[1], ignore_row_order=True)
    with pytest.raises(ConfigError, match="add up to 1"):
        sparkml.split(rows(spark), [0.5, 0.3])
