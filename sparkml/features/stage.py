"""What a feature stage is: a Spark ML pipeline stage built from typed options."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from sparkml.config import suggest
from sparkml.errors import ConfigError
from sparkml.plugins import Plugin

if TYPE_CHECKING:
    from pyspark.ml.base import Estimator, Transformer


class FeatureStage(Plugin):
    """One stage. Its fitted part sees the training split only and is saved with the model."""

    @abstractmethod
    def inputs(self) -> list[str]:
        """Return the columns it reads; ``*`` patterns are expanded against the table."""

    @abstractmethod
    def outputs(self) -> list[str]:
        """Return the columns it adds."""

    @abstractmethod
    def build(self, columns: list[str]) -> Transformer | Estimator[Any]:
        """Return the pyspark.ml stage for the expanded input columns."""


def expand(patterns: Sequence[str], available: Sequence[str], where: str) -> list[str]:
    """Return the columns that `patterns` mean, in the table's order. Raises `ConfigError` for one that matches nothing."""
    found: list[str] = []
    for pattern in patterns:
        matched = (
            [name for name in available if fnmatchcase(name, pattern)]
            if "*" in pattern
            else [pattern]
            if pattern in available
            else []
        )
        if not matched:
            raise ConfigError(f"features.stages: {where} reads {pattern!r}, which is not there; {suggest(pattern, available)}")
        found += [name for name in matched if name not in found]
    return found
