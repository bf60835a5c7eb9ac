"""Fits the feature stages on the training split, transforms every row, and checks for leakage."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml.config import suggest
from sparkml.errors import ConfigError, DataError
from sparkml.features.report import FeaturesReport
from sparkml.features.settings import FeatureSettings, SplitSettings, TargetSettings
from sparkml.features.stage import expand

if TYPE_CHECKING:
    from pyspark.ml import PipelineModel
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

MOST_CLASSES = 1000
_SAME = 0.999999  # correlation above which a feature is the target in disguise
_FEWEST_ROWS = 20  # a handful of rows correlates by chance


def fit_features(
    rows: DataFrame, target: TargetSettings, features: FeatureSettings, split: SplitSettings, out_url: str
) -> FeaturesReport:
    """Write ``rows`` (key, ``_split``, ``label``, kept columns, features) and ``pipeline`` (the fitted stages) below `out_url`.

    Parameters
    ----------
    rows
        Good rows with ``_split`` (and ``_key`` when the split has no key columns).

    Raises
    ------
    DataError
        The target is missing or null, has one class in training or one that training lacks, a column cannot be fitted, or the
        leakage check found something and `split.leakage` is ``error``.
    """
    classes, counts = _class_counts(rows, target)
    labelled = label_column(rows, target, classes)
    keys = split.key_columns() or ["_key"]
    findings = [] if split.leakage == "off" else _keys_in_two_splits(labelled, keys)
    model = _fit(labelled.where("_split = 'train'"), features, exclude={"label", target.column, "_split", "_key", "_file"})
    carried = list(dict.fromkeys([*keys, "_split", "label", target.column, *features.keep]))
    missing = [name for name in carried if name not in labelled.columns]
    if missing:
        raise ConfigError(f"features.keep: no column {missing[0]!r}; {suggest(missing[0], labelled.columns)}")
    from pyspark.sql import functions as F

    made = model.transform(labelled).select(*[F.col(f"`{name}`") for name in [*carried, features.output]])
    made.write.partitionBy("_split").parquet(f"{out_url}/rows")
    model.write().overwrite().save(f"{out_url}/pipeline")
    written = rows.sparkSession.read.parquet(f"{out_url}/rows")
    shape, names = _shape(written, features)
    if split.leakage != "off":
        suspects = _constant_in_each_class if len(classes) > 2 else _linear_in_target
        findings += [
            f"the feature {names[index] if names else f'number {index}'} equals the target in training"
            for index in suspects(written.where("_split = 'train'"), features.output)[:10]
        ]
    if findings and split.leakage == "error":
        raise DataError(
            "leakage: " + "; ".join(findings), hint="remove the column or fix the key; split.leakage=warn reports it only"
        )
    for finding in findings:
        log.warning("leakage: %s", finding)
    return FeaturesReport(
        classes=classes,
        shape=shape,
        feature_names=names,
        key_columns=keys,
        split_counts={name: sum(part.values()) for name, part in counts.items()},
        class_counts=counts if classes else {},
        leakage=findings,
    )


def apply_features(rows: DataFrame, url: str) -> DataFrame:
    """Transform rows with the fitted stages saved below `url`; the target is not needed."""
    from pyspark.ml import PipelineModel

    return PipelineModel.load(f"{url}/pipeline").transform(rows)


def label_column(rows: DataFrame, target: TargetSettings, classes: Sequence[str]) -> DataFrame:
    """Add ``label``: the index of the class in `classes`, or the number itself for regression."""
    from pyspark.sql import functions as F

    column = F.col(f"`{target.column}`")
    if target.task == "regression":
        return rows.withColumn("label", column.try_cast("double"))
    position = F.array_position(F.array(*[F.lit(name) for name in classes]), column.cast("string"))
    return rows.withColumn("label", (position - 1).cast("double"))


def _class_counts(rows: DataFrame, target: TargetSettings) -> tuple[list[str], dict[str, dict[str, int]]]:
    from pyspark.sql import functions as F

    if target.column not in rows.columns:
        raise DataError(f"the target column {target.column!r} is missing; {suggest(target.column, rows.columns)}")
    column = F.col(f"`{target.column}`")
    if target.task == "classification":
        value, usable = column.cast("string"), column.isNotNull()
    else:
        number = column.try_cast("double")
        value, usable = F.lit(""), F.coalesce(F.abs(number) < float("inf"), F.lit(False))
    found = rows.groupBy("_split", value.alias("value"), usable.alias("usable")).count().limit(3 * MOST_CLASSES + 1).collect()
    counts: dict[str, dict[str, int]] = {name: {} for name in ("train", "validation", "test")}
    for row in found:
        if not row["usable"]:
            what = "null" if target.task == "classification" else "not a finite number"
            raise DataError(
                f"the target {target.column!r} is {what} in {row['count']:,} rows",
                hint="contract: nullable: false (and finite: true) sends them to quarantine",
            )
        counts.setdefault(row["_split"], {})[row["value"]] = row["count"]
    _check_counts(counts, target)
    return (_ordered(counts["train"]) if target.task == "classification" else []), counts


def _check_counts(counts: dict[str, dict[str, int]], target: TargetSettings) -> None:
    unknown = set(counts) - {"train", "validation", "test"}
    if unknown:
        raise ConfigError(f"split.assign gave {sorted(map(str, unknown))}; allowed: train, validation, test or null")
    for name in ("train", "test"):
        if not counts[name]:
            raise DataError(f"the {name} split is empty", hint="check split.fractions and split.assign")
    if target.task == "regression":
        return
    train = set(counts["train"])
    if len(train) > MOST_CLASSES:
        raise DataError(
            f"the target {target.column!r} has more than {MOST_CLASSES} classes", hint="is it a number? then task: regression"
        )
    if len(train) < 2:
        raise DataError(f"the target {target.column!r} has one class only in training: {next(iter(train))!r}")
    for name in ("validation", "test"):
        unseen = set(counts[name]) - train
        if unseen:
            raise DataError(f"the {name} split has classes that training lacks: {', '.join(sorted(unseen)[:10])}")


def _ordered(names: dict[str, int]) -> list[str]:
    """Class names in numeric order where all are numbers (10 after 9), else alphabetical."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def _fit(train: DataFrame, features: FeatureSettings, exclude: set[str]) -> PipelineModel:
    """Fit stage by stage: an error names the stage, and patterns are expanded against the columns that are there by then."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException
    from pyspark.ml import Estimator, PipelineModel

    fitted: list[Any] = []
    for number, stage in enumerate(features.stages):
        where = f"{number + 1}. {stage.plugin_name()}"
        available = [name for name in train.columns if name not in exclude]
        try:
            built = stage.build(expand(stage.inputs(), available, where))
            model = built.fit(train) if isinstance(built, Estimator) else built
            train = model.transform(train)
        except (PySparkException, Py4JJavaError) as error:
            raise DataError(f"features.stages: {where} does not fit the training rows: {_reason(error)}") from error
        fitted.append(model)
    return PipelineModel(fitted)


def _reason(error: Exception) -> str:
    """The sentence of a Java exception, without its class and stack."""
    java = getattr(error, "java_exception", None)
    text = str(error) if java is None else str(java.getMessage())
    return text.strip().splitlines()[0].removeprefix("requirement failed: ")


def _shape(written: DataFrame, features: FeatureSettings) -> tuple[list[int], list[str]]:
    """The shape of a row of the output (from the settings, the stage that made it, or its length) and its elements' names."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    maker = next(stage for stage in reversed(features.stages) if features.output in stage.outputs())
    image = list(features.shape or getattr(maker.options, "shape", []))
    first = written.select(F.size(vector_to_array(F.col(f"`{features.output}`"))).alias("n")).first()
    assert first is not None
    if not image:
        return [first["n"]], _names(written, features.output, first["n"])
    if math.prod(image) != first["n"]:
        raise ConfigError(f"features.shape {image} has {math.prod(image)} elements, {features.output!r} has {first['n']}")
    return (image if len(image) != 2 else [*image, 1]), _names(written, features.output, first["n"])


def _names(written: DataFrame, output: str, size: int) -> list[str]:
    """The names that Spark keeps in the vector's metadata; a scaler drops them, then there are none."""
    groups = written.schema[output].metadata.get("ml_attr", {}).get("attrs", {})
    found = {item["idx"]: item.get("name", str(item["idx"])) for kind in groups.values() for item in kind}
    return [found[index] for index in range(size)] if len(found) == size else []


def _keys_in_two_splits(rows: DataFrame, keys: list[str]) -> list[str]:
    from pyspark.sql import functions as F

    per_key = rows.groupBy(*[F.col(f"`{name}`") for name in keys]).agg(F.count_distinct("_split").alias("splits"))
    shared = per_key.where("splits > 1").count()
    what = "equal rows" if keys == ["_key"] else f"values of {', '.join(keys)}"
    return [f"{shared:,} {what} are in two splits"] if shared else []


def _linear_in_target(train: DataFrame, output: str) -> list[int]:
    """Features that are a linear function of the label, by the sums that MLlib's Summarizer takes in one pass."""
    from pyspark.ml.stat import Summarizer
    from pyspark.sql import functions as F

    least = train.agg(F.min("label")).first()
    assert least is not None
    shifted = (F.col("label") - F.lit(least[0])).alias("w")  # a weight must not be negative; a shift changes no correlation
    sums = (
        train.select(F.col(f"`{output}`").alias("x"), shifted)
        .select(
            Summarizer.mean(F.col("x")).alias("mean"),
            Summarizer.variance(F.col("x")).alias("variance"),
            Summarizer.sum(F.col("x"), F.col("w")).alias("product"),
            F.avg("w").alias("w_mean"),
            F.var_samp("w").alias("w_variance"),
            F.count("w").alias("rows"),
        )
        .first()
    )
    assert sums is not None
    rows, mean, variance = sums["rows"], sums["mean"].toArray(), sums["variance"].toArray()
    if rows < _FEWEST_ROWS or not sums["w_variance"]:
        return []
    covariance = (sums["product"].toArray() - rows * mean * sums["w_mean"]) / (rows - 1)
    spread = np.sqrt(variance * sums["w_variance"])
    correlation = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)
    return [int(index) for index in np.flatnonzero(np.abs(correlation) > _SAME)]


def _constant_in_each_class(train: DataFrame, output: str) -> list[int]:
    """Features that are constant within every class and together tell all classes apart: the target under other names."""
    from pyspark.ml.stat import Summarizer
    from pyspark.sql import functions as F

    vector = F.col(f"`{output}`")
    found = train.groupBy("label").agg(
        Summarizer.mean(vector).alias("mean"), Summarizer.variance(vector).alias("variance"), F.count(F.lit(1)).alias("rows")
    )
    classes = found.collect()
    if sum(row["rows"] for row in classes) < _FEWEST_ROWS:
        return []
    mean = np.stack([row["mean"].toArray() for row in classes])
    within = np.stack([row["variance"].toArray() for row in classes]).max(axis=0)
    overall = mean.var(axis=0)
    steady = np.flatnonzero((overall > 0) & (within <= 1e-12 * overall))
    tell_apart = len(steady) > 0 and len(np.unique(mean[:, steady], axis=0)) == len(classes)
    return [int(index) for index in steady] if tell_apart else []
