"""Settings of the evaluate stage."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from sparkml.config import Options
from sparkml.errors import ConfigError
from sparkml.plugins import load, names, plugged

KIND = "evaluate.metrics"
DEFAULT_METRICS = {
    "classification": ("accuracy", "macro_f1", "log_loss", "auc", "pr_auc", "brier", "calibration_error"),
    "regression": ("rmse", "mae", "r2"),
}


def _plain_name(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class BootstrapSettings(Options):
    """Confidence intervals: how many replicates, which interval, and the seed of the draws."""

    replicates: int = Field(200, ge=20, le=2000, description="more give smoother interval ends; time grows with it")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    seed: int = Field(7, ge=0, description="not the run's seed: a champion of an earlier run is compared on the same draws")


class EvaluateSettings(Options):
    """What is measured on the test split."""

    metrics: list[Annotated[plugged(KIND), BeforeValidator(_plain_name)]] = Field(  # type: ignore[valid-type]
        [], description="names, or {type: name, ...options}; the task's usual ones when empty"
    )
    slices: list[str] = Field([], description="columns whose values are measured separately")
    max_slice_values: int = Field(20, ge=1, le=200, description="per column, the most frequent ones; the rest is pooled")
    bootstrap: BootstrapSettings = BootstrapSettings()
    worst: int = Field(24, ge=0, le=1000, description="how many of the worst mistakes are kept")

    @field_validator("metrics")
    @classmethod
    def _each_once(cls, value: list[Any]) -> list[Any]:
        given = [metric.plugin_name() for metric in value]
        twice = sorted({name for name in given if given.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice; results are kept by the metric's name")
        return value

    def for_task(self, task: str) -> list[Any]:
        """Return the metrics to compute, by default the task's usual ones. Raises `ConfigError` on one of another task."""
        if task not in DEFAULT_METRICS:
            raise ConfigError(f"task {task!r} is not known; allowed: {', '.join(DEFAULT_METRICS)}")
        if not self.metrics:
            return [load(KIND, name)() for name in DEFAULT_METRICS[task]]
        chosen: list[Any] = self.metrics
        for metric in chosen:
            if metric.task != task:
                fitting = [name for name in names(KIND) if getattr(load(KIND, name), "task", None) == task]
                raise ConfigError(
                    f"evaluate.metrics: {metric.plugin_name()!r} measures {metric.task}, the pipeline's task is {task}",
                    hint=f"allowed: {', '.join(fitting)}",
                )
        return chosen
