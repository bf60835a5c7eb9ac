"""The result of an evaluation: values with intervals, overall and by slice, and what the report draws."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, BeforeValidator

from sparkml.errors import DataError
from sparkml.evaluate.bootstrap import interval


def _null_is_nan(value: Any) -> Any:
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(_null_is_nan)]  # JSON has no NaN: null there, NaN here, "n/a" on the page


class Estimate(BaseModel):
    """A value with its percentile bootstrap interval; NaN where it is not defined."""

    value: Number
    low: Number
    high: Number


class MetricResult(Estimate):
    """One metric on all rows. `replicates` are kept for paired comparison with another model on the same rows."""

    label: str
    greater_is_better: bool
    replicates: list[Number]


class Slice(BaseModel):
    """All metrics on the rows where `column` has `value`; the rare values of a column are pooled as ``(other)``."""

    column: str
    value: str
    rows: int
    metrics: dict[str, Estimate]


class Curve(BaseModel):
    """ROC and precision-recall points of one class against the rest."""

    class_index: int
    fpr: list[float]
    tpr: list[float]
    recall: list[float]
    precision: list[float]


class CalibrationBin(BaseModel):
    """Rows whose largest class probability lies in one bin: mean of it, and how many of them are right."""

    rows: int
    confidence: float
    accuracy: float


class Residuals(BaseModel):
    """Regression errors, prediction minus target: counts between `edges` (outliers in the end bins) and a sample of rows."""

    edges: list[float]
    counts: list[int]
    sample_target: list[float]
    sample_prediction: list[float]


class Mistake(BaseModel):
    """A mistake. `probability` is what the model gave to the class it predicted, `true_probability` to the true one."""

    key: dict[str, Any]
    label: float
    prediction: float
    probability: Number = math.nan
    true_probability: Number = math.nan


class Evaluation(BaseModel):
    """Everything measured of one model on one set of rows.

    Attributes
    ----------
    rows_id
        Order-independent hash of the row keys: equal for two evaluations of the same rows.
    confusion
        ``confusion[i][j]`` rows of class i were predicted as class j; empty for regression and above 100 classes.
    """

    task: str
    classes: list[str] = []
    rows: int
    rows_id: str
    confidence: float
    seed: int
    metrics: dict[str, MetricResult]
    slices: list[Slice] = []
    confusion: list[list[int]] = []
    curves: list[Curve] = []
    calibration: list[CalibrationBin] = []
    residuals: Residuals | None = None
    worst: list[Mistake] = []


class PairedDifference(NamedTuple):
    """Metric of a minus metric of b with its paired interval; `significant` when the interval does not contain 0."""

    difference: float
    low: float
    high: float
    significant: bool


def compare(a: Evaluation, b: Evaluation, metric: str) -> PairedDifference:
    """Compare two models on the same rows, replicate by replicate.

    Raises
    ------
    DataError
        When the evaluations are not of the same rows with the same bootstrap settings, or lack the metric.
    """
    for name, evaluation in (("first", a), ("second", b)):
        if metric not in evaluation.metrics:
            raise DataError(f"the {name} evaluation has no metric {metric!r}; it has: {', '.join(evaluation.metrics)}")
    one, other = a.metrics[metric], b.metrics[metric]
    if (a.rows, a.rows_id) != (b.rows, b.rows_id):
        raise DataError(
            f"two models can be compared on the same rows only: {a.rows} rows ({a.rows_id}) against {b.rows} rows ({b.rows_id})",
            hint="evaluate both on the same test split",
        )
    if a.seed != b.seed or len(one.replicates) != len(other.replicates):
        raise DataError(
            f"the bootstrap settings differ: seed {a.seed} and {len(one.replicates)} replicates against seed {b.seed} and "
            f"{len(other.replicates)}",
            hint="evaluate both with the same evaluate.bootstrap settings",
        )
    low, high = interval(np.array(one.replicates) - np.array(other.replicates), a.confidence)
    return PairedDifference(one.value - other.value, low, high, low > 0 or high < 0)
