"""Which candidate is registered, and whether it replaces the champion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from sparkml.config import Name, Options
from sparkml.errors import GateError


class Gate(Options):
    """A bound that a candidate must keep on the test split."""

    metric: str
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError("a gate needs 'min' or 'max'")
        return self


class RegisterSettings(Options):
    """Under which name, by which metric, and behind which gates a model is registered."""

    name: Name | None = Field(None, description="the pipeline's name when not set")
    metric: str | None = Field(
        None, description="selects among candidates and against the champion; the first of evaluate.metrics when not set"
    )
    gates: list[Gate] = []


@dataclass(frozen=True)
class Candidate:
    """A candidate as the gates see it: metric values, and which direction is better."""

    name: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Decision:
    """What happens to the best candidate, and the sentence that says why."""

    candidate: str
    outcome: Literal["champion", "challenger", "rejected"]
    reason: str


def passes(candidate: Candidate, gates: list[Gate]) -> list[str]:
    """Return the gates that a candidate fails, as sentences; empty when it passes all. A value that is not a number fails."""
    failed = []
    for gate in gates:
        value = candidate.metrics.get(gate.metric, float("nan"))
        if gate.min is not None and not value >= gate.min:
            failed.append(f"{candidate.name}: {gate.metric} {value:.4f} is below {gate.min}")
        if gate.max is not None and not value <= gate.max:
            failed.append(f"{candidate.name}: {gate.metric} {value:.4f} is above {gate.max}")
    return failed


def select(candidates: list[Candidate], settings: RegisterSettings, metric: str, greater_is_better: bool) -> Candidate:
    """Return the best candidate that passes every gate. Raises `GateError` naming each bound that was broken."""
    failures = {candidate.name: passes(candidate, settings.gates) for candidate in candidates}
    good = [candidate for candidate in candidates if not failures[candidate.name]]
    if not good:
        lines = "\n".join(f"  {line}" for lines in failures.values() for line in lines)
        raise GateError(
            f"no candidate passes the gates, nothing is registered:\n{lines}",
            hint="open the report to see why; lower register.gates only if the bound was wrong",
        )
    measured = [candidate for candidate in good if not math.isnan(candidate.metrics[metric])]
    if not measured:
        raise GateError(f"no candidate has a value of {metric}, by which they are compared: nothing is registered")
    sign = 1 if greater_is_better else -1
    return max(measured, key=lambda candidate: sign * candidate.metrics[metric])


def decide(
    candidate: str, metric: str, champion: str | None, difference: tuple[float, float, float] | None, greater_is_better: bool
) -> Decision:
    """Compare the selected candidate with the champion on the same test rows.

    Parameters
    ----------
    difference
        Candidate minus champion with its paired bootstrap interval: (value, low, high).
    """
    if champion is None or difference is None:
        return Decision(candidate, "champion", "there was no champion before")
    value, low, high = difference
    shown = f"{metric} difference to {champion} on the same test rows {value:+.4f} [{low:+.4f}, {high:+.4f}]"
    better, worse = (low > 0, high < 0) if greater_is_better else (high < 0, low > 0)
    if better:
        return Decision(candidate, "champion", f"{shown}: better beyond chance, it replaces the champion")
    if worse:
        return Decision(candidate, "rejected", f"{shown}: worse beyond chance, it is not registered")
    return Decision(candidate, "challenger", f"{shown}: a tie inside the interval keeps the champion")
