"""What ranks tell each other between steps: JSON and small arrays, over the gang's own line."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from sparkml.launch.worker import Worker
from sparkml.learners.checkpoint import Arrays


def gathered(worker: Worker, value: Any) -> list[Any]:
    """Return every rank's JSON-serialisable value, in rank order."""
    return [json.loads(block) for block in worker.all_gather(json.dumps(value).encode())]


def gathered_arrays(worker: Worker, arrays: Arrays) -> list[Arrays]:
    """Return every rank's arrays, in rank order."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    found = []
    for block in worker.all_gather(file.getvalue()):
        with np.load(io.BytesIO(block), allow_pickle=False) as held:
            found.append({name: held[name] for name in held.files})
    return found


def summed(worker: Worker, totals: Arrays) -> Arrays:
    """Return the sum over ranks of every array, in rank order, so that it is the same on each of them."""
    if worker.size == 1:
        return totals
    ranks = gathered_arrays(worker, totals)
    return {name: np.sum([rank[name] for rank in ranks], axis=0) for name in totals}
