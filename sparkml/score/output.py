"""Predictions replace what stood at the output, whole or partition by partition, so that a reader never sees a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkml.config import check_name
from sparkml.errors import ConfigError
from sparkml.storage import Manifest, Store

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


KIND = "predictions"


def check_output(url: str, inputs: Sequence[str]) -> None:
    """Refuse, before any work, an output that stands in the way of something else.

    Raises
    ------
    ConfigError
        The output is one of the inputs, holds one, or lies inside one.
    StorageError
        Something that `write_output` did not write stands there.
    """
    store, name = output_store(url)
    target = store.url(name)
    for given in inputs:
        source = Store(given).root
        if target == source or target.startswith(f"{source}/") or source.startswith(f"{target}/"):
            raise ConfigError(
                f"the output {url} and the input {given} are the same or inside each other",
                hint="sparkml score NAME INPUT... OUTPUT",
            )
    store.check_replaceable(name, KIND)


def output_store(url: str) -> tuple[Store, str]:
    """Return the store of the folder above an output URL, and the output's name in it."""
    parent, _, name = url.rstrip("/").rpartition("/")
    check_name(name, "output folder")
    return Store(parent or ("/" if url.startswith("/") else ".")), name


def write_output(
    predictions: DataFrame,
    url: str,
    *,
    fingerprint: str,
    lineage: Mapping[str, Any],
    extra: Mapping[str, Any],
    partition_by: Sequence[str] = (),
) -> Manifest:
    """Write predictions and commit them over what stood at `url`; the same input twice leaves the same rows, once.

    With `partition_by`, the partitions that occur in `predictions` are replaced and all others stay.
    """
    missing = [column for column in partition_by if column not in predictions.columns]
    if missing:
        raise ConfigError(f"--partition-by {', '.join(missing)}: no such column; the output has {', '.join(predictions.columns)}")
    store, name = output_store(url)
    store.sweep()
    with store.stage() as staging:
        writer = predictions.write.mode("append")  # the staging folder exists and holds only its owner mark
        (writer.partitionBy(*partition_by) if partition_by else writer).parquet(staging.url)
        manifest = store.replace_artifact(
            staging, name, kind=KIND, fingerprint=fingerprint, lineage=lineage, extra=extra, partitions=bool(partition_by)
        )
    if not store.list("_staging"):  # the folder is the user's: nothing of ours stays beside the output
        store.remove("_staging")
    return manifest
