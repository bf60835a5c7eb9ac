"""What the pipeline needs from a trainer: a pyspark.ml Estimator for its settings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from sparkml.errors import ConfigError
from sparkml.plugins import Plugin

if TYPE_CHECKING:
    from pyspark.ml import Estimator, Model
    from pyspark.sql import SparkSession

    from sparkml.estimators.net_model import NetModel
    from sparkml.storage import Store


@dataclass(frozen=True)
class TrainContext:
    """What the pipeline knows about the data and where a trainer may write.

    Attributes
    ----------
    task
        ``classification`` or ``regression``.
    classes
        Class names in the order of the label index; empty for regression.
    shape
        Shape of one row of `features_col` (``(64,)``, ``(28, 28, 1)``).
    seed
        Every random choice of the trainer derives from it.
    scratch
        Store path for the trainer's own intermediate data (shards, checkpoints), kept until the run is registered or cleaned.
    log_dir
        Local folder for rank logs.
    report
        Called with a dict per epoch/step (``{"rank": 0, "epoch": 3, "loss": 0.1}``) for live progress; cheap.
    """

    store: Store
    task: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    seed: int
    scratch: str
    log_dir: str
    features_col: str = "features"
    label_col: str = "label"
    validation_col: str | None = None
    report: Callable[[dict[str, Any]], None] = field(default=lambda _: None)


class Trainer(Plugin):
    """One way to train. `estimator` returns a pyspark.ml Estimator whose model adds ``prediction`` (and ``probability``) columns.

    Attributes
    ----------
    tasks
        The tasks it can do.
    wants_validation
        True when its estimator takes the validation rows too, told apart by the boolean column `TrainContext.validation_col`.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"classification", "regression"})
    wants_validation: ClassVar[bool] = False

    @abstractmethod
    def estimator(self, context: TrainContext) -> Estimator[Any]:
        """Return the estimator for these options. Raises `ConfigError` when options do not fit the task."""

    @abstractmethod
    def load(self, spark: SparkSession, url: str) -> Model:
        """Load a model that this trainer's estimator saved at `url`."""

    def history(self, model: Model) -> dict[str, Any]:
        """Return what the report shows of training: curves by epoch, importances, grid results."""
        return {}


class NetTrainer(Trainer):
    """What trainers of nets share, whatever computes them."""

    wants_validation = True

    @abstractmethod
    def models(self) -> tuple[type[NetModel], ...]:
        """Return the classes of the models that its estimators fit."""

    def load(self, spark: SparkSession, url: str) -> Model:
        from pyspark.ml.util import DefaultParamsReader

        name = DefaultParamsReader.loadMetadata(url, spark)["class"].rpartition(".")[2]
        kinds = {kind.__name__: kind for kind in self.models()}
        if name not in kinds:
            raise ConfigError(f"{url} holds a {name}, the trainer {self.plugin_name()!r} makes {' and '.join(kinds)}")
        return kinds[name].load(url)  # type: ignore[no-any-return]

    def history(self, model: Model) -> dict[str, Any]:
        history = dict(model.history)  # type: ignore[attr-defined]
        stragglers = dict.fromkeys(notice for epoch in history["epochs"] for notice in epoch.get("stragglers", ()))
        reasons = [f"{restart['reason']} (again with {restart['size']} ranks)" for restart in history["restarts"]]
        return {**history, "restarts": "; ".join(reasons), "stragglers": "; ".join(list(stragglers)[:3])}
