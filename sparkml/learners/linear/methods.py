"""How the optimum is found: by the Hessian of all coefficients (Newton's method), or by slopes alone (L-BFGS, OWL-QN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from sparkml.errors import ConfigError
from sparkml.learners.linear.facts import Facts
from sparkml.learners.linear.families import Family
from sparkml.learners.linear.lbfgs import Memory, QuasiNewton
from sparkml.learners.linear.multinomial import Multinomial, MultinomialAdder
from sparkml.learners.linear.newton import Descent
from sparkml.learners.linear.pairs import PairAdder
from sparkml.learners.linear.quadratic import Penalty, Terms
from sparkml.learners.linear.slopes import SlopeAdder, Slopes
from sparkml.learners.linear.sums import Adder, OneByOne, Sums
from sparkml.learners.linear.tree_sum import Array

MANY_COEFFICIENTS = 2000  # of one Hessian: beyond, ten passes without it cost less than one with it
MOST_COEFFICIENTS = 4096  # their Gram matrix takes 128 MiB
MOST_SLOPES = 1 << 24  # a rank remembers 5 GiB of them
MOST_CLASSES = 10_000
_MOST_BYTES = 8 << 30  # that the descents of one rank remember
MOST_NUMBERS = 1 << 22  # that one pass adds up: 32 MiB; further points have a pass of their own
_SAMPLE_TOLERANCE = 1e-3  # nearer to a sample's optimum there is more for the memory to learn
_COARSE = 1e-2
_PAIRED = 4  # features for each point: beyond, a Gram matrix for each costs less than the products of pairs, and
_MOST_PAIRED = 64  # of those a block has too many for the cache
_OCCURRENCES = 10.0  # of a feature in a sample at least, or the sample says nothing about it


@dataclass(frozen=True)
class Start:
    """Where a descent starts, and what one to fewer rows has learnt."""

    w: Array
    memory: Memory | None = None


class Method(Protocol):
    """What passes need to know of a way to the optimum.

    Attributes
    ----------
    rows_per_coefficient
        Of a sample at least.
    sample_passes
        At most.
    one_step
        Whether fits that leave a fold out are there after one step from the optimum of all rows.
    centres
        Whether adders centre features by themselves, where nothing else does.
    """

    rows_per_coefficient: int
    sample_passes: int
    one_step: bool
    centres: bool

    def check(self, size: int, folds: int, models: int) -> None:
        """Raise `ConfigError` where so many coefficients, folds or models are too many."""

    def starts_on_samples(self, families: Sequence[Family | Multinomial], penalties: Sequence[Penalty], sparse: bool) -> bool:
        """Return whether a sample's optimum is a good start."""

    def tolerance(self, chance: float, *, sample: bool) -> float:
        """Return how near to an optimum that chance moves by ten times `chance` a first fit ends."""

    def terms(self, terms: Terms, facts: Facts, reach: Array, *, sample: bool) -> Terms: ...
    def numbers(self, size: int, *, detailed: bool) -> int: ...
    def unpacked(self, vector: Array, size: int) -> Any: ...
    def adder(
        self,
        family: Family | Multinomial,
        w: Array,
        parts: int,
        without: Sequence[int | None],
        center: Array | None,
        detailed: bool,
    ) -> Any:
        """Return what adds up sums at the points `w`, (points, size): a `PairAdder`, or what is used like one."""

    def descent(self, start: Start, tolerance: float, passes: int, *, patient: bool, kind: Any, instead: Array | None) -> Any: ...


class ByHessian:
    """Newton's method."""

    rows_per_coefficient, sample_passes, one_step, centres = 100, 30, True, False

    def check(self, size: int, folds: int, models: int) -> None:
        if size > MOST_COEFFICIENTS:
            raise ConfigError(
                f"{size} coefficients: Newton's method takes at most {MOST_COEFFICIENTS}", hint='set solver="l-bfgs" or "auto"'
            )
        _check_sums(size, folds, folds * Sums.numbers(size))

    def starts_on_samples(self, families: Sequence[Family | Multinomial], penalties: Sequence[Penalty], sparse: bool) -> bool:
        """Least squares end at the optimum wherever they begin."""
        return any(family.bend != 0 for family in families)

    def tolerance(self, chance: float, *, sample: bool) -> float:
        return chance

    def terms(self, terms: Terms, facts: Facts, reach: Array, *, sample: bool) -> Terms:
        return terms

    def numbers(self, size: int, *, detailed: bool) -> int:
        return Sums.numbers(size)

    def unpacked(self, vector: Array, size: int) -> Sums:
        return Sums.unpacked(vector, size)

    def adder(
        self,
        family: Family | Multinomial,
        w: Array,
        parts: int,
        without: Sequence[int | None],
        center: Array | None,
        detailed: bool,
    ) -> PairAdder | OneByOne:
        if isinstance(family, Multinomial):
            return OneByOne([MultinomialAdder(family, at, parts) for at in w], without)
        if w.shape[1] - 1 <= min(_PAIRED * len(w), _MOST_PAIRED):
            return PairAdder(family, w, parts, without)
        return OneByOne([Adder(family, at, parts) for at in w], without)

    def descent(self, start: Start, tolerance: float, passes: int, *, patient: bool, kind: Any, instead: Array | None) -> Descent:
        return Descent(start.w, tolerance=tolerance, passes=passes, patient=patient, kind=kind, instead=instead)


class BySlopes:
    """L-BFGS, with L1 OWL-QN."""

    rows_per_coefficient, sample_passes, one_step, centres = 10, 60, False, True

    def check(self, size: int, folds: int, models: int) -> None:
        if size > MOST_SLOPES:
            raise ConfigError(
                f"{size} coefficients: a linear model takes at most {MOST_SLOPES}", hint="hash to fewer features, or select some"
            )
        _check_sums(size, folds, 2 * folds * size)
        descents = models * (folds + 1 if folds > 1 else 1)
        if descents * Memory.bytes(size) > _MOST_BYTES:
            raise ConfigError(
                f"{descents} fits of {size} coefficients at once would remember {descents * Memory.bytes(size) >> 30} GiB on "
                f"every rank, more than {_MOST_BYTES >> 30}",
                hint="fit fewer penalties, labels or folds at once",
            )

    def starts_on_samples(self, families: Sequence[Family | Multinomial], penalties: Sequence[Penalty], sparse: bool) -> bool:
        """Of sparse rows no: rare features that nothing holds go far astray, unless the penalty is hard on them."""
        return not sparse or all(penalty.strength and not penalty.standardised for penalty in penalties)

    def tolerance(self, chance: float, *, sample: bool) -> float:
        return min(chance, _SAMPLE_TOLERANCE if sample else _COARSE)

    def terms(self, terms: Terms, facts: Facts, reach: Array, *, sample: bool) -> Terms:
        if not sample:
            return terms
        often = np.append(facts.xx / facts.weight * facts.rows >= _OCCURRENCES * reach[:-1] ** 2, True)
        return replace(terms, free=terms.free & np.tile(often, len(terms.free) // len(often)))

    def numbers(self, size: int, *, detailed: bool) -> int:
        return Slopes.numbers(size, detailed=detailed)

    def unpacked(self, vector: Array, size: int) -> Slopes:
        return Slopes.unpacked(vector, size)

    def adder(
        self,
        family: Family | Multinomial,
        w: Array,
        parts: int,
        without: Sequence[int | None],
        center: Array | None,
        detailed: bool,
    ) -> OneByOne:
        return OneByOne([SlopeAdder(family, at, parts, center=center, detailed=detailed) for at in w], without)

    def descent(
        self, start: Start, tolerance: float, passes: int, *, patient: bool, kind: Any, instead: Array | None
    ) -> QuasiNewton:
        return QuasiNewton(start.w, tolerance=tolerance, passes=passes, kind=kind, instead=instead, memory=start.memory)


METHODS: dict[str, Method] = {"newton": ByHessian(), "l-bfgs": BySlopes()}


def _check_sums(size: int, folds: int, numbers: int) -> None:
    if folds > 1 and numbers > MOST_NUMBERS:
        raise ConfigError(
            f"{size} coefficients and {folds} folds are too many for shared passes",
            hint="take fewer folds, or pyspark.ml's CrossValidator, which fits one after another",
        )


def chosen_solver(asked: str, size: int, *, bounded: bool) -> str:
    """Return the method for so many coefficients: ``auto`` is Newton's as long as its Hessian pays.

    Raises
    ------
    ConfigError
        Bounds, which only Newton's method keeps.
    """
    if bounded and (asked == "l-bfgs" or size > MOST_COEFFICIENTS):
        raise ConfigError(
            f"bounds of {size} coefficients: only Newton's method keeps them, of at most {MOST_COEFFICIENTS} coefficients",
            hint='set solver="newton"' if size <= MOST_COEFFICIENTS else "select features",
        )
    if asked != "auto":
        return asked
    return "newton" if size <= MANY_COEFFICIENTS or bounded else "l-bfgs"
