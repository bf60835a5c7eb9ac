"""What every feature stage promises; a new one is tested by being there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from chispa import assert_df_equality
from pydantic import ValidationError
from pyspark.ml import Estimator, PipelineModel
from pyspark.ml.linalg import Vectors

from sparkml.features.stage import FeatureStage
from sparkml.plugins import load, names
from tests.contracts.options import guesses

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COLUMNS = ("number", "text", "vector", "image", "index")


@pytest.fixture(params=names("features.stages"))
def kind(request: pytest.FixtureRequest) -> Any:
    return load("features.stages", request.param)


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    """A column of every type that a stage may read."""
    random = np.random.default_rng(4)
    values = [
        (n, float(random.normal()), "abc"[n % 3], Vectors.dense(random.normal(size=3)), bytes(range(n, n + 4)), float(n % 3))
        for n in range(30)
    ]
    return spark.createDataFrame(values, ["id", *COLUMNS]).cache()


def fitted(kind: Any, rows: DataFrame) -> tuple[Any, Any]:
    """Build and fit the stage on the first column that it takes."""
    tried = []
    for column in COLUMNS:
        for settings in guesses(kind, {"input": column, "inputs": [column], "output": "made"}):
            try:
                stage = kind(kind.Options.model_validate(settings))
                built = stage.build(stage.inputs())
                model = built.fit(rows) if isinstance(built, Estimator) else built
                model.transform(rows).select(*stage.outputs()).collect()
            except Exception as error:
                tried.append(f"{settings}: {str(error).splitlines()[0]}")
                continue
            return stage, model
    pytest.fail("\n".join(["takes none of the columns:", *tried]))


def test_is_a_documented_stage(kind: Any) -> None:
    assert issubclass(kind, FeatureStage)
    assert kind.__doc__


def test_unknown_options_are_refused(kind: Any) -> None:
    with pytest.raises(ValidationError, match="no_such_option"):
        kind.Options.model_validate({**next(guesses(kind)), "no_such_option": 1})


def test_adds_what_it_says_and_keeps_every_row(kind: Any, rows: DataFrame) -> None:
    stage, model = fitted(kind, rows)
    made = model.transform(rows)
    assert set(stage.outputs()) <= set(made.columns)
    assert set(rows.columns) <= set(made.columns)
    assert made.count() == rows.count()


def test_is_the_same_after_saving_and_loading(kind: Any, rows: DataFrame, tmp_path: Path) -> None:
    _, model = fitted(kind, rows)
    PipelineModel([model]).write().save(f"file://{tmp_path}/stage")
    loaded = PipelineModel.load(f"file://{tmp_path}/stage")
    assert_df_equality(loaded.transform(rows), model.transform(rows), ignore_row_order=True, ignore_metadata=True)
