"""What every trainer promises; a new one is tested by being there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError
from pyspark.ml import Estimator
from pyspark.ml.linalg import Vectors

from sparkml.errors import ConfigError
from sparkml.estimators.trainer import TrainContext, Trainer
from sparkml.plugins import load
from sparkml.storage import Store
from tests.contracts.options import guesses, installed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@pytest.fixture(params=installed("estimators.trainers"))
def kind(request: pytest.FixtureRequest) -> Any:
    return load("estimators.trainers", request.param)


@pytest.fixture(params=["classification", "regression"])
def context(request: pytest.FixtureRequest, kind: Any, tmp_path: Path) -> TrainContext:
    classes = ("no", "yes") if request.param == "classification" else ()
    validation = "_is_validation" if kind.wants_validation else None
    return TrainContext(
        store=Store(str(tmp_path / "store")),
        task=request.param,
        classes=classes,
        shape=(2,),
        seed=7,
        scratch="checkpoints/contract",
        log_dir=str(tmp_path / "logs"),
        validation_col=validation,
    )


def rows(spark: SparkSession, context: TrainContext) -> DataFrame:
    random = np.random.default_rng(1)
    points = random.normal(size=(120, 2))
    labels = points[:, 0] * 3 + random.normal(0, 0.1, 120)
    if context.classes:
        labels = (labels > 0).astype(float)
    values = [(n, Vectors.dense(points[n]), float(labels[n]), n % 5 == 0) for n in range(120)]
    return spark.createDataFrame(values, ["id", "features", "label", "_is_validation"])


def trainer_for(kind: Any, context: TrainContext) -> tuple[Any, Any]:
    """Return a trainer with guessed options that does the task, and its estimator."""
    refused = []
    for settings in guesses(kind):
        try:
            trainer = kind(kind.Options.model_validate(settings))
            return trainer, trainer.estimator(context)
        except (ValidationError, ConfigError) as error:
            refused.append(str(error))
    pytest.fail("\n".join(["no options could be guessed:", *refused]))


def test_is_a_documented_trainer(kind: Any) -> None:
    assert issubclass(kind, Trainer)
    assert kind.__doc__
    assert kind.tasks <= {"classification", "regression"}


def test_unknown_options_are_refused(kind: Any) -> None:
    for settings in guesses(kind):
        with pytest.raises(ValidationError, match="no_such_option"):
            kind.Options.model_validate({**settings, "no_such_option": 1})


def test_trains_predicts_and_is_the_same_after_loading(
    kind: Any, context: TrainContext, spark: SparkSession, tmp_path: Path
) -> None:
    if context.task not in kind.tasks:
        return  # what it does not claim to do is not asked of it
    trainer, estimator = trainer_for(kind, context)
    assert isinstance(estimator, Estimator)
    data = rows(spark, context)
    model = estimator.fit(data)
    predicted = model.transform(data).select("id", "label", "prediction").toPandas().sort_values("id")
    assert np.isfinite(predicted["prediction"]).all()
    assert predicted["prediction"].nunique() > 1
    if context.classes:
        assert (predicted["prediction"] == predicted["label"]).mean() > 0.6
    json.dumps(trainer.history(model))
    model.write().save(f"file://{tmp_path}/model")
    loaded = trainer.load(spark, f"file://{tmp_path}/model")
    again = loaded.transform(data).select("id", "prediction").toPandas().sort_values("id")
    np.testing.assert_array_equal(again["prediction"], predicted["prediction"])
