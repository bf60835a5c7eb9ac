"""Distributed Poisson bootstrap: how often a row is drawn in a replicate depends on the row's key and the seed alone.

The weights need no communication, survive re-partitioning and re-ordering, and are the same for every model that is measured
on the same rows, so that differences between models can be judged replicate by replicate (paired).

Poisson(1) counts instead of multinomial ones: Chamandy, Muralidharan, Najmi, Naidu, "Estimating uncertainty for massive data
streams", Google 2012.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sparkml.evaluate.metric import Array

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LANES = 4  # 16-bit random numbers in one 64-bit hash


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a bijective mix of 64-bit words (Steele, Lea, Flood 2014, doi 10.1145/2660193.2660195)."""
    z = x + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@cache
def _inverse_cdf() -> NDArray[np.uint8]:
    """Return the Poisson(1) count for each of the 65,536 16-bit numbers; probabilities are exact to 1.5e-5."""
    probabilities = [math.exp(-1) / math.factorial(count) for count in range(12)]
    edges = np.cumsum(probabilities)
    return np.searchsorted(edges, (np.arange(65536) + 0.5) / 65536).astype(np.uint8)


def poisson_weights(keys: NDArray[np.int64], replicates: int, seed: int) -> Array:
    """Return the bootstrap weights of rows, shape (replicates, n).

    Parameters
    ----------
    keys
        Shape (n,): a 64-bit hash of each row's key.
    """
    words = -(-replicates // _LANES)
    # numpy's uint64 arithmetic wraps around, which is what a hash wants
    with np.errstate(over="ignore"):
        base = splitmix64(keys.astype(np.int64).view(np.uint64))
        stream = splitmix64(np.arange(words, dtype=np.uint64) + splitmix64(np.array([seed % 2**64], dtype=np.uint64)))
        mixed = splitmix64(base[None, :] ^ stream[:, None])
    lanes = [(mixed >> np.uint64(16 * lane)) & np.uint64(0xFFFF) for lane in range(_LANES)]
    counts = _inverse_cdf()[np.stack(lanes, axis=1).reshape(words * _LANES, len(keys))[:replicates]]
    return np.asarray(counts, dtype=np.float64)


def interval(replicates: Array, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of the replicates that are defined; (NaN, NaN) when fewer than half of them are."""
    defined = replicates[np.isfinite(replicates)]
    if len(defined) < max(2, len(replicates) / 2):
        return math.nan, math.nan
    tail = 50 * (1 - confidence)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)
