"""PyTorch nets on the ranks of pyspark's TorchDistributor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sparkml.estimators.trainer import NetTrainer, TrainContext
from sparkml.launch.options import RankOptions
from sparkml.learners.torch_options import TorchOptions
from sparkml.plugins import plugged

if TYPE_CHECKING:
    from pyspark.ml import Estimator

    from sparkml.estimators.net_model import NetModel


class TorchTrainerOptions(TorchOptions, RankOptions):
    """Settings of the training and of its ranks.

    Attributes
    ----------
    model
        An architecture of the zoo with its options.
    class_weight
        ``balanced``, or a factor per class index.
    """

    model: plugged("learners.torch_zoo")  # type: ignore[valid-type]
    class_weight: Literal["balanced"] | dict[int, float] | None = None


class Torch(NetTrainer):
    """A PyTorch net, trained by synchronous data-parallel SGD; a killed training goes on from its last epoch."""

    Options = TorchTrainerOptions
    requires = {"torch": "torch"}

    def estimator(self, context: TrainContext) -> Estimator[Any]:
        from sparkml.estimators.keras_params import camel
        from sparkml.estimators.torch import TorchClassifier, TorchRegressor

        settings = self.options.model_dump(exclude={"model"}, exclude_unset=True)
        params: dict[str, Any] = {
            "model": self.options.model,
            "featuresCol": context.features_col,
            "labelCol": context.label_col,
            "seed": context.seed,
            "inputShape": list(context.shape),
            "checkpointDir": context.store.url(context.scratch),
            **{camel(name): value for name, value in settings.items()},
        }
        if context.validation_col is not None:
            params["validationIndicatorCol"] = context.validation_col
        if context.task == "classification":
            return TorchClassifier(numClasses=len(context.classes), **params)
        return TorchRegressor(**params)

    def models(self) -> tuple[type[NetModel], ...]:
        from sparkml.estimators.torch_model import TorchClassificationModel, TorchRegressionModel

        return TorchClassificationModel, TorchRegressionModel
