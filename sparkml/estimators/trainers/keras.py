"""Keras nets on Horovod ranks in a Spark barrier stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sparkml.estimators.trainer import NetTrainer, TrainContext
from sparkml.launch.options import GangOptions
from sparkml.learners.training import TrainingOptions
from sparkml.plugins import plugged

if TYPE_CHECKING:
    from pyspark.ml import Estimator

    from sparkml.estimators.net_model import NetModel


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


class Keras(NetTrainer):
    """A net of the zoo, trained by synchronous data-parallel SGD; a killed training goes on from its last epoch."""

    Options = KerasOptions
    requires = {"tensorflow": "deep", "keras": "deep", "horovod": "deep"}

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
        return KerasRegressor(**params)

    def models(self) -> tuple[type[NetModel], ...]:
        from sparkml.estimators.keras_model import KerasClassificationModel, KerasRegressionModel

        return KerasClassificationModel, KerasRegressionModel
