"""PyTorch nets on the ranks of pyspark's TorchDistributor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sparkml.errors import ConfigError
from sparkml.estimators.trainer import TrainContext, Trainer
from sparkml.launch.options import RankOptions
from sparkml.learners.torch_options import TorchOptions
from sparkml.plugins import plugged

if TYPE_CHECKING:
    from pyspark.ml import Estimator, Model
    from pyspark.sql import SparkSession


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


class Torch(Trainer):
    """A PyTorch net, trained by synchronous data-parallel SGD; a killed training goes on from its last epoch."""

    Options = TorchTrainerOptions
    requires = {"torch": "torch"}
    wants_validation = True

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
        if self.options.label_smoothing:
            raise ConfigError("label_smoothing is for classification, the pipeline's task is regression")
        return TorchRegressor(**params)

    def load(self, spark: SparkSession, url: str) -> Model:
        from pyspark.ml.util import DefaultParamsReader

        from sparkml.estimators.torch_model import TorchClassificationModel, TorchModel, TorchRegressionModel

        name = DefaultParamsReader.loadMetadata(url, spark)["class"].rpartition(".")[2]
        kinds: dict[str, type[TorchModel]] = {kind.__name__: kind for kind in (TorchClassificationModel, TorchRegressionModel)}
        if name not in kinds:
            raise ConfigError(f"{url} holds a {name}, not a PyTorch model of sparkml")
        return kinds[name].load(url)  # type: ignore[no-any-return]

    def history(self, model: Model) -> dict[str, Any]:
        history = dict(model.history)  # type: ignore[attr-defined]
        stragglers = dict.fromkeys(notice for epoch in history["epochs"] for notice in epoch.get("stragglers", ()))
        reasons = [f"{restart['reason']} (again with {restart['size']} ranks)" for restart in history["restarts"]]
        return {**history, "restarts": "; ".join(reasons), "stragglers": "; ".join(list(stragglers)[:3])}
