"""From a DataFrame to what ranks train on: checks, facts about the labels, shards."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from sparkml.errors import ConfigError, DataError
from sparkml.estimators.materialise import as_shards, describe, in_place
from sparkml.learners.feed import Layout
from sparkml.learners.inputs import Input, Target
from sparkml.lineage.fingerprint import fingerprint
from sparkml.shards.schema import Column
from sparkml.storage import Manifest, Store

log = logging.getLogger(__name__)

_GROUPS = 256  # row groups of a small set: shares of nearly equal size for any number of ranks
_MAX_ROWS_PER_GROUP = 1 << 16
_FILE_BYTES = 128 << 20
_MIN_FILES = 4


@dataclass(frozen=True)
class Asked:
    """What the estimator's Params say about the columns."""

    inputs: list[str]
    labels: list[str]
    weight: str | None
    validation: str | None
    task: str
    shape: tuple[int, ...] | None
    longest: int | None
    classes: int | None


@dataclass(frozen=True)
class Prepared:
    """The training and validation rows as shards, and how they become batches.

    Attributes
    ----------
    columns
        Of the inputs, as the shards store them.
    label_names
        Class names of the first label by index, if its column says them.
    rows
        Training rows.
    """

    layout: Layout
    columns: list[Column]
    train: str
    validation: str | None
    mark: str
    rows: int
    label_names: list[str]
    class_weights: tuple[float, ...] | None

    @property
    def signature(self) -> dict[str, Any]:
        """What a model keeps of its columns, as JSON: see `sparkml.estimators.net_model.NetModel`."""
        return {
            "columns": [column.model_dump() for column in self.columns],
            "inputs": [vars(item) for item in self.layout.inputs],
            "targets": [vars(target) for target in self.layout.targets],
            "labels": self.label_names,
        }


class Frame:
    """The rows given to ``fit``, looked at once. Raises `DataError` for labels and weights that cannot be learnt from.

    A plain scan of shards is trained on in place; the rows of any other frame are written as shards.
    """

    def __init__(self, dataset: DataFrame, asked: Asked) -> None:
        self.asked = asked
        for name in (*asked.inputs, *asked.labels, *filter(None, (asked.weight, asked.validation))):
            if name not in dataset.columns:
                raise DataError(f"there is no column {name!r}, only {', '.join(dataset.columns)}")
        for name in (*asked.labels, *filter(None, (asked.weight,))):
            if dataset.schema[name].dataType.simpleString() == "string":
                raise DataError(f"column {name!r} holds strings, not numbers", hint="index a label with a StringIndexer")
        self._shards = in_place(dataset)
        if self._shards is not None and asked.validation is not None:
            raise DataError(
                f"the frame reads the shards of {self._shards[0]} in place: {asked.validation!r} cannot hold out rows of them",
                hint="leave validationIndicatorCol out, or fit the frame that the shards were written from",
            )
        self._kinds = {name: dataset.schema[name].dataType.simpleString() for name in asked.labels}
        self._vectors = [name for name in asked.inputs if dataset.schema[name].dataType.simpleString() == "vector"]
        self._metadata = dataset.schema[asked.labels[0]].metadata
        numbers = {name for name in asked.labels if not self._is_tensor(name)} | ({asked.weight} if asked.weight else set())
        names = dict.fromkeys([*asked.inputs, *asked.labels, *([asked.weight] if asked.weight else [])])
        wanted = dataset.select(
            *(_number(name).alias(name) if name in numbers else F.col(f"`{name}`") for name in names), *self._held_out()
        )
        self.parts: dict[str, DataFrame] = {"train": wanted}
        if asked.validation is not None:
            kept = [F.col(f"`{name}`") for name in names]
            self.parts = {
                "train": wanted.where("not _held_out").select(*kept),
                "validation": wanted.where("_held_out").select(*kept),
            }
        self.facts = {name: self._looked_at(part) for name, part in self.parts.items()}
        if not self.rows:
            raise DataError("there are no training rows", hint="look at the split and at the contract's quarantine")
        self.parts = {name: part for name, part in self.parts.items() if self.facts[name]["rows"]}
        if asked.validation is not None and "validation" not in self.parts:
            log.warning("%s is true in no row: there is no validation", asked.validation)

    @property
    def rows(self) -> int:
        return int(self.facts["train"]["rows"])

    def _is_tensor(self, name: str) -> bool:
        kind = self._kinds[name]
        if kind not in ("vector", "binary") and not kind.startswith("array<"):
            return False
        if self.asked.task == "classification":
            raise DataError(
                f"the label {name!r} is a {kind}; a classifier needs class indices", hint="index it with a StringIndexer"
            )
        return True

    def _held_out(self) -> list[SparkColumn]:
        if self.asked.validation is None:
            return []
        held_out = F.col(f"`{self.asked.validation}`").cast("boolean")
        return [F.coalesce(held_out, F.raise_error(F.lit(self._neither)).cast("boolean")).alias("_held_out")]

    @property
    def _neither(self) -> str:
        return (
            f"the validation indicator {self.asked.validation!r} is null in some rows: they are neither training nor validation"
        )

    def _looked_at(self, part: DataFrame) -> Row:
        checks: list[SparkColumn] = [
            F.count("*").alias("rows"),
            # the same rows in any order give the same sum: it names their shards
            F.sum(F.xxhash64(*[F.col(f"`{name}`") for name in part.columns]).cast("decimal(38,0)")).alias("content"),
        ]
        for name in self._vectors:
            checks.append(F.min(F.unwrap_udt(F.col(f"`{name}`"))["type"]).alias(f"type {name}"))
        for at, name in enumerate(self.asked.labels):
            if not self._is_tensor(name):
                label = F.col(f"`{name}`")
                checks += [
                    F.sum(_unusable(label).cast("int")).alias(f"bad{at}"),
                    F.sum((label != F.floor(label)).cast("int")).alias(f"fractional{at}"),
                    F.min(label).alias(f"least{at}"),
                    F.max(label).alias(f"most{at}"),
                    F.avg(label).alias(f"mean{at}"),
                    F.stddev_pop(label).alias(f"std{at}"),
                ]
        if self.asked.weight is not None:
            weight = F.col(f"`{self.asked.weight}`")
            checks.append(F.sum((_unusable(weight) | (weight < 0)).cast("int")).alias("bad_weights"))
        try:
            row = part.agg(*checks).first()
        except PySparkException as error:
            if self._neither in str(error):
                raise DataError(self._neither, hint="fill it with true or false") from None
            raise
        assert row is not None
        if row["rows"]:
            self._check(row)
        return row

    def _check(self, row: Row) -> None:
        for at, name in enumerate(self.asked.labels):
            if self._is_tensor(name):
                continue
            if row[f"bad{at}"]:
                raise DataError(f"the label {name!r} is null, NaN or infinite in {row[f'bad{at}']} of {row['rows']} rows")
            if self.asked.task == "classification" and (row[f"fractional{at}"] or row[f"least{at}"] < 0):
                raise DataError(
                    f"the label {name!r} must hold class indices 0, 1, 2, ...; it goes from {row[f'least{at}']:g} to "
                    f"{row[f'most{at}']:g} with {row[f'fractional{at}']} fractional values",
                    hint="index it with a StringIndexer",
                )
        if self.asked.weight is not None and row["bad_weights"]:
            count = f"{row['bad_weights']} of {row['rows']} rows"
            raise DataError(f"the weight {self.asked.weight!r} is null, NaN, infinite or negative in {count}")

    def targets(self, specs: dict[str, Column]) -> tuple[Target, ...]:
        """Return what the net's outputs are."""
        found = []
        train = self.facts["train"]
        for at, name in enumerate(self.asked.labels):
            if self._is_tensor(name):
                found.append(Target(name, "regression", specs[name].shape[0]))
            elif self.asked.task == "regression":
                mean, std = (_rounded(train[f"{fact}{at}"]) for fact in ("mean", "std"))
                found.append(Target(name, "regression", 1, mean, std or 1.0))
            else:
                most = int(max(row[f"most{at}"] for row in self.facts.values() if row["rows"])) + 1
                classes = self.asked.classes if at == 0 and self.asked.classes else max(2, most)
                if most > classes:
                    raise DataError(f"the label {name!r} holds the class index {most - 1}, numClasses is {classes}")
                found.append(Target(name, "classification", classes))
        return tuple(found)

    def prepare(self, store: Store, class_weight: str | dict[int, float] | None) -> Prepared:
        """Write the shards, unless the same rows are there, and return all that a job needs."""
        train = self.parts["train"]
        tensors = [name for name in self.asked.labels if self._is_tensor(name)]
        if self.asked.shape is not None:
            tensors += self.asked.inputs
        sparse = {name for name in self._vectors if self.facts["train"][f"type {name}"] == 0}
        if self._shards is not None:
            stored = {item["name"]: Column.model_validate(item) for item in self._shards[1].extra["columns"]}
            columns = [stored[name] for name in train.columns]
        else:
            columns = describe(train, train.columns, tensors=tensors, longest=self.asked.longest, sparse=sparse)
        specs = {column.name: column for column in columns}
        layout = Layout(
            tuple(_input(specs[name], self.asked.shape) for name in self.asked.inputs), self.targets(specs), self.asked.weight
        )
        weights = self._class_weights(class_weight, layout.targets[0])
        width = max(1, sum(column.width for column in columns))
        group_rows = max(1, min(_MAX_ROWS_PER_GROUP, self.rows // _GROUPS))
        urls, contents = {}, {}
        for name, part in self.parts.items():
            if self._shards is not None:
                urls[name], contents[name] = self._shards[0], _content(self._shards[1])
                continue
            facts = self.facts[name]
            mark = [facts["rows"], str(facts["content"]), group_rows, [column.model_dump() for column in columns]]
            path = f"shards/{name}-{fingerprint(mark)}"
            files = max(_MIN_FILES, min(4096, facts["rows"] * width // _FILE_BYTES))  # of the data alone, not of the cluster
            contents[name] = _content(as_shards(part, store, path, columns, group_rows, files, finite=True))
            urls[name] = store.url(path)
        return Prepared(
            layout=layout,
            columns=[specs[name] for name in self.asked.inputs],
            train=urls["train"],
            validation=urls.get("validation"),
            mark=fingerprint(contents),
            rows=self.rows,
            label_names=[str(name) for name in self._metadata.get("ml_attr", {}).get("vals", [])],
            class_weights=weights,
        )

    def _class_weights(self, wanted: str | dict[int, float] | None, target: Target) -> tuple[float, ...] | None:
        """Return one factor per class. "balanced" is scikit-learn's: rows / (classes * rows of the class)."""
        if wanted is None:
            return None
        if len(self.asked.labels) > 1:
            raise ConfigError("classWeight is for one label", hint="weigh rows by weightCol")
        if target.task != "classification":
            raise ConfigError("classWeight is for classification")
        if wanted == "balanced":
            rows = self.parts["train"].groupBy(F.col(f"`{target.column}`").cast("int").alias("label")).count().collect()
            counts = {row["label"]: row["count"] for row in rows}
            return tuple(self.rows / (len(counts) * counts[label]) if label in counts else 1.0 for label in range(target.outputs))
        assert isinstance(wanted, dict)
        if wrong := [label for label in wanted if label >= target.outputs]:
            raise ConfigError(f"classWeight has the class {wrong[0]}; classes are 0 to {target.outputs - 1}")
        return tuple(wanted.get(label, 1.0) for label in range(target.outputs))


def _rounded(value: float) -> float:
    """Return six digits: the rest depends on the order in which Spark adds up, and a training is known by its target."""
    return float(f"{value:.6g}")


def _number(name: str) -> SparkColumn:
    return F.col(f"`{name}`").cast("double")


def _unusable(value: SparkColumn) -> SparkColumn:
    return value.isNull() | F.isnan(value) | (F.abs(value) == float("inf"))


def _input(column: Column, shape: tuple[int, ...] | None) -> Input:
    if column.dtype == "str":
        raise DataError(f"column {column.name!r} holds strings, a net takes numbers", hint="index it with a StringIndexer")
    if column.kind == "ids" or (not column.shape and column.dtype.startswith("int")):
        if not column.vocabulary:
            raise DataError(
                f"column {column.name!r} holds negative integers: integer columns are ids, from 0 on",
                hint="cast it to double if it is a number",
            )
        return Input(column.name, column.shape, "int32", column.vocabulary)
    if shape is not None:
        count = 1
        for dim in shape:
            count *= dim
        if column.shape and count != column.shape[0]:
            raise ConfigError(
                f"inputShape {list(shape)} needs {count} numbers per row, column {column.name!r} has {column.shape[0]}"
            )
        return Input(column.name, shape)
    return Input(column.name, column.shape)


def _content(manifest: Manifest) -> list[str]:
    """Return what identifies the rows and their order: the files' hashes."""
    return [file.sha256 for file in manifest.files]
