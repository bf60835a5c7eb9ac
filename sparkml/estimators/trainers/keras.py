"""Keras nets on Horovod ranks in a Spark barrier stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sparkml.errors import ConfigError
from sparkml.estimators.trainer import TrainContext, Trainer
from sparkml.launch.options import GangOptions
from sparkml.learners.training import TrainingOptions
from sparkml.plugins import plugged

if TYPE_CHECKING:
    from pyspark.ml import Estimator, Model
    from pyspark.sql import SparkSession


class KerasOptions(TrainingOptions, GangOptions):
    """Settings of the training and of its gang.

    Attributes
    ----------
    model
        An architecture of the zoo with its options.
    class_weight
        ``balanced``, or a factor per class index.
    """

    model: plugged("learners.zoo")  # type: ignore[valid-type]
    class_weight: Literal["balanced"] | dict[int, float] | None = None


class Keras(Trainer):
    """A net of the zoo, trained by synchronous data-parallel SGD; a killed training goes on from its last epoch."""

    Options = KerasOptions
    requires = {"tensorflow": "deep", "keras": "deep", "horovod": "deep"}
    wants_validation = True

    def estimator(self, context: TrainContext) -> Estimator[Any]:
        from sparkml.estimators.keras import KerasClassifier, KerasRegressor
        from sparkml.estimators.keras_params import camel

        settings = self.options.model_dump(exclude={"model"}, exclude_unset=True)
        params: dict[str, Any] = {
            "model": self.options.model,
            "on_report": context.report,
            "featuresCol": context.features_col,
            "labelCol": context.label_col,
            "seed": context.seed,
            "inputShape": list(context.shape),
            "checkpointDir": context.store.url(context.scratch),
            "logDir": context.log_dir,
            **{camel(name): value for name, value in settings.items()},
        }
        if context.validation_col is not None:
            params["validationIndicatorCol"] = context.validation_col
        if context.task == "classification":
            return KerasClassifier(numClasses=len(context.classes), **params)
        if self.options.label_smoothing:
            raise ConfigError("label_smoothing is for classification, the pipeline's task is regression")
        return KerasRegressor(**params)

    def load(self, spark: SparkSession, url: str) -> Model:
        from pyspark.ml.util import DefaultParamsReader

        from sparkml.estimators.keras_model import KerasClassificationModel, KerasModel, KerasRegressionModel

        name = DefaultParamsReader.loadMetadata(url, spark)["class"].rpartition(".")[2]
        kinds: dict[str, type[KerasModel]] = {kind.__name__: kind for kind in (KerasClassificationModel, KerasRegressionModel)}
        if name not in kinds:
            raise ConfigError(f"{url} holds a {name}, not a Keras model of sparkml")
        return kinds[name].load(url)  # type: ignore[no-any-return]

    def history(self, model: Model) -> dict[str, Any]:
        history = dict(model.history)  # type: ignore[attr-defined]
        stragglers = dict.fromkeys(notice for epoch in history["epochs"] for notice in epoch.get("stragglers", ()))
        reasons = [f"{restart['reason']} (again with {restart['size']} ranks)" for restart in history["restarts"]]
        return {**history, "restarts": "; ".join(reasons), "stragglers": "; ".join(list(stragglers)[:3])}
