"""Linear models by Newton's method on ranks: logistic regression, least squares, any GLM, support vector machines."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from sparkml.config import suggest
from sparkml.errors import ConfigError
from sparkml.estimators.trainer import TrainContext, Trainer
from sparkml.launch.options import GangOptions

if TYPE_CHECKING:
    from pyspark.ml import Estimator, Model
    from pyspark.sql import SparkSession

_TASKS = {
    "LogisticRegression": "classification",
    "LinearSVC": "classification",
    "LinearRegression": "regression",
    "GeneralizedLinearRegression": "regression",
}
_PIPELINE_SETS = frozenset(
    {"featuresCol", "labelCol", "predictionCol", "probabilityCol", "rawPredictionCol", "checkpointDir", "logDir"}
)


@cache
def _parameters(algorithm: str) -> dict[str, Any]:
    from pyspark.ml.param import Param

    from sparkml import estimators
    from sparkml.estimators.keras_params import camel

    kind = getattr(estimators, algorithm)
    own = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
    gang = {camel(name) for name in GangOptions.model_fields}  # these have keys of their own
    return {name: param for name, param in own.items() if isinstance(param, Param) and name not in _PIPELINE_SETS | gang}


class LinearOptions(GangOptions):
    """Which model, its Params, and settings of its gang.

    Attributes
    ----------
    algorithm
        LogisticRegression, LinearSVC, LinearRegression or GeneralizedLinearRegression; by default the first one of the task.
    params
        The estimator's Params by their own names.
    """

    algorithm: str | None = None
    params: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check_names(self) -> LinearOptions:
        if self.algorithm is not None and self.algorithm not in _TASKS:
            raise PydanticCustomError("algorithm", "no such linear model; {advice}", {"advice": suggest(self.algorithm, _TASKS)})
        allowed = [self.algorithm] if self.algorithm else list(_TASKS)
        for name in self.params:
            if not any(name in _parameters(algorithm) for algorithm in allowed):
                known = {known for algorithm in allowed for known in _parameters(algorithm)}
                raise PydanticCustomError(
                    "parameter",
                    "{algorithm} has no parameter '{name}'; {advice}",
                    {
                        "key": f"params.{name}",
                        "algorithm": self.algorithm or "a linear model",
                        "name": name,
                        "advice": suggest(name, sorted(known)),
                    },
                )
        return self


class Linear(Trainer):
    """The exact optimum in a few passes over the rows, with standard errors; the same bits on any number of ranks."""

    Options = LinearOptions

    def estimator(self, context: TrainContext) -> Estimator[Any]:
        from sparkml import estimators
        from sparkml.estimators.keras_params import camel

        chosen = self.options.algorithm or next(name for name, task in _TASKS.items() if task == context.task)
        if _TASKS[chosen] != context.task:
            raise ConfigError(
                f"{chosen} does {_TASKS[chosen]}, the pipeline's task is {context.task}",
                hint=suggest("", [name for name, task in _TASKS.items() if task == context.task]),
            )
        if chosen == "LinearSVC" and len(context.classes) > 2:
            raise ConfigError(
                f"LinearSVC knows two classes only, the target has {len(context.classes)}", hint="use LogisticRegression"
            )
        gang = self.options.model_dump(exclude={"algorithm", "params"}, exclude_unset=True)
        kind = getattr(estimators, chosen)
        return kind(  # type: ignore[no-any-return]
            on_report=context.report,
            featuresCol=context.features_col,
            labelCol=context.label_col,
            checkpointDir=context.store.url(context.scratch),
            logDir=context.log_dir,
            **{"seed": context.seed, **self.options.params},
            **{camel(name): value for name, value in gang.items()},
        )

    def load(self, spark: SparkSession, url: str) -> Model:
        from pyspark.ml.util import DefaultParamsReader

        from sparkml import estimators

        name = DefaultParamsReader.loadMetadata(url, spark)["class"].rpartition(".")[2]
        if name.removesuffix("Model") not in _TASKS:
            raise ConfigError(f"{url} holds a {name}, the trainer {self.plugin_name()!r} makes linear models")
        return getattr(estimators, name).load(url)  # type: ignore[no-any-return]

    def history(self, model: Model) -> dict[str, Any]:
        history: dict[str, Any] = dict(model.history)  # type: ignore[attr-defined]
        restarts = [f"{restart['reason']} (again with {restart['size']} ranks)" for restart in history["restarts"]]
        shown = ("solver", "passes", "converged", "error", "rows", "deviance", "null_deviance", "aic", "dispersion")
        return {
            **{name: history[name] for name in shown},
            "warnings": "; ".join(history["warnings"]),
            "restarts": "; ".join(restarts),
        }
