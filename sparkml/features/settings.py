"""Settings of the target, the split and the features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from sparkml.config import Options
from sparkml.plugins import plugged

SPLITS = ("train", "validation", "test")


class TargetSettings(Options):
    """The column to predict, and whether it is a class or a number."""

    column: str
    task: Literal["classification", "regression"]


class SplitSettings(Options):
    """How rows are divided: by a seeded hash of their key, so that re-ordered, re-partitioned or appended rows change nothing.

    Attributes
    ----------
    key
        Column or columns that identify a row (rows with equal keys go to the same split); the whole row when not set.
    fractions
        Of train, validation and test; they add up to 1.
    assign
        SQL expression that names the split of some rows (``CASE WHEN _file LIKE 'adult.test%' THEN 'test' END``); rows where it
        is null are divided by `fractions` between the splits that the expression does not name.
    leakage
        What to do about a key that is in two splits (possible with `assign`) or a feature that gives the target away.
    """

    key: str | list[str] | None = None
    fractions: dict[Literal["train", "validation", "test"], float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
    seed: int = 7
    assign: str | None = None
    leakage: Literal["error", "warn", "off"] = "error"

    @field_validator("fractions")
    @classmethod
    def _add_up(cls, value: dict[str, float]) -> dict[str, float]:
        if any(part < 0 for part in value.values()) or abs(sum(value.values()) - 1) > 1e-9:
            raise ValueError(f"must be non-negative and add up to 1, they add up to {sum(value.values()):g}")
        if value.get("train", 0) <= 0:
            raise ValueError("train must be above 0")
        return value

    def key_columns(self) -> list[str]:
        """Return the key columns, empty for the whole row."""
        return [self.key] if isinstance(self.key, str) else list(self.key or [])


class FeatureSettings(Options):
    """A list of Spark ML stages in their order, and what the last of them calls its output."""

    stages: list[plugged("features.stages")] = Field(min_length=1)  # type: ignore[valid-type]
    output: str = "features"
    shape: list[int] = Field(
        [], max_length=3, description="of one row of the output, when it is an image: height, width[, channels]"
    )
    keep: list[str] = Field([], description="columns carried along beside key and target, for evaluation slices")

    @model_validator(mode="after")
    def _output_is_made(self) -> FeatureSettings:
        made = [name for stage in self.stages for name in stage.outputs()]
        if self.output not in made:
            raise ValueError(f"no stage has the output {self.output!r}; the stages make: {', '.join(made)}")
        return self
