"""Linear models in the API of pyspark.ml, fitted by Newton's method or L-BFGS on ranks that read the rows themselves."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from pyspark.ml import Estimator
from pyspark.ml.base import _FitMultipleIterator
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasElasticNetParam,
    HasFitIntercept,
    HasMaxIter,
    HasProbabilityCol,
    HasRawPredictionCol,
    HasRegParam,
    HasSeed,
    HasSolver,
    HasStandardization,
    HasThreshold,
    HasTol,
    HasWeightCol,
)
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame

from sparkml.errors import ConfigError
from sparkml.estimators.keras_params import accessible, defaults, refuse_unknown
from sparkml.estimators.linear_data import LinearRows
from sparkml.estimators.linear_model import (
    GeneralizedLinearRegressionModel,
    GlmParams,
    LinearColumns,
    LinearModel,
    LinearRegressionModel,
    LinearSVCModel,
    LogisticRegressionModel,
)
from sparkml.estimators.linear_params import HasBounds, HasCovarianceType
from sparkml.estimators.ranks import OnRanks
from sparkml.launch.gang import Report
from sparkml.launch.options import GangOptions
from sparkml.learners.linear.families import Binomial, Family, SquaredHinge
from sparkml.learners.linear.glm import family_of
from sparkml.learners.linear.job import LinearJob, train_linear
from sparkml.learners.linear.methods import METHODS, MOST_CLASSES, MOST_COEFFICIENTS, chosen_solver
from sparkml.learners.linear.metrics import Metric, Ranking
from sparkml.learners.linear.multinomial import Multinomial
from sparkml.learners.linear.passes import Task
from sparkml.learners.linear.quadratic import Penalty
from sparkml.learners.linear.rows import RowSource

log = logging.getLogger(__name__)

_OWN = frozenset({"regParam", "elasticNetParam", "standardization", "labelCol"})  # what models that share passes may differ in


@dataclass(frozen=True)
class Folds:
    """How rows are held out: `count` parts, at random by the seed or as `column` says, and what they are judged by."""

    count: int
    metric: Metric
    seed: int
    column: str | None = None


class LinearEstimator(
    Estimator[Any],
    LinearColumns,
    HasWeightCol,
    HasRegParam,
    HasElasticNetParam,
    HasFitIntercept,
    HasStandardization,
    HasMaxIter,
    HasTol,
    HasSeed,
    HasSolver,
    HasBounds,
    OnRanks,
    DefaultParamsWritable,
    DefaultParamsReadable[Any],
):
    """Params are those of MLlib. `maxIter` counts passes over all rows.

    `tol` is the distance from the optimum at which a fit ends, in the norm of the loss's Hessian: about the root mean square of
    what is wrong with the linear predictor. The fit starts on a growing random sample of row groups, so that one pass over
    all rows is mostly enough, or two. The same rows give the same bits on any number of ranks.

    `solver` is newton (its Hessian takes up to 4,096 coefficients), l-bfgs (any number; OWL-QN with L1; sparse features stay
    sparse), or auto: newton up to 2,000 coefficients and for bounds.
    """

    maxMemoryInMB: Param[int] = Param(
        Params._dummy(),
        "maxMemoryInMB",
        "MiB of rows that all ranks together keep from one pass to the next",
        typeConverter=TypeConverters.toInt,
    )

    _model_class: ClassVar[type[LinearModel]] = LinearModel
    _solvers: ClassVar[dict[str, str]] = {"auto": "auto", "newton": "newton", "l-bfgs": "l-bfgs"}

    def __init__(self, *, on_report: Report | None = None, verbose: bool = True, **params: Any) -> None:
        super().__init__()
        self._on_report, self._verbose = on_report, verbose
        self._setDefault(seed=7, regParam=0.0, elasticNetParam=0.0, fitIntercept=True, standardization=True)
        self._setDefault(maxIter=100, tol=1e-6, maxMemoryInMB=512, solver="auto")
        if isinstance(self, HasCovarianceType):
            self._setDefault(covarianceType="nonrobust")
        self._setDefault(**self._defaults(), **defaults(GangOptions))
        refuse_unknown(self, params)
        self.setParams(**params)

    def _defaults(self) -> dict[str, Any]:
        return {}

    def setParams(self, **params: Any) -> LinearEstimator:
        """Set Params by name. Raises `ConfigError` for values that are not allowed."""
        refuse_unknown(self, params)
        self._set(**{name: value for name, value in params.items() if value is not None})
        self._check()
        return self

    def _check(self) -> None:
        for name, least, most in (
            ("regParam", 0.0, math.inf),
            ("elasticNetParam", 0.0, 1.0),
            ("tol", 0.0, math.inf),
            ("maxIter", 1, math.inf),
            ("maxMemoryInMB", 1, math.inf),
        ):
            value = self.getOrDefault(name)
            if not least <= value <= most:
                allowed = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
                raise ConfigError(f"{type(self).__name__}: {name} = {value}: must be {allowed}")
        if self.getSolver() not in self._solvers:
            name = type(self).__name__
            raise ConfigError(f"{name}: solver = {self.getSolver()!r}: must be one of {', '.join(self._solvers)}")
        if isinstance(self, HasCovarianceType):
            self._covariance_type()
        self._family()
        self.gang_options()

    def _family(self) -> Family:
        return family_of("gaussian")

    def _family_of(self, rows: LinearRows) -> Family | Multinomial:
        """Return what is fitted to the rows."""
        return self._family()

    def _penalty(self, features: int, outputs: int) -> Penalty:
        bounds: Any = self._bounds(features, outputs)
        return Penalty(self.getRegParam(), self.getElasticNetParam(), self.getStandardization(), self.getFitIntercept(), **bounds)

    def _fit(self, dataset: DataFrame) -> LinearModel:
        ((model,), _) = self.fit_shared(dataset, [self])
        return model

    def fitMultiple(self, dataset: DataFrame, paramMaps: Sequence[Any]) -> Iterator[tuple[int, LinearModel]]:
        """Fit one model for each map of Params, like pyspark.ml's: those that differ in penalty or label share their passes."""
        groups: dict[str, list[int]] = {}
        several = [self.copy(params) for params in paramMaps]
        for number, one in enumerate(several):
            groups.setdefault(one._shares_with(), []).append(number)
        found: dict[int, LinearModel] = {}
        lock = threading.Lock()

        def fitted(number: int) -> LinearModel:
            with lock:
                if number not in found:
                    (group,) = (group for group in groups.values() if number in group)
                    alike = [several[at] for at in group]
                    found.update(zip(group, alike[0].fit_shared(dataset, alike)[0], strict=True))
                return found[number]

        return _FitMultipleIterator(fitted, len(several))

    def _shares_with(self) -> str:
        """Return the Params in which estimators that share passes are alike."""
        return repr(sorted((param.name, value) for param, value in self.extractParamMap().items() if param.name not in _OWN))

    def fit_shared(
        self, dataset: DataFrame, several: Sequence[LinearEstimator], *, folds: Folds | None = None
    ) -> tuple[list[LinearModel], dict[str, Any]]:
        """Fit estimators that differ in penalty and label only, and return their models and what the folds said.

        This one is of `several`: in all else it speaks for them.
        """
        for one in several:
            one._check()  # what `fit(frame, {...})` and tuners set, too
        weight, offset = self._chosen("weightCol"), self._chosen("offsetCol") if self.hasParam("offsetCol") else None
        labels = list(dict.fromkeys(one.getLabelCol() for one in several))
        rows = LinearRows(dataset, self.getFeaturesCol(), labels, weight, offset, folds.column if folds else None)
        families = {one.getLabelCol(): one._family_of(rows) for one in several}
        outputs = {label: family.classes if isinstance(family, Multinomial) else 1 for label, family in families.items()}
        tasks = [Task(one._penalty(rows.width, outputs[one.getLabelCol()]), labels.index(one.getLabelCol())) for one in several]
        if folds and isinstance(folds.metric, Ranking) and (classes := max(outputs.values())) > 2:
            raise ConfigError(f"{folds.metric.name} is of two classes, the label has {classes}", hint="take logLoss or f1")
        size, count = (rows.width + 1) * max(outputs.values()), folds.count if folds else 1
        solver = chosen_solver(self._solvers[self.getSolver()], size, bounded=any(task.penalty.bounded for task in tasks))
        METHODS[solver].check(size, count, len(several))
        covariance = self._covariance_type() if isinstance(self, HasCovarianceType) else "nonrobust"
        if covariance != "nonrobust" and solver != "newton":
            raise ConfigError(
                f"covarianceType = {covariance!r}: {solver} has no standard errors",
                hint=f'set solver="newton", which takes up to {MOST_COEFFICIENTS} coefficients',
            )
        sparse = rows.sparse and solver != "newton"
        kind = "sparse" if sparse else "dense"
        log.info("%s: %d coefficients, %s features: solver %s", type(self).__name__, size, kind, solver)
        sizes = self._sizes(dataset.sparkSession, rows.rows)  # before the shards are written, which may take long
        with self._store() as store, self._reports() as report:
            written = rows.shards(store)
            source = RowSource(
                shards=written.url,
                features=self.getFeaturesCol(),
                labels=tuple(labels),
                weight=weight,
                offset=offset,
                folds=count,
                fold=folds.column if folds else None,
                seed=folds.seed if folds else self.getSeed(),
                memory=self.getOrDefault("maxMemoryInMB") << 20,
                sparse=sparse,
            )
            job = LinearJob(
                source=source,
                families=tuple(families.values()),
                tasks=tuple(tasks),
                tolerance=self.getTol(),
                passes=self.getMaxIter(),
                metric=folds.metric if folds else None,
                covariance=covariance,
                solver=solver,
            )
            body, restarts = self._run(dataset.sparkSession, partial(train_linear, job=job), sizes, report)
        answer = json.loads(body)
        shown = {
            "sparse": sparse,
            "stored": written.stored.model_dump() if written.stored else None,
            "restarts": [vars(one) for one in restarts],
        }
        best = answer.get("validation", {}).get("best")
        models = []
        for number, (one, history) in enumerate(zip(several, answer["fits"], strict=True)):
            found = np.array(history.pop("w"))
            history["warnings"] = _warnings(history, written.names)
            if best in (None, number):
                for warning in history["warnings"]:
                    log.warning("%s: %s", type(self).__name__, warning)
            model = self._model_class(found[:, :-1], found[:, -1], written.names, {**history, **shown})
            model._resetUid(self.uid)
            models.append(one._copyValues(model))
        return models, answer.get("validation", {})


def _warnings(history: dict[str, Any], names: list[str]) -> list[str]:
    """Say what a user should know of before relying on the coefficients."""

    def named(numbers: list[int]) -> str:
        shown = [names[number] if names else str(number) for number in numbers[:10]]
        return ", ".join(shown) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")

    found = []
    if history["separated"]:
        found.append(
            "the features tell the classes apart without an error: there is no finite optimum, and the coefficients are those "
            "of the pass that found it; set regParam to have one"
        )
    elif not history["converged"]:
        found.append(f"not converged after {history['passes']} passes; raise maxIter, or regParam if the coefficients are large")
    elif history["fading"]:
        found.append(
            "the optimum may be infinitely far: some feature or class seems to come with one kind of label only; set regParam, "
            "or look for very large coefficients"
        )
    if history["constant"]:
        found.append(f"constant features have the coefficient 0: {named(history['constant'])}")
    if history["dependent"] and not history["fading"]:
        found.append(
            f"features depend linearly on one another: {named(history['dependent'])}; other coefficients fit as well as these"
        )
    return found


@accessible
class LogisticRegression(LinearEstimator, HasCovarianceType, HasProbabilityCol, HasRawPredictionCol, HasThreshold):
    """Classes 0, 1, 2, ...: two by the logit of one linear predictor, more by the softmax of one for each."""

    family: Param[str] = Param(
        Params._dummy(),
        "family",
        "binomial, multinomial, or auto: binomial for two classes",
        typeConverter=TypeConverters.toString,
    )

    _model_class = LogisticRegressionModel

    def _defaults(self) -> dict[str, Any]:
        return {"threshold": 0.5, "family": "auto"}

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.getThreshold() <= 1:
            raise ConfigError(f"LogisticRegression: threshold = {self.getThreshold()}: must be from 0 to 1")
        if self.getOrDefault("family") not in ("auto", "binomial", "multinomial"):
            family = self.getOrDefault("family")
            raise ConfigError(f"LogisticRegression: family = {family!r}: must be auto, binomial or multinomial")

    def _family(self) -> Family:
        return Binomial()

    def _family_of(self, rows: LinearRows) -> Family | Multinomial:
        family = self.getOrDefault("family")
        if family == "binomial":
            return self._family()
        most = rows.most(self.getLabelCol())
        classes = max(2, int(most) + 1 if math.isfinite(most) else 2)
        if classes > MOST_CLASSES:
            raise ConfigError(f"{classes} classes: a linear model takes at most {MOST_CLASSES}", hint="is the label an id?")
        return Multinomial(classes) if family == "multinomial" or classes > 2 else self._family()


@accessible
class LinearRegression(LinearEstimator, HasCovarianceType):
    """Least squares: one pass over all rows gives the optimum."""

    _model_class = LinearRegressionModel
    _solvers = {**LinearEstimator._solvers, "normal": "newton"}

    def _penalty(self, features: int, outputs: int) -> Penalty:
        return replace(super()._penalty(features, outputs), by_label=True)


@accessible
class LinearSVC(LinearEstimator, HasRawPredictionCol, HasThreshold):
    """A linear support vector machine of two classes, 0 and 1, with the squared hinge loss."""

    _model_class = LinearSVCModel

    def _defaults(self) -> dict[str, Any]:
        return {"threshold": 0.0}

    def _family(self) -> Family:
        return SquaredHinge()


@accessible
class GeneralizedLinearRegression(LinearEstimator, HasCovarianceType, GlmParams):
    """A distribution of the label and a link; the penalty is that of the mean loss, of features as they come."""

    _model_class = GeneralizedLinearRegressionModel
    _solvers = {**LinearEstimator._solvers, "irls": "newton"}

    def _defaults(self) -> dict[str, Any]:
        return {"family": "gaussian", "variancePower": 0.0, "standardization": False}

    def _family(self) -> Family:
        return GlmParams._family(self)
