"""`TorchClassifier` and `TorchRegressor`: pyspark.ml Estimators whose nets train on ranks of pyspark's ``TorchDistributor``."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasProbabilityCol, HasRawPredictionCol
from pyspark.sql import DataFrame

from sparkml.estimators.keras_data import Frame, Prepared
from sparkml.estimators.keras_params import HasCheckpoints, HasClassWeight, accessible, add_params, defaults, validated
from sparkml.estimators.net import NetEstimator
from sparkml.estimators.torch_model import TorchClassificationModel, TorchModel, TorchRegressionModel
from sparkml.launch.barrier import preflight, slots
from sparkml.launch.distributor import DistributorGang
from sparkml.launch.options import RankOptions
from sparkml.launch.restart import run_with_restarts
from sparkml.launch.worker import Worker
from sparkml.learners.torch_job import TorchJob, train_torch
from sparkml.learners.torch_net import TorchSource, torch_source_of
from sparkml.learners.torch_options import TorchOptions
from sparkml.plugins import need
from sparkml.storage import Store


class HasRanks(HasCheckpoints):
    """One Param per setting of `RankOptions`, in camelCase."""

    def gang_options(self) -> RankOptions:
        """Return how many ranks run. Raises `ConfigError` for values that are not allowed."""
        return validated(self, RankOptions)  # type: ignore[no-any-return]


class HasTorchTraining(HasClassWeight):
    """One Param per setting of `TorchOptions`, in camelCase."""

    def options(self) -> TorchOptions:
        """Return the settings of the training. Raises `ConfigError` for values that are not allowed."""
        return validated(self, TorchOptions)  # type: ignore[no-any-return]


add_params(HasRanks, RankOptions)
add_params(HasTorchTraining, TorchOptions)


class TorchEstimator(HasRanks, HasTorchTraining, NetEstimator):
    """What both estimators share. Columns mean what they mean to `sparkml.estimators.keras.KerasEstimator`.

    Parameters
    ----------
    model
        A name in `sparkml.learners.torch_zoo` (``"cnn"``), a mapping ``{"type": "cnn", "dense": 64}``, or a function without
        arguments, or ``(input_shape, outputs, task)``, that returns a ``torch.nn.Module``. The module gets one tensor per input
        column, in their order, images as they are in the table (height, width, channels), and returns ``(rows, outputs)``:
        logits, or numbers. Every rank calls the function.
    verbose
        Have rank 0 print a line per epoch, which the distributor carries to the driver's stderr.
    params
        The Params by name, and the settings of `TorchOptions` and `RankOptions` in camelCase (``batchSize`` is per rank).
    """

    _model_class: ClassVar[type[TorchModel]]

    def __init__(self, *, model: Any, verbose: bool = True, **params: Any) -> None:
        need("torch", "torch", type(self).__name__)
        super().__init__()
        self.source: TorchSource = torch_source_of(model)
        self._verbose = verbose
        self._setDefault(**defaults(TorchOptions), **defaults(RankOptions))
        self._start(params)

    def _fit(self, dataset: DataFrame) -> TorchModel:
        spark = dataset.sparkSession
        options, where, class_weight = self.options(), self.gang_options(), self.class_weight()
        frame = Frame(dataset, self._asked())
        size = where.num_proc or max(1, min(slots(spark), frame.rows))
        least = min(size, where.min_proc or size)
        preflight(spark, least)  # before the shards are written, which may take long
        with self._store() as store:
            prepared = frame.prepare(store, class_weight)
            gang = DistributorGang(spark, stall_timeout=where.stall_timeout, verbose=self._verbose)
            job = self._job(prepared, options, where, store)
            results, restarts = run_with_restarts(
                gang,
                cast("Callable[[Worker], bytes]", partial(train_torch, job=job)),  # this gang's workers can do more
                size,
                max_restarts=where.max_restarts,
                min_size=least,
            )
            answer = json.loads(results[0])
        history = {**answer["history"], "restarts": [vars(restart) for restart in restarts]}
        return self._model(base64.b64decode(answer["model"]), history, prepared)

    def _job(self, prepared: Prepared, options: TorchOptions, where: RankOptions, store: Store) -> TorchJob:
        return TorchJob(
            source=self.source,
            layout=prepared.layout,
            options=options,
            seed=self.getSeed(),
            train=prepared.train,
            validation=prepared.validation,
            data_mark=prepared.mark,
            store=store,
            class_weights=prepared.class_weights,
            shuffle_bytes=where.shuffle_bytes,
        )

    def _model(self, body: bytes, history: dict[str, Any], prepared: Prepared) -> TorchModel:
        signature = {**prepared.signature, "logits": [True], "layers": history.pop("layers")}
        return self._trained(self._model_class(body, history, signature))

    def _saved(self) -> tuple[Any, bytes | None]:
        return self.source.described(), None


@accessible
class TorchClassifier(TorchEstimator, HasProbabilityCol, HasRawPredictionCol):
    """Trains class probabilities by cross-entropy. `numClasses` defaults to the largest label + 1."""

    numClasses: Param[int] = Param(
        Params._dummy(), "numClasses", "number of classes; by default the largest label + 1", typeConverter=TypeConverters.toInt
    )
    _task = "classification"
    _model_class = TorchClassificationModel


@accessible
class TorchRegressor(TorchEstimator):
    """Trains a value by the squared error, in units of the label's standard deviation; predicts in the label's own units.

    A label that is a vector or an array is learnt as it is.
    """

    _task = "regression"
    _model_class = TorchRegressionModel
