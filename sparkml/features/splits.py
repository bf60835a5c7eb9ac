"""Splits by a seeded hash of each row's key: re-ordered, re-partitioned or appended rows do not move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkml.config import suggest
from sparkml.errors import ConfigError
from sparkml.features.settings import SPLITS, SplitSettings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_DIGITS = 2**53  # what a double holds exactly


def row_hash(columns: Sequence[str], seed: int = 0) -> Column:
    """Return a 64-bit hash of the values of `columns` (xxHash64, as Spark implements it).

    Spark's hash passes nulls over, so that (1, null) and (null, 1) would be one; where each null stands is hashed too.
    """
    from pyspark.sql import functions as F

    values = [F.col(f"`{name}`") for name in columns]
    nulls = [F.when(value.isNull(), F.lit(place)).otherwise(F.lit(-1)) for place, value in enumerate(values)]
    return F.xxhash64(F.lit(seed).cast("long"), *values, *nulls)


def uniform(columns: Sequence[str], seed: int) -> Column:
    """Return a column in [0, 1) that depends on the values of `columns` and the seed only."""
    from pyspark.sql import functions as F

    return F.pmod(row_hash(columns, seed), F.lit(_DIGITS)).cast("double") / F.lit(float(_DIGITS))


def assign_split(df: DataFrame, settings: SplitSettings) -> DataFrame:
    """Add ``_split``, and ``_key`` (a hash of the row) when the settings name no key."""
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    missing = [name for name in settings.key_columns() if name not in df.columns]
    if missing:
        raise ConfigError(f"split.key: no column {missing[0]!r}; {suggest(missing[0], df.columns)}")
    columns = settings.key_columns() or [name for name in df.columns if not name.startswith("_")]
    if not settings.key_columns():
        df = df.withColumn("_key", row_hash(columns))
    position = uniform(columns, settings.seed)
    if settings.assign is None:
        return df.withColumn("_split", _by_hash(position, dict(settings.fractions)))
    named = F.expr(settings.assign)
    try:
        df.select(named.cast("string"))
    except AnalysisException as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"split.assign: {settings.assign!r} is not valid here: {reason}") from None
    rest = {str(name): part for name, part in settings.fractions.items() if f"'{name}'" not in settings.assign}
    total = sum(rest.values())
    if not total:  # the expression names every split that has a share
        return df.withColumn("_split", F.coalesce(named.cast("string"), F.lit(SPLITS[0])))
    by_hash = _by_hash(position, {name: part / total for name, part in rest.items()})
    return df.withColumn("_split", F.coalesce(named.cast("string"), by_hash))


def _by_hash(position: Column, fractions: Mapping[Any, float]) -> Column:
    from pyspark.sql import functions as F

    present = [name for name in SPLITS if fractions.get(name, 0) > 0]
    chosen: Column = F.lit(present[-1])
    edge = 1.0
    for name in reversed(present[:-1]):
        edge -= fractions[present[present.index(name) + 1]]
        chosen = F.when(position < F.lit(edge), F.lit(name)).otherwise(chosen)
    return chosen


def split(df: DataFrame, fractions: Sequence[float], key: str | list[str] | None = None, seed: int = 7) -> list[DataFrame]:
    """Divide a DataFrame by a seeded hash of `key` (the whole row when None).

    Parameters
    ----------
    fractions
        Of each part; they add up to 1.

    Examples
    --------
    >>> train, test = sparkml.split(df, [0.9, 0.1], key="id", seed=7)  # doctest: +SKIP
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise ConfigError(f"fractions {list(fractions)} must be non-negative and add up to 1")
    columns = [key] if isinstance(key, str) else list(key or df.columns)
    position = uniform(columns, seed)
    parts, low = [], 0.0
    for number, fraction in enumerate(fractions):
        high = 1.0 if number == len(fractions) - 1 else low + fraction
        parts.append(df.where((position >= low) & (position < high)))
        low = high
    return parts
