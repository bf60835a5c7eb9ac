"""`KerasClassifier` and `KerasRegressor`: pyspark.ml Estimators whose nets train on Horovod ranks in a Spark barrier stage."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasProbabilityCol, HasRawPredictionCol
from pyspark.sql import DataFrame

from sparkml.errors import ConfigError
from sparkml.estimators.keras_data import Frame, Prepared
from sparkml.estimators.keras_model import KerasClassificationModel, KerasModel, KerasRegressionModel
from sparkml.estimators.keras_params import HasColumns, HasTraining, accessible, defaults
from sparkml.estimators.net import NetEstimator, NetEstimatorReader
from sparkml.estimators.ranks import OnRanks
from sparkml.launch.gang import Report
from sparkml.launch.options import GangOptions
from sparkml.learners.keras_job import KerasJob, train_keras
from sparkml.learners.source import ModelSource, source_of
from sparkml.learners.training import TrainingOptions
from sparkml.storage import Store


class KerasEstimator(HasColumns, OnRanks, HasTraining, NetEstimator):
    """What both estimators share.

    Columns of doubles and vectors are numbers; columns of integers, alone or in arrays, are ids (0 pads sequences).

    Parameters
    ----------
    model
        One of

        - a name in `sparkml.learners.zoo` (``"cnn"``), or a mapping ``{"type": "cnn", "dense": 64}``;
        - a function without arguments, or ``(input_shape, outputs, task)``, that returns a ``keras.Model``. Of several inputs or
          of ids it gets a tuple of `sparkml.learners.inputs.Input` instead of the shape;
        - a ``keras.Model``, the URL of a ``.keras`` file, or a model that was fitted before: training starts from its weights.

        A model that comes compiled keeps its optimizer, loss and metrics. Inputs are named as their columns.
    callbacks
        ``keras.callbacks.Callback`` objects; see `sparkml.learners.callbacks` for the ranks they run on.
    allow
        Names of layers other than Keras's own that the model may hold (``"Lambda"``, ``"my_package.MyLayer"``).
    on_report
        Called with every rank's progress, from another thread. By default it is shown on stderr; ``verbose=False`` shows none.
    params
        The Params by name, and the settings of `TrainingOptions` in camelCase (``batchSize`` is per rank).
    """

    _model_class: ClassVar[type[KerasModel]]
    _file = "model.keras"

    def __init__(
        self,
        *,
        model: Any,
        callbacks: Sequence[Any] = (),
        allow: Sequence[str] = (),
        on_report: Report | None = None,
        verbose: bool = True,
        **params: Any,
    ) -> None:
        super().__init__()
        self.source: ModelSource = source_of(model, tuple(allow))
        self._callbacks, self._on_report, self._verbose = tuple(callbacks), on_report, verbose
        self._setDefault(**{**defaults(TrainingOptions), "strategy": "allreduce"}, **defaults(GangOptions))
        self._start(params)

    def _fit(self, dataset: DataFrame) -> KerasModel:
        spark = dataset.sparkSession
        options, where, class_weight = self.options(), self.gang_options(), self.class_weight()
        frame = Frame(dataset, self._asked())
        sizes = self._sizes(spark, frame.rows)  # before the shards are written, which may take long
        with self._store() as store, self._reports() as report:
            prepared = frame.prepare(store, class_weight)
            job = self._job(prepared, options, where, store)
            body, restarts = self._run(spark, partial(train_keras, job=job), sizes, report)
        answer = json.loads(body)
        self._keep_timeline(answer["history"].pop("timeline"))
        history = {**answer["history"], "restarts": [vars(restart) for restart in restarts]}
        return self._model(base64.b64decode(answer["model"]), history, prepared)

    def _job(self, prepared: Prepared, options: TrainingOptions, where: GangOptions, store: Store) -> KerasJob:
        return KerasJob(
            source=self.source,
            layout=prepared.layout,
            options=options,
            seed=self.getSeed(),
            train=prepared.train,
            validation=prepared.validation,
            data_mark=prepared.mark,
            store=store,
            callbacks=self._callbacks,
            class_weights=prepared.class_weights,
            shuffle_bytes=where.shuffle_bytes,
            timeline=where.timeline,
        )

    def _model(self, body: bytes, history: dict[str, Any], prepared: Prepared) -> KerasModel:
        signature = {**prepared.signature, "logits": history.pop("logits")}
        return self._trained(self._model_class(body, history, signature, allow=self.source.allow))

    def _keep_timeline(self, trace: str) -> None:
        folder = self._chosen("logDir")
        if trace and folder is not None:
            Store(folder).replace("timeline.json", trace.encode())

    def _saved(self) -> tuple[Any, bytes | None]:
        if self._callbacks:
            raise ConfigError(
                "an estimator with callbacks cannot be saved: saved files hold no code", hint="save the fitted model"
            )
        return (None, self.source.body) if self.source.body is not None else (self.source.described(), None)

    @classmethod
    def read(cls) -> _Reader:
        return _Reader(cls)

    @classmethod
    def load(cls, path: str, allow: Sequence[str] = ()) -> Any:
        """Load a saved estimator. `allow` names layers that its model may hold; whom to trust is never saved."""
        return cls.read().allow(*allow).load(path)


@accessible
class KerasClassifier(KerasEstimator, HasProbabilityCol, HasRawPredictionCol):
    """Trains class probabilities by cross-entropy. `numClasses` defaults to the largest label + 1."""

    numClasses: Param[int] = Param(
        Params._dummy(), "numClasses", "number of classes; by default the largest label + 1", typeConverter=TypeConverters.toInt
    )
    _task = "classification"
    _model_class = KerasClassificationModel


@accessible
class KerasRegressor(KerasEstimator):
    """Trains a value by the squared error, in units of the label's standard deviation; predicts in the label's own units.

    A label that is a vector or an array is learnt as it is.
    """

    _task = "regression"
    _model_class = KerasRegressionModel


class _Reader(NetEstimatorReader):
    _allow: tuple[str, ...] = ()

    def allow(self, *names: str) -> _Reader:
        """Trust these layers, though they can run their author's code (``"Lambda"``, ``"my_package.MyLayer"``)."""
        self._allow = names
        return self

    def make(self, model: Any) -> NetEstimator:
        assert issubclass(self._kind, KerasEstimator)
        estimator: NetEstimator = self._kind(model=model, allow=self._allow)
        return estimator
