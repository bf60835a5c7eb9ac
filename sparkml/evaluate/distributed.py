"""Measure a frame of predictions: a distributed bootstrap of every metric, overall and by slice."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml.errors import ConfigError, DataError
from sparkml.evaluate.bootstrap import interval
from sparkml.evaluate.evaluation import Estimate, Evaluation, MetricResult, Mistake, Residuals, Slice
from sparkml.evaluate.metric import Array, Metric
from sparkml.evaluate.settings import EvaluateSettings
from sparkml.evaluate.states import POINT, Plan, merged_values, partial_states

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

OTHER = "(other)"
MISSING = "(missing)"
_RESIDUAL_BINS = 40
_SAMPLE_ROWS = 500


def evaluate(
    predictions: DataFrame,
    settings: EvaluateSettings,
    task: str,
    classes: tuple[str, ...] | list[str],
    key_cols: list[str],
) -> Evaluation:
    """Measure predictions.

    Parameters
    ----------
    predictions
        Columns `key_cols`, ``label`` and ``prediction`` (double, class indices for classification), ``probability`` (Vector,
        optional), and the slice columns. It is read once and kept on disk while it is measured.
    classes
        Class names in the order of the index; empty for regression.
    key_cols
        Columns that identify a row: the bootstrap weights of a row derive from them, so that models measured on the same rows
        are compared on the same replicates.

    Raises
    ------
    ConfigError
        For a column that is not there, a metric of another task, or metrics that the model's output does not allow.
    DataError
        For no rows, or labels and predictions that are null, NaN or not among the classes.
    """
    from pyspark import StorageLevel

    metrics = settings.for_task(task)
    _check_columns(predictions, settings.slices, key_cols)
    narrow = _narrow(predictions, settings.slices, key_cols, bool(classes)).persist(StorageLevel.DISK_ONLY)
    try:
        rows, rows_id = _check_rows(narrow, list(classes))
        has_probability = "probability" in narrow.columns
        computed = [metric for metric in metrics if has_probability or not metric.needs_probability]
        if not computed:
            raise ConfigError(
                f"{', '.join(metric.plugin_name() for metric in metrics)}: not computable, the model gives no probabilities",
                hint="add a metric of the predicted class to evaluate.metrics, such as accuracy",
            )
        counts = [_slice_counts(narrow, position, settings.max_slice_values) for position in range(len(settings.slices))]
        plan = Plan(
            metrics=tuple(computed),
            classes=len(classes),
            has_probability=has_probability,
            replicates=settings.bootstrap.replicates,
            seed=settings.bootstrap.seed,
            slices=tuple((column, tuple(found)) for column, found in zip(settings.slices, counts, strict=True)),
        )
        points, replicates, details = _run(narrow, plan)
        confidence = settings.bootstrap.confidence
        return Evaluation(
            task=task,
            classes=list(classes),
            rows=rows,
            rows_id=rows_id,
            confidence=confidence,
            seed=plan.seed,
            metrics=_overall(metrics, computed, points[0], replicates[0], confidence, plan.replicates),
            slices=_slices(plan, counts, rows, points, replicates, confidence),
            residuals=None if classes else _residuals(narrow),
            worst=_worst(narrow, settings.worst, key_cols, bool(classes)),
            **details,
        )
    finally:
        narrow.unpersist()


def _check_columns(frame: DataFrame, slices: list[str], key_cols: list[str]) -> None:
    if not key_cols:
        raise ConfigError("evaluate needs the key columns: bootstrap weights derive from each row's key", hint="set split.key")
    wanted = {"label": ["label", "prediction"], "key": key_cols, "evaluate.slices": slices}
    for what, columns in wanted.items():
        missing = [column for column in columns if column not in frame.columns]
        if missing:
            named, there = ", ".join(map(repr, missing)), ", ".join(frame.columns)
            raise ConfigError(f"{what}: the predictions have no column {named}; they have: {there}")


def _narrow(frame: DataFrame, slices: list[str], key_cols: list[str], classification: bool) -> DataFrame:
    """Return key (hash), keys (JSON), label, prediction, probability (array) and slice0, slice1, ... (strings)."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    def quoted(name: str) -> Column:
        return F.col("`" + name.replace("`", "``") + "`")

    # as text, so that the same key hashes alike whatever integer type a source gave it
    key = F.xxhash64(*[F.coalesce(quoted(name).cast("string"), F.lit("\x00")) for name in key_cols]).alias("key")
    keys = F.to_json(F.struct(*[quoted(name).alias(f"k{number}") for number, name in enumerate(key_cols)])).alias("keys")
    columns = [key, keys, F.col("label").cast("double").alias("label"), F.col("prediction").cast("double").alias("prediction")]
    if classification and "probability" in frame.columns:
        is_array = frame.schema["probability"].dataType.typeName() == "array"
        probability = F.col("probability").cast("array<double>") if is_array else vector_to_array(F.col("probability"))
        columns.append(probability.alias("probability"))
    columns += [F.coalesce(quoted(name).cast("string"), F.lit(MISSING)).alias(f"slice{i}") for i, name in enumerate(slices)]
    return frame.select(*columns)


def _check_rows(frame: DataFrame, classes: list[str]) -> tuple[int, str]:
    from pyspark.sql import functions as F

    def bad(column: str) -> Column:
        value = F.col(column)
        wrong = value.isNull() | F.isnan(value)
        if classes:
            wrong = wrong | (value < 0) | (value >= len(classes)) | (value != F.floor(value))
        return F.coalesce(F.sum(wrong.cast("int")), F.lit(0))

    size = F.size("probability") if "probability" in frame.columns else F.lit(len(classes))
    found = frame.agg(
        F.count(F.lit(1)).alias("rows"),
        bad("label").alias("label"),
        bad("prediction").alias("prediction"),
        F.coalesce(F.max(size), F.lit(0)).alias("longest"),
        F.coalesce(F.min(size), F.lit(0)).alias("shortest"),
        # a sum, not an exclusive or: keys may occur twice; with the label: other labels are another test
        F.coalesce(F.sum(F.xxhash64("key", "label").cast("decimal(38,0)")), F.lit(0)).alias("checksum"),
    ).first()
    assert found is not None
    if not found["rows"]:
        raise DataError("there are no rows to evaluate", hint="look at the split fractions and the contract's counts")
    allowed = f"class indices 0 to {len(classes) - 1}" if classes else "finite numbers"
    for column in ("label", "prediction"):
        if found[column]:
            count = f"{found[column]} of {found['rows']} rows"
            raise DataError(f"{count} have a {column} that is null, NaN or not allowed; allowed: {allowed}")
    if found["longest"] > len(classes) or found["longest"] != found["shortest"]:
        sizes = f"{found['shortest']} to {found['longest']}"
        raise DataError(f"the model gives {sizes} probabilities per row, there are {len(classes)} classes")
    return found["rows"], f"{int(found['checksum']) % 2**64:016x}"


def _slice_counts(frame: DataFrame, position: int, most: int) -> dict[str, int]:
    from pyspark.sql import functions as F

    counted = frame.groupBy(f"slice{position}").count().orderBy(F.desc("count"), f"slice{position}").limit(most).collect()
    return {row[0]: row[1] for row in counted}


def _run(frame: DataFrame, plan: Plan) -> tuple[dict[int, Array], dict[int, Array], dict[str, Any]]:
    """Return point values (metrics,) and replicate values (metrics, B) per group, and the details of all rows."""
    spark = frame.sparkSession
    tasks = spark.sparkContext.defaultParallelism
    columns = [name for name in frame.columns if name != "keys"]
    # at most as many partial states as tasks run at once: each is tens of megabytes, whatever the number of rows
    partials = (
        frame.select(*columns)
        .coalesce(tasks)
        .mapInArrow(partial(partial_states, plan=plan), "group int, block int, state binary")
    )
    merged = partials.repartition(tasks, "group", "block").mapInArrow(
        partial(merged_values, plan=plan), "group int, block int, values array<double>, details string"
    )
    points: dict[int, Array] = {}
    blocks: dict[int, dict[int, Array]] = {}
    details: dict[str, Any] = {}
    for group, block, values, text in merged.toLocalIterator():
        shaped = np.array(values).reshape(len(plan.metrics), -1)
        if block == POINT:
            points[group] = shaped[:, 0]
            details = json.loads(text) or details
        else:
            blocks.setdefault(group, {})[block] = shaped
    replicates = {}
    for group, parts in blocks.items():
        values = np.concatenate([parts[block] for block in sorted(parts)], axis=1)
        # the coarser histograms of the replicates shift them all alike: move them by what the unweighted row is off
        shift = points[group] - values[:, 0]
        limits = np.array([metric.limits for metric in plan.metrics])
        replicates[group] = np.clip(values[:, 1:] + np.nan_to_num(shift)[:, None], limits[:, :1], limits[:, 1:])
    return points, replicates, details


def _rounded(value: float) -> float:
    """Keep 12 significant digits: the order of summation changes the last ones, and equal runs should print equal."""
    return float(f"{value:.12g}")


def _estimate(point: float, replicates: Array, confidence: float) -> dict[str, float]:
    low, high = interval(replicates, confidence) if math.isfinite(point) else (math.nan, math.nan)
    return {"value": _rounded(point), "low": _rounded(low), "high": _rounded(high)}


def _overall(
    metrics: list[Metric], computed: list[Metric], points: Array, replicates: Array, confidence: float, count: int
) -> dict[str, MetricResult]:
    results = {}
    for metric in metrics:
        if metric in computed:
            position = computed.index(metric)
            point, drawn = float(points[position]), replicates[position]
        else:
            point, drawn = math.nan, np.full(count, math.nan)
        results[metric.plugin_name()] = MetricResult(
            label=metric.label,
            greater_is_better=metric.greater_is_better,
            replicates=[_rounded(value) for value in drawn],
            **_estimate(point, drawn, confidence),
        )
    return results


def _slices(
    plan: Plan, counts: list[dict[str, int]], rows: int, points: dict[int, Array], replicates: dict[int, Array], confidence: float
) -> list[Slice]:
    found = []
    group = 0
    for (column, values), counted in zip(plan.slices, counts, strict=True):
        for value in (*values, OTHER):
            group += 1
            if group not in points:
                continue
            estimates = {
                metric.plugin_name(): Estimate(**_estimate(float(points[group][i]), replicates[group][i], confidence))
                for i, metric in enumerate(plan.metrics)
            }
            size = counted.get(value, rows - sum(counted.values()))
            found.append(Slice(column=column, value=value, rows=size, metrics=estimates))
    return found


def _residuals(frame: DataFrame) -> Residuals:
    from pyspark.sql import functions as F

    residual = F.col("prediction") - F.col("label")
    # 0.5 % at either end share the end bins: one outlier must not squeeze the picture
    low, high = frame.select(F.percentile_approx(residual, [0.005, 0.995], 10000)).first()[0]  # type: ignore[index]
    if not high > low:
        low, high = low - 0.5, high + 0.5
    index = F.least(F.greatest(F.floor((residual - low) / ((high - low) / _RESIDUAL_BINS)), F.lit(0)), F.lit(_RESIDUAL_BINS - 1))
    counts = {row[0]: row[1] for row in frame.groupBy(index).count().collect()}
    sample = frame.orderBy("key").limit(_SAMPLE_ROWS).select("label", "prediction").collect()
    return Residuals(
        edges=[_rounded(edge) for edge in np.linspace(low, high, _RESIDUAL_BINS + 1)],
        counts=[counts.get(bin_, 0) for bin_ in range(_RESIDUAL_BINS)],
        sample_target=[row[0] for row in sample],
        sample_prediction=[row[1] for row in sample],
    )


def _worst(frame: DataFrame, count: int, key_cols: list[str], classification: bool) -> list[Mistake]:
    from pyspark.sql import functions as F

    nothing = F.lit(float("nan"))
    probability = predicted = nothing
    if "probability" in frame.columns:
        # a class that the model never saw has no column: null there means 0
        at = "coalesce(try_element_at(probability, cast({} as int) + 1), 0d)"
        probability, predicted = F.expr(at.format("label")), F.expr(at.format("prediction"))
    if classification:
        order = [probability.asc(), predicted.desc()] if "probability" in frame.columns else []
        frame = frame.where("label != prediction")
    else:
        order = [F.abs(F.col("prediction") - F.col("label")).desc()]
    chosen = (
        frame.orderBy(*order, "key")
        .limit(count)
        .select("keys", "label", "prediction", predicted.alias("predicted"), probability.alias("true"))
    )
    return [
        Mistake(
            key={name: json.loads(row["keys"]).get(f"k{number}") for number, name in enumerate(key_cols)},
            label=row["label"],
            prediction=row["prediction"],
            probability=row["predicted"],
            true_probability=row["true"],
        )
        for row in chosen.collect()
    ]
