"""`TreeSum`: a sum of many arrays whose every bit is the same, however the summands are dealt to ranks.

Floating-point addition is not associative, so the order is fixed: summand 0 + summand 1, 2 + 3, then the pairs, and so on, a
binary tree over all summands. A rank that has summands `a` to `b` adds up those subtrees that lie within; at most two per level
of the tree are left, and only they travel. Pairs also err less than a running sum: by O(log n) instead of O(n) roundings
(Higham, "The accuracy of floating point summation", 1993).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import numpy as np

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Node = tuple[int, int]  # level, place: it covers the summands place * 2**level up to before (place + 1) * 2**level


class TreeSum:
    """Takes summands with their numbers, in any order, and keeps as few partial sums as it can."""

    def __init__(self) -> None:
        self.nodes: dict[Node, Array] = {}

    def add(self, number: int, summand: Array) -> None:
        """Add summand `number`. Raises `ValueError` when it was there before."""
        self._put((0, number), summand)

    def merge(self, nodes: Mapping[Node, Array]) -> None:
        """Add another rank's partial sums."""
        for node in sorted(nodes):
            self._put(node, nodes[node])

    def _put(self, node: Node, value: Array) -> None:
        if node in self.nodes:
            raise ValueError(f"summand {node} was added twice")
        level, place = node
        while (sibling := (level, place ^ 1)) in self.nodes:
            other = self.nodes.pop(sibling)
            value = other + value if place & 1 else value + other
            level, place = level + 1, place >> 1
        self.nodes[level, place] = value

    def total(self, count: int) -> Array:
        """Return the sum of summands 0 up to before `count`. Raises `ValueError` when some are missing."""
        if sorted(self.nodes) != sorted(_roots(count)):
            raise ValueError(f"not every one of {count} summands is there")
        parts = [self.nodes[node] for node in _roots(count)]
        result = parts[-1].copy()
        for part in reversed(parts[:-1]):  # the small ones first
            result = part + result
        return result


def _roots(count: int) -> list[Node]:
    """Return the complete subtrees of `count` summands, the largest first: one per bit."""
    found, start = [], 0
    for level in range(count.bit_length() - 1, -1, -1):
        if count >> level & 1:
            found.append((level, start >> level))
            start += 1 << level
    return found


def shares(weights: Iterable[float], size: int, unevenness: float = 0.0) -> list[range]:
    """Deal summands to `size` ranks as ranges of about equal weight.

    Parameters
    ----------
    unevenness
        Part of a rank's share by which ranges may differ from equal ones to begin and end where large subtrees do.
    """
    ends = np.cumsum(np.fromiter(weights, float))
    if not len(ends):
        return [range(0)] * size
    cuts = [0, *(int(np.searchsorted(ends, ends[-1] * part / size - 1e-9 * ends[-1])) + 1 for part in range(1, size)), len(ends)]
    step = 1 << max(0, int(2 * unevenness * len(ends) / size).bit_length() - 1)
    cuts = [*(min((cut + step // 2) // step * step, len(ends)) for cut in cuts[:-1]), len(ends)]
    return [range(first, max(first, last)) for first, last in itertools.pairwise(cuts)]
