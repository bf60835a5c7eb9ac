"""`Progress`: where a training stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from sparkml.learners.checkpoint import Arrays


@dataclass
class Progress:
    """Where a training stands: after `epoch` epochs and `step` steps of the next."""

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    best: Arrays = field(default_factory=dict)
    resumed: str = ""
    stopped: bool = False
