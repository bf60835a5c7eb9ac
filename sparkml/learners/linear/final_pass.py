"""`at_the_end`: one more pass over all rows, at the coefficients that were found, for what robust standard errors take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sparkml.learners.linear.newton import Step, newton_step
from sparkml.learners.linear.passes import Fit, SharedPasses
from sparkml.learners.linear.rows import Rows
from sparkml.learners.linear.scores import ScoreAdder, Spread
from sparkml.learners.linear.sums import Sums
from sparkml.learners.linear.tree_sum import Array

_MOST_NUMBERS = 1 << 22  # that one pass adds up: 32 MiB; further fits have a pass of their own


def at_the_end(passes: SharedPasses, fits: Mapping[int, Fit], kind: str) -> dict[int, tuple[Step, Spread]]:
    """Return Hessian and scores at the coefficients of those fits that have standard errors (free ones)."""
    found: dict[int, tuple[Step, Spread]] = {}
    some: list[int] = []
    for number in (number for number, fit in fits.items() if kind != "nonrobust" and fit.task.free):
        if some and sum(_numbers(passes, fits[other]) for other in (*some, number)) > _MOST_NUMBERS:
            found.update(_passed(passes, fits, some, kind))
            some = []
        some.append(number)
    return {**found, **_passed(passes, fits, some, kind)} if some else found


def _numbers(passes: SharedPasses, fit: Fit) -> int:
    size = passes.size(fit.task.label)
    return Sums.numbers(size) + ScoreAdder.numbers(size)


def _passed(passes: SharedPasses, fits: Mapping[int, Fit], some: Sequence[int], kind: str) -> dict[int, tuple[Step, Spread]]:
    points = {number: (fits[number].task.label, result.w) for number in some if (result := fits[number].descent.result)}

    def add(several: Iterator[Rows]) -> tuple[Array, Array]:
        adders = {number: passes.adder(label, w[None]) for number, (label, w) in points.items()}
        scores = {number: ScoreAdder(passes.families[label], w) for number, (label, w) in points.items()}
        for rows in several:
            for number, (label, _) in points.items():
                adders[number].take(rows.of(label))
                scores[number].take(rows.of(label))
        sums = [part for number in points for part in (adders[number].sums(0).packed(), scores[number].packed())]
        return np.concatenate(sums), np.concatenate([adder.margins.ravel() for adder in adders.values()])

    total, _ = passes.rows.added_up(None, add)
    found = {}
    for number, (label, w) in points.items():
        size = passes.size(label)
        own, scored, total = np.split(total, np.cumsum([Sums.numbers(size), ScoreAdder.numbers(size)]))
        step = newton_step(w, Sums.unpacked(own, size), passes.problem(fits[number].task, None))
        found[number] = step, Spread(kind, ScoreAdder.unpacked(scored, size))
    return found
