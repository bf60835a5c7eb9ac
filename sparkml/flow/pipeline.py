"""The stages of a pipeline, each one artifact: ingest, contract, features, train, evaluate, register, score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkml.contract.enforce import enforce
from sparkml.errors import DataError, NoInputError
from sparkml.estimators.trainer import TrainContext, Trainer
from sparkml.evaluate.evaluation import Evaluation
from sparkml.features.report import FeaturesReport
from sparkml.flow.engine import Artifact, Build, Engine
from sparkml.ingest.files import InputFile, scan
from sparkml.ingest.source import ReadContext
from sparkml.lineage.fingerprint import fingerprint
from sparkml.lineage.records import InputRef
from sparkml.observe.logs import log_folder
from sparkml.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TRAIN_ROOMS = ("estimators", "learners", "strategies", "launch", "shards")


@dataclass(frozen=True)
class Trained:
    """A candidate that was trained, and (when the run got that far) evaluated."""

    name: str
    trainer: Trainer
    model: Artifact
    evaluated: Artifact | None = None

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation on the test split, read from its artifact."""
        assert self.evaluated is not None
        return Evaluation.model_validate(self.evaluated.store.read_json(f"{self.evaluated.path}/evaluation.json"))


class Pipeline:
    """One pipeline's stages over an engine. Each method returns the stage's artifact, made now or before."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings, self.store = engine, settings, engine.store

    # --- raw input ---

    def raw_input(self) -> InputRef:
        """Fetch what is missing, list the raw files and hash those that changed since they were last hashed."""
        source = self.settings.source
        if self.engine.selection.dry_run and not source.fetched():
            self.engine.planned.append(("raw", "would be fetched: the files are not in the cache"))
            return InputRef(name="raw", url=f"source:{source.plugin_name()}", fingerprint="not fetched")
        if not self.engine.selection.dry_run:
            source.fetch()
        day = self.engine.run.date
        known_at = f"datasets/{self.settings.pipeline}/ingest/_files{f'-{day}' if day else ''}.json"
        known = self.store.read_json(known_at) if self.store.exists(known_at) else {}
        files = self._scan({path: InputFile.model_validate(item) for path, item in known.items()})
        if not self.engine.selection.dry_run:
            self.store.replace(known_at, {file.path: file.model_dump() for file in files})
        content = sorted((file.path.rpartition("/")[2], file.sha256) for file in files)  # moved files are the same input
        # dates share no artifact, even where their files are equal: each is traced to its own, and two may run at once
        return InputRef(
            name="raw",
            url=f"source:{source.plugin_name()}",
            fingerprint=fingerprint([content, source.identity(), *([day] if day else [])]),
            files=[file.model_dump() for file in files],
        )

    def _scan(self, known: Mapping[str, InputFile]) -> list[InputFile]:
        try:
            return scan(self.settings.source.files(), known)
        except NoInputError as error:
            if self.engine.run.date:
                raise NoInputError(
                    f"no partition of {self.engine.run.date} yet: {error.message.removeprefix('no input: ')}",
                    hint="run it again when the files are there; a backfill passes over it with --skip-missing",
                ) from None
            raise

    def _refuse_changed(self, raw: InputRef) -> None:
        """Files that came, went or changed while they were read are in the rows or not: no artifact may say which."""
        before = {file.path: file for file in map(InputFile.model_validate, raw.files)}
        after = {file.path: file for file in self._scan(before)}
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        if changed:
            raise DataError(
                f"the input changed while it was read: {', '.join(changed[:3])}{' ...' if len(changed) > 3 else ''}",
                hint="run it again: what was read is thrown away",
            )

    def ingest(self) -> Artifact:
        """Raw files to a typed table; the RDD route's checkpoint lives in the artifact's staging folder and goes with it."""
        from sparkml.ingest.stage import ingest

        raw = self.raw_input()

        def build(work: Build) -> dict[str, Any]:
            context = ReadContext(spark=self.engine.spark, scratch_url=f"{work.staging.url}/_checkpoint", notes=work.notes)
            report = ingest(self.settings.source, context, f"{work.staging.url}/rows")
            self.store.remove(f"{work.staging.path}/_checkpoint")
            self._refuse_changed(raw)
            work.rows = report.rows
            work.progress.note(f"{report.rows:,} rows")
            return {"report": report.model_dump(mode="json")}

        return self.engine.artifact(
            "ingest",
            kind="table",
            settings=self.settings.source.identity(),
            inputs=[raw],
            rooms=("ingest",),
            build=build,
        )

    # --- contract ---

    def contract(self, table: Artifact) -> Artifact:
        """Good rows on, bad rows to quarantine; stops with `DataError` above the allowed fraction, quarantine kept."""

        def build(work: Build) -> dict[str, Any]:
            rows = self.engine.spark.read.parquet(f"{table.url}/rows")
            quarantine = f"quarantine/{self.settings.pipeline}/{work.fingerprint}"
            with self.store.stage() as bad:
                report = enforce(rows, self.settings.contract, f"{work.staging.url}/rows", f"{bad.url}/rows")
                self.store.remove(quarantine)
                self.store.publish(
                    bad,
                    quarantine,
                    kind="quarantine",
                    fingerprint=work.fingerprint,
                    lineage={"run_id": self.engine.run.run_id, "stage": "contract", "inputs": [table.as_input().model_dump()]},
                    extra={"rows": report.bad, "by_rule": report.by_rule},
                )
            report.verdict(self.store.url(quarantine))
            work.rows = report.good
            work.progress.note(f"{report.good:,} good, {report.bad:,} in quarantine")
            return {"report": report.model_dump(mode="json"), "quarantine": quarantine}

        return self.engine.artifact(
            "contract",
            kind="table",
            settings=self.settings.contract.model_dump(mode="json"),
            inputs=[table.as_input()],
            rooms=("contract",),
            build=build,
        )

    # --- features ---

    def features(self, good: Artifact) -> Artifact:
        """Split, fit the feature stages on the training split, transform every row."""
        settings = self.settings
        chosen = {
            "target": settings.target.model_dump(mode="json"),
            "split": settings.split.model_dump(mode="json"),
            "features": settings.features.model_dump(mode="json"),
        }

        def build(work: Build) -> dict[str, Any]:
            from sparkml.features.fit import fit_features
            from sparkml.features.splits import assign_split

            rows = assign_split(self.engine.spark.read.parquet(f"{good.url}/rows"), settings.split)
            report = fit_features(rows, settings.target, settings.features, settings.split, work.staging.url)
            work.rows = sum(report.split_counts.values())
            work.progress.note(
                f"{len(report.feature_names) or report.shape} features, "
                + ", ".join(f"{k} {v:,}" for k, v in report.split_counts.items())
            )
            return {"report": report.model_dump(mode="json")}

        return self.engine.artifact(
            "features", kind="features", settings=chosen, inputs=[good.as_input()], rooms=("features",), build=build
        )

    # --- train ---

    def train(self, features: Artifact) -> list[Trained]:
        """Train every candidate, each an artifact of its own: changing one does not train the others again."""
        return [self._train_one(name, trainer, features) for name, trainer in self.settings.train.candidates.items()]

    def _train_one(self, name: str, trainer: Trainer, features: Artifact) -> Trained:
        def build(work: Build) -> dict[str, Any]:
            scratch = f"checkpoints/{self.settings.pipeline}/{name}/{work.fingerprint}"
            rows = self._training_rows(features, trainer)
            model = trainer.estimator(self._train_context(features, scratch, work)).fit(rows)
            model.write().save(f"{work.staging.url}/model")  # type: ignore[attr-defined]
            history = trainer.history(model)
            self.store.replace(f"{work.staging.path}/history.json", history)
            self.store.remove(scratch)
            return {"candidate": name}

        model = self.engine.artifact(
            f"train.{name}",
            kind="model",
            inputs=[features.as_input()],
            rooms=TRAIN_ROOMS,
            build=build,
            settings={"trainer": trainer.plugin_name(), "seed": self.settings.seed, **trainer.options.model_dump(mode="json")},
        )
        return Trained(name, trainer, model)

    def _train_context(self, features: Artifact, scratch: str, work: Build) -> TrainContext:
        report = FeaturesReport.model_validate(features.extra["report"])
        return TrainContext(
            store=self.store,
            task=self.settings.target.task,
            classes=tuple(report.classes),
            shape=tuple(report.shape),
            seed=self.settings.seed,
            scratch=scratch,
            log_dir=str(log_folder(self.engine.run.run_id) / "ranks"),
            features_col=self.settings.features.output,
            validation_col="_is_validation",
            report=work.progress.rank,
        )

    def _training_rows(self, features: Artifact, trainer: Trainer) -> DataFrame:
        from pyspark.sql import functions as F

        rows = self.engine.spark.read.parquet(f"{features.url}/rows")
        if trainer.wants_validation:
            return rows.where(F.col("_split") != "test").withColumn("_is_validation", F.col("_split") == "validation")
        return rows.where(F.col("_split") == "train")

    # --- evaluate ---

    def evaluate(self, features: Artifact, trained: list[Trained]) -> list[Trained]:
        """Evaluate every candidate on the test split."""
        return [Trained(item.name, item.trainer, item.model, self._evaluate_one(features, item)) for item in trained]

    def _evaluate_one(self, features: Artifact, item: Trained) -> Artifact:
        from sparkml.flow.scoring import load_model

        def build(work: Build) -> dict[str, Any]:
            from sparkml.evaluate.distributed import evaluate

            report = FeaturesReport.model_validate(features.extra["report"])
            rows = self.engine.spark.read.parquet(f"{features.url}/rows").where("_split = 'test'")
            model = load_model(self.engine.spark, item.trainer, f"{item.model.url}/model")
            model.transform(rows).drop(self.settings.features.output).write.parquet(f"{work.staging.url}/predictions")
            predictions = self.engine.spark.read.parquet(f"{work.staging.url}/predictions")
            found = evaluate(predictions, self.settings.evaluate, self.settings.target.task, report.classes, report.key_columns)
            self.store.replace(f"{work.staging.path}/evaluation.json", found.model_dump(mode="json"))
            work.rows = found.rows
            work.progress.note("  ".join(f"{name} {metric.value:.4f}" for name, metric in found.metrics.items()))
            return {"metrics": {name: metric.value for name, metric in found.metrics.items()}}

        return self.engine.artifact(
            f"evaluate.{item.name}",
            kind="evaluation",
            settings=self.settings.evaluate.model_dump(mode="json"),
            inputs=[item.model.as_input(), features.as_input()],
            rooms=("evaluate",),
            build=build,
        )
