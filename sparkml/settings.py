"""The whole of a pipeline's settings: the one model that every YAML file, variable and ``--set`` is checked against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from sparkml.config import Layered, Name, Options, Origin, load_layers, suggest, validate
from sparkml.contract.settings import ContractSettings
from sparkml.evaluate.settings import EvaluateSettings
from sparkml.features.settings import FeatureSettings, SplitSettings, TargetSettings
from sparkml.plugins import plugged
from sparkml.registry.gates import RegisterSettings


class SparkSettings(Options):
    """Where Spark runs and with which settings of its own."""

    master: str | None = None
    app_name: str = "sparkml"
    conf: dict[str, str] = {}

    @field_validator("conf", mode="before")
    @classmethod
    def _as_spark_spells_it(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): str(item).lower() if isinstance(item, bool) else str(item) for key, item in value.items()}
        return value


class RunSettings(Options):
    """What every command needs, with or without a pipeline: where things are stored and where Spark runs."""

    store: str = ".sparkml"
    seed: int = 7
    spark: SparkSettings = SparkSettings()


class TrainSettings(Options):
    """The candidates that train and compete."""

    candidates: dict[Name, plugged("estimators.trainers", "trainer")] = Field(min_length=1)  # type: ignore[valid-type]


class ScoreSettings(Options):
    """Batch scoring within a pipeline run: the champion predicts the pipeline's own input."""

    alias: Name = "champion"
    partition_by: list[str] = []


class Settings(RunSettings):
    """One pipeline: source, contract, target, split, features, candidates, evaluation, registration, scoring."""

    pipeline: Name
    description: str = ""
    source: plugged("ingest.sources")  # type: ignore[valid-type]
    contract: ContractSettings = ContractSettings()
    target: TargetSettings
    split: SplitSettings = SplitSettings()
    features: FeatureSettings
    train: TrainSettings
    evaluate: EvaluateSettings = EvaluateSettings()
    registration: RegisterSettings = Field(RegisterSettings(), alias="register")
    score: ScoreSettings = ScoreSettings()

    @model_validator(mode="after")
    def _metrics_are_evaluated(self) -> Settings:
        known = [metric.plugin_name() for metric in self.evaluate.for_task(self.target.task)]
        named = {"register.metric": self.registration.metric}
        named |= {f"register.gates.{number}.metric": gate.metric for number, gate in enumerate(self.registration.gates)}
        for path, name in named.items():
            if name is not None and name not in known:
                raise ValueError(f"{path}: {name!r} is not among the metrics that are evaluated; {suggest(name, known)}")
        return self

    @model_validator(mode="after")
    def _slices_are_kept(self) -> Settings:
        kept = [*self.split.key_columns(), self.target.column, *self.features.keep]
        for name in self.evaluate.slices:
            if name not in kept:
                raise ValueError(f"evaluate.slices: {name!r} must be listed in features.keep; there are: {', '.join(kept)}")
        return self


def load_settings(pipeline: Path, env: str | None, assignments: list[str]) -> tuple[Settings, Layered]:
    """Merge all layers for a pipeline file and validate them. Raises `ConfigError` listing every problem with its origin."""
    layered = load_layers(pipeline, env, assignments)
    layered.values.setdefault("pipeline", pipeline.stem)
    layered.origins.setdefault("pipeline", Origin(f"the name of {pipeline}"))
    return validate(Settings, layered), layered


def load_run_settings(env: str | None, assignments: list[str]) -> RunSettings:
    """Merge and validate the layers for a command that has no pipeline file (``sparkml runs``, ``doctor``, ...)."""
    layered = load_layers(None, env, assignments)
    known = {key: value for key, value in layered.values.items() if key in RunSettings.model_fields}
    return validate(RunSettings, Layered(known, layered.origins))
