"""MLlib classifiers and regressors by their own names and parameters, with grid search."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sparkml.config import Options, suggest
from sparkml.errors import ConfigError
from sparkml.estimators.trainer import TrainContext, Trainer

if TYPE_CHECKING:
    from pyspark.ml import Estimator, Model
    from pyspark.ml.evaluation import Evaluator
    from pyspark.sql import SparkSession

_PIPELINE_SETS = frozenset(
    {"featuresCol", "labelCol", "predictionCol", "probabilityCol", "rawPredictionCol", "validationIndicatorCol"}
)
_NOT_FROM_YAML = frozenset({"OneVsRest"})  # takes another estimator as a parameter


@cache
def algorithms() -> dict[str, type[Any]]:
    """Return MLlib's classifiers and regressors by name. Imports pyspark.ml but starts no JVM."""
    from pyspark.ml import Estimator, classification, regression

    return {
        name: getattr(module, name)
        for module in (classification, regression)
        for name in module.__all__
        if issubclass(getattr(module, name), Estimator) and name not in _NOT_FROM_YAML
    }


@cache
def _parameters(algorithm: str) -> dict[str, Any]:
    from pyspark.ml.param import Param

    kind = algorithms()[algorithm]
    found = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
    return {name: value for name, value in found.items() if isinstance(value, Param) and name not in _PIPELINE_SETS}


def task_of(algorithm: str) -> str:
    """Return ``classification`` or ``regression`` for an MLlib estimator's name."""
    return str(algorithms()[algorithm].__module__.rpartition(".")[2])


class Search(Options):
    """How a grid is searched: k-fold cross-validation or one validation split, several models at a time."""

    method: Literal["cross_validation", "validation_split"] = "cross_validation"
    folds: int = Field(3, ge=2, le=20)
    train_ratio: float = Field(0.8, gt=0, lt=1)
    parallelism: int = Field(2, ge=1, le=64)
    metric: str | None = None


class MllibOptions(Options):
    """``algorithm`` is the class name in pyspark.ml, ``params`` and ``grid`` take its own parameter names."""

    algorithm: str
    params: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    search: Search = Search()

    @field_validator("algorithm")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in algorithms():
            raise PydanticCustomError("algorithm", "no such MLlib estimator; {advice}", {"advice": suggest(value, algorithms())})
        return value

    @model_validator(mode="after")
    def _check_parameters(self) -> MllibOptions:
        known = _parameters(self.algorithm)
        given = [(f"params.{name}", name, value) for name, value in self.params.items()]
        given += [(f"grid.{name}", name, value) for name, values in self.grid.items() for value in values]
        for key, name, value in given:
            if name not in known:
                raise PydanticCustomError(
                    "parameter",
                    "{algorithm} has no parameter '{name}'; {advice}",
                    {"key": key, "algorithm": self.algorithm, "name": name, "advice": suggest(name, known)},
                )
            try:
                known[name].typeConverter(value)
            except (TypeError, ValueError) as error:
                raise PydanticCustomError(
                    "parameter",
                    "{algorithm}.{name}: {error}",
                    {"key": key, "algorithm": self.algorithm, "name": name, "error": str(error)},
                ) from None
        return self


class Mllib(Trainer):
    """Any estimator of pyspark.ml.classification and pyspark.ml.regression."""

    Options = MllibOptions

    def estimator(self, context: TrainContext) -> Estimator[Any]:
        if task_of(self.options.algorithm) != context.task:
            raise ConfigError(
                f"{self.options.algorithm} does {task_of(self.options.algorithm)}, the pipeline's task is {context.task}",
                hint=suggest("", [name for name in algorithms() if task_of(name) == context.task]),
            )
        if self.options.algorithm in {"GBTClassifier", "LinearSVC"} and len(context.classes) > 2:
            raise ConfigError(
                f"{self.options.algorithm} knows two classes only, the target has {len(context.classes)}",
                hint="use RandomForestClassifier, LogisticRegression or MultilayerPerceptronClassifier",
            )
        seeded = {"seed": context.seed} if "seed" in _parameters(self.options.algorithm) else {}
        columns = {"featuresCol": context.features_col, "labelCol": context.label_col}
        base = algorithms()[self.options.algorithm](**{**columns, **seeded, **self.options.params})
        return self._search(base, context) if self.options.grid else base  # type: ignore[no-any-return]

    def _search(self, base: Any, context: TrainContext) -> Estimator[Any]:
        from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit

        builder = ParamGridBuilder()
        for name, values in self.options.grid.items():
            builder = builder.addGrid(base.getParam(name), values)
        search = self.options.search
        shared = {
            "estimator": base,
            "estimatorParamMaps": builder.build(),
            "seed": context.seed,
            "parallelism": search.parallelism,
            "evaluator": _evaluator(context, search.metric),
        }
        if search.method == "cross_validation":
            return CrossValidator(numFolds=search.folds, **shared)
        return TrainValidationSplit(trainRatio=search.train_ratio, **shared)

    def load(self, spark: SparkSession, url: str) -> Model:
        from pyspark.ml.tuning import CrossValidatorModel, TrainValidationSplitModel

        if self.options.grid:
            searched = CrossValidatorModel if self.options.search.method == "cross_validation" else TrainValidationSplitModel
            return searched.load(url)
        return _model_class(self.options.algorithm).load(url)  # type: ignore[no-any-return]

    def history(self, model: Model) -> dict[str, Any]:
        found: dict[str, Any] = {"algorithm": self.options.algorithm}
        if self.options.grid:
            scores = getattr(model, "avgMetrics", None) or getattr(model, "validationMetrics", [])
            maps = model.getEstimatorParamMaps()  # type: ignore[attr-defined]
            found["grid"] = [
                {"params": {param.name: value for param, value in choice.items()}, "metric": score}
                for choice, score in zip(maps, scores, strict=True)
            ]
            found["grid_metric"] = model.getEvaluator().getMetricName()  # type: ignore[attr-defined]
            model = model.bestModel  # type: ignore[attr-defined]
        if hasattr(model, "featureImportances"):
            found["importances"] = [float(value) for value in model.featureImportances.toArray()]
        if hasattr(model, "totalNumNodes"):
            found["trees"], found["nodes"] = int(getattr(model, "getNumTrees")), int(model.totalNumNodes)  # noqa: B009  (a property in Python)
        return found


def _model_class(algorithm: str) -> Any:
    """Return the model class that MLlib pairs with an estimator: ``GBTClassifier`` -> ``GBTClassificationModel``."""
    import importlib

    module = importlib.import_module(algorithms()[algorithm].__module__)
    names = (
        f"{algorithm}Model",
        f"{algorithm.replace('Classifier', 'Classification')}Model",
        f"{algorithm.replace('Regressor', 'Regression')}Model",
    )
    return next(getattr(module, name) for name in names if hasattr(module, name))


def _evaluator(context: TrainContext, metric: str | None) -> Evaluator:
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator, RegressionEvaluator

    kind = MulticlassClassificationEvaluator if context.task == "classification" else RegressionEvaluator
    chosen = metric or ("f1" if context.task == "classification" else "rmse")
    try:
        return kind(labelCol=context.label_col, metricName=chosen)  # type: ignore[arg-type]
    except Exception as error:
        raise ConfigError(f"search.metric {chosen!r} is not one that MLlib's {kind.__name__} knows: {error}") from error
