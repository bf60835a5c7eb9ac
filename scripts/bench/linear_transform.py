"""Part `transform` of linear.py: rows scored and written to Parquet, by us and by MLlib's model with the same coefficients.

All sides read float32 rows that are there, and write the same two columns of doubles as Parquet the same way: the class, and the
probability of class 1. MLlib reads one column per feature and assembles them, its way in; ours reads shards, and for the sake of
comparison the same columns, too. `toSQL` is ours without Python. What Spark takes to write two such columns, with nothing read,
is the floor.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench.harness import Bench
from scripts.bench.linear_rows import largest, plain, publish

FEATURES = 10
_FEW = 65_536
_ROW_BYTES = 4 * (FEATURES + 2) + 4 * (FEATURES + 1) + 4 * 8  # shards, columns, and scores twice while they are overwritten


def transform(bench: Bench, folder: str, rows: int) -> None:
    """Score all rows and write the scores."""
    import sparkml

    if not Path(folder, f"plain-{rows}x{FEATURES}").exists():
        rows = largest(folder, rows, _ROW_BYTES)
    shards, columns = publish(folder, rows, FEATURES), plain(folder, rows, FEATURES)
    few_shards, few_columns = publish(folder, _FEW, FEATURES), plain(folder, _FEW, FEATURES)
    spark = sparkml.session("local[2]", conf={"spark.driver.memory": "4g"})
    try:
        scorings = _scorings(spark, few_columns)
        _agree(spark, scorings, few_shards, few_columns)
        out = Path(folder, "scored")

        def write(frame: Any) -> None:
            frame.write.mode("overwrite").parquet(str(out))

        def side(name: str, path: str) -> Callable[[], None]:
            return lambda: write(scorings[name](spark.read.parquet(path)))

        sides = {
            "ours, from shards": side("ours", shards),
            "ours, from columns": side("ours, assembled", columns),
            "ours, toSQL from columns": side("ours, toSQL", columns),
            "MLlib, from columns": side("MLlib", columns),
            "two columns written, nothing read": lambda: write(_nothing(spark, rows)),
        }
        print(f"\n{rows:,} rows x {FEATURES}: scored and written", flush=True)
        mine, same, sql, theirs, floor = bench.compare(sides, repeats=1 if rows > 3e7 else 3).values()
        shutil.rmtree(out, ignore_errors=True)
    finally:
        spark.stop()
    bench.add("linear: transform", rows / mine.wall_median / 1e6, "M rows/s")
    bench.add("linear: MLlib's transform / ours", theirs.wall_median / mine.wall_median, "x", at_least=10)
    bench.add("linear: MLlib's transform / ours, of the same columns", theirs.wall_median / same.wall_median, "x")
    bench.add("linear: MLlib's transform / ours by toSQL", theirs.wall_median / sql.wall_median, "x")
    bench.add("linear: MLlib's transform / writing alone", theirs.wall_median / floor.wall_median, "x")


def _scorings(spark: Any, few: str) -> dict[str, Callable[[Any], Any]]:
    """Return what each side makes of a frame: the class and the probability of class 1."""
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import VectorAssembler
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    from sparkml.estimators.linear_model import LogisticRegressionModel

    names = [f"x{number}" for number in range(FEATURES)]
    assembler = VectorAssembler(inputCols=names, outputCol="x")
    theirs = LogisticRegression(featuresCol="x").fit(assembler.transform(spark.read.parquet(few)))
    ours = LogisticRegressionModel(theirs.coefficients.toArray(), theirs.intercept, names).setFeaturesCol("x")
    probability = vector_to_array("probability")[1].alias("p")
    sql = F.expr(ours.toSQL())
    return {
        "ours": lambda frame: ours.transform(frame).select("prediction", probability),
        "ours, assembled": lambda frame: ours.transform(assembler.transform(frame)).select("prediction", probability),
        "ours, toSQL": lambda frame: frame.select((sql > 0.5).cast("double").alias("prediction"), sql.alias("p")),
        "MLlib": lambda frame: theirs.transform(assembler.transform(frame)).select("prediction", probability),
    }


def _agree(spark: Any, scorings: dict[str, Callable[[Any], Any]], shards: str, columns: str) -> None:
    """Raise `AssertionError` unless all sides say the same of a few rows, of each."""
    found = {
        name: scoring(spark.read.parquet(shards if name == "ours" else columns)).toPandas().to_numpy()
        for name, scoring in scorings.items()
    }
    for name, values in found.items():
        away = float(np.max(np.abs(values[:, 1] - found["MLlib"][:, 1])))
        flipped = int(np.sum(values[:, 0] != found["MLlib"][:, 0]))
        print(f"  {name}: probabilities differ from MLlib's by {away:.1e} at most, {flipped} of {len(values):,} classes do")
        assert away < 1e-5, name


def _nothing(spark: Any, rows: int) -> Any:
    from pyspark.sql import functions as F

    return spark.range(rows, numPartitions=8).select((F.col("id") % 2).cast("double").alias("prediction"), F.rand(7).alias("p"))
