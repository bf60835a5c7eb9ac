"""`KerasClassifier` and `KerasRegressor`: pyspark.ml Estimators whose nets train on Horovod ranks in a Spark barrier stage."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from pydantic import ValidationError
from pyspark.ml import Estimator
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasFeaturesCol,
    HasLabelCol,
    HasPredictionCol,
    HasProbabilityCol,
    HasSeed,
    HasValidationIndicatorCol,
)
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from sparkml import plugins
from sparkml.config import suggest
from sparkml.errors import ConfigError, DataError
from sparkml.estimators.keras_model import KerasClassificationModel, KerasModel, KerasRegressionModel
from sparkml.estimators.keras_params import HasInputShape, HasTraining, explain
from sparkml.estimators.materialise import as_shards
from sparkml.launch.barrier import BarrierGang, preflight, slots
from sparkml.launch.gang import Report
from sparkml.learners.keras import Build, KerasJob, Target, train_keras
from sparkml.learners.net import Net
from sparkml.lineage.fingerprint import fingerprint
from sparkml.storage import Manifest, Store

_GROUPS_PER_RANK = 8  # enough row groups for shares of nearly equal size
_MAX_ROWS_PER_GROUP = 1 << 16


class KerasEstimator(
    Estimator[KerasModel],
    HasFeaturesCol,
    HasLabelCol,
    HasPredictionCol,
    HasValidationIndicatorCol,
    HasSeed,
    HasInputShape,
    HasTraining,
):
    """What both estimators share.

    Parameters
    ----------
    model
        A name in `sparkml.learners.zoo` (``"cnn"``), a mapping ``{"type": "cnn", "dense": 64}``, or a function
        ``(input_shape, outputs, task) -> keras.Model`` ending in a softmax (classification) or a linear layer (regression).
    on_report
        Called with every rank's progress, from another thread.
    params
        The Params by name: those below, and the settings of `TrainingOptions` in camelCase (``batchSize`` is per rank).
    """

    numProc: Param[int] = Param(
        Params._dummy(), "numProc", "number of ranks; by default one per slot of the cluster", typeConverter=TypeConverters.toInt
    )
    checkpointDir: Param[str] = Param(
        Params._dummy(),
        "checkpointDir",
        "URL of a folder that all ranks reach, for a checkpoint per epoch (a fit goes on from it) and for the shards; "
        "without it nothing is kept",
        typeConverter=TypeConverters.toString,
    )
    logDir: Param[str] = Param(
        Params._dummy(), "logDir", "local folder on the driver for rank-N.log", typeConverter=TypeConverters.toString
    )
    _task: ClassVar[str]
    _model_class: ClassVar[type[KerasModel]]

    def __init__(self, *, model: str | Mapping[str, Any] | Net | Build, on_report: Report | None = None, **params: Any) -> None:
        super().__init__()
        self._build, self._on_report = _builder(model), on_report
        self._setDefault(seed=7)
        unknown = [name for name in params if not self.hasParam(name)]
        if unknown:
            known = sorted(param.name for param in self.params)
            raise ConfigError(f"{type(self).__name__} has no parameter {unknown[0]!r}; {suggest(unknown[0], known)}")
        self._set(**params)
        self.options()

    def _fit(self, dataset: DataFrame) -> KerasModel:
        spark = dataset.sparkSession
        train, validation = self._parts(dataset)
        facts = self._facts(train, validation)
        size = self.getOrDefault(self.numProc) if self.isDefined(self.numProc) else max(1, min(slots(spark), facts["rows"]))
        preflight(spark, size)  # before the shards are written, which may take long
        kept = self.isDefined(self.checkpointDir)
        store = Store(self.getOrDefault(self.checkpointDir) if kept else f".sparkml/_fit/{uuid.uuid4().hex[:16]}")
        try:
            job = self._job(train, validation, facts, store, size)
            gang = BarrierGang(
                spark, log_dir=self.getOrDefault(self.logDir) if self.isDefined(self.logDir) else None, on_report=self._on_report
            )
            answer = json.loads(gang.run(partial(train_keras, job=job if kept else replace(job, store=None)), size)[0])
        finally:
            if not kept:
                store.remove("")
        model = self._model_class(base64.b64decode(answer["model"]), answer["history"])
        self._copyValues(model)
        model._set(inputShape=list(job.shape))
        return model

    def _parts(self, dataset: DataFrame) -> tuple[DataFrame, DataFrame | None]:
        for name in (self.getFeaturesCol(), self.getLabelCol()):
            if name not in dataset.columns:
                raise DataError(f"there is no column {name!r}, only {', '.join(dataset.columns)}")
        wanted = dataset.select(self.getFeaturesCol(), F.col(self.getLabelCol()).cast("double").alias(self.getLabelCol()))
        if not self.isDefined(self.validationIndicatorCol):
            return wanted, None
        held_out = F.col(self.getValidationIndicatorCol()).cast("boolean")
        return wanted.where(~held_out), wanted.where(held_out)

    def _facts(self, train: DataFrame, validation: DataFrame | None) -> dict[str, Any]:
        """Count and check the labels in one pass over each part. Raises `DataError` for labels that cannot be learnt."""
        label = F.col(self.getLabelCol())
        bad = F.sum((label.isNull() | F.isnan(label) | (F.abs(label) == float("inf"))).cast("int"))
        fractional = F.sum((label != F.floor(label)).cast("int"))
        checks = (
            F.count("*").alias("rows"),
            bad.alias("bad"),
            fractional.alias("fractional"),
            F.min(label).alias("least"),
            F.max(label).alias("most"),
            F.avg(label).alias("mean"),
            F.stddev_pop(label).alias("std"),
            # the same rows in any order give the same sum: it names their shards
            F.sum(F.xxhash64(*train.columns).cast("decimal(38,0)")).alias("content"),
        )
        found = [part.agg(*checks).first() for part in (train, validation) if part is not None]
        for row in found:
            assert row is not None
            self._check(row)
        first = found[0]
        assert first is not None
        if first["rows"] == 0:
            raise DataError("there are no training rows", hint="look at the split and at the contract's quarantine")
        held_out = [row for row in found[1:] if row is not None and row["rows"]]
        most = max(row["most"] for row in (first, *held_out))
        marks = [f"{row['rows']}-{row['content']}" for row in (first, *held_out)]
        return {**first.asDict(), "most": most, "marks": dict(zip(("train", "validation"), marks, strict=False))}

    def _check(self, row: Row) -> None:
        if row["rows"] and row["bad"]:
            raise DataError(f"the label {self.getLabelCol()!r} is null, NaN or infinite in {row['bad']} of {row['rows']} rows")
        if row["rows"] and self._task == "classification" and (row["fractional"] or row["least"] < 0):
            raise DataError(
                f"the label {self.getLabelCol()!r} must hold class indices 0, 1, 2, ...; it goes from {row['least']:g} to "
                f"{row['most']:g} with {row['fractional']} fractional values",
                hint="index it with a StringIndexer",
            )

    def _job(self, train: DataFrame, validation: DataFrame | None, facts: dict[str, Any], store: Store, size: int) -> KerasJob:
        columns = (self.getFeaturesCol(), self.getLabelCol())
        rows_per_group = max(1, min(_MAX_ROWS_PER_GROUP, facts["rows"] // (size * _GROUPS_PER_RANK)))
        parts = {"train": train, "validation": validation}
        paths = {name: f"shards/{name}-{fingerprint([mark, rows_per_group])}" for name, mark in facts["marks"].items()}
        manifests = {
            name: as_shards(part, store, paths[name], list(columns), rows_per_group)
            for name, part in parts.items()
            if part is not None and name in paths
        }
        return KerasJob(
            build=self._build,
            target=self._target(facts),
            shape=self._shape(train),
            options=self.options(),
            seed=self.getSeed(),
            train=store.url(paths["train"]),
            validation=store.url(paths["validation"]) if "validation" in paths else None,
            data_mark=fingerprint({name: _content(manifest) for name, manifest in manifests.items()}),
            columns=columns,
            store=store,
        )

    def _target(self, facts: dict[str, Any]) -> Target:
        return Target(self._task, 1, facts["mean"], facts["std"] or 1.0)

    def _shape(self, train: DataFrame) -> tuple[int, ...]:
        if self.isDefined(self.inputShape):
            return self.getInputShape()
        first = train.select(self.getFeaturesCol()).first()
        return (len(first[0]),) if first is not None else ()


class KerasClassifier(KerasEstimator, HasProbabilityCol):
    """Trains class probabilities by cross-entropy. `numClasses` defaults to the largest label + 1."""

    numClasses: Param[int] = Param(
        Params._dummy(), "numClasses", "number of classes; by default the largest label + 1", typeConverter=TypeConverters.toInt
    )
    _task = "classification"
    _model_class = KerasClassificationModel

    def _target(self, facts: dict[str, Any]) -> Target:
        found = int(facts["most"]) + 1
        classes = self.getOrDefault(self.numClasses) if self.isDefined(self.numClasses) else max(2, found)
        if found > classes:
            raise DataError(f"the label {self.getLabelCol()!r} holds the class index {found - 1}, numClasses is {classes}")
        return Target(self._task, classes)


class KerasRegressor(KerasEstimator):
    """Trains a value by the squared error, in units of the label's standard deviation; predicts in the label's own units."""

    _task = "regression"
    _model_class = KerasRegressionModel


def _builder(model: str | Mapping[str, Any] | Net | Build) -> Build:
    if isinstance(model, str):
        model = {"type": model}
    if isinstance(model, Mapping):
        plugin = plugins.load("learners.zoo", str(model.get("type")))
        try:
            model = plugin(plugin.Options(**{key: value for key, value in model.items() if key != "type"}))  # type: ignore[assignment]
        except ValidationError as error:
            raise ConfigError(f"model {plugin.plugin_name()}: {explain(error)}") from None
    if isinstance(model, Net):
        return model.build
    if not callable(model):
        raise ConfigError(f"model must be a name, a mapping or a function, it is a {type(model).__name__}")
    return model


def _content(manifest: Manifest) -> list[str]:
    """Return what identifies the rows and their order: the files' hashes."""
    return [file.sha256 for file in manifest.files]
