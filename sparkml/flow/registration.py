"""Selection among candidates, comparison with the champion on the same rows, and the version that comes of it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sparkml import plugins
from sparkml.errors import ConfigError, DataError
from sparkml.evaluate.evaluation import Evaluation, compare
from sparkml.features.report import FeaturesReport
from sparkml.flow.engine import Artifact, Engine
from sparkml.flow.pipeline import Trained
from sparkml.flow.scoring import predict
from sparkml.lineage.records import StageRecord, now
from sparkml.registry.bundle import Bundle
from sparkml.registry.card import model_card
from sparkml.registry.gates import Candidate, Decision, decide, select
from sparkml.registry.registry import ModelVersion, Registry
from sparkml.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class Registration:
    """The register stage of one run."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings, self.store = engine, settings, engine.store
        self.registry = Registry(engine.store)
        self.name = settings.registration.name or settings.pipeline
        first = settings.evaluate.for_task(settings.target.task)[0]
        self.metric = settings.registration.metric or first.plugin_name()

    def register(self, good: Artifact, features: Artifact, trained: list[Trained]) -> tuple[Decision, ModelVersion | None]:
        """Select, compare and publish; return the decision and the version that holds the selected model (None when rejected)."""
        evaluations = {item.name: item.evaluation for item in trained}
        better = bool(getattr(plugins.load("evaluate.metrics", self.metric), "greater_is_better", True))
        chosen = select(
            [Candidate(name, {key: found.value for key, found in item.metrics.items()}) for name, item in evaluations.items()],
            self.settings.registration,
            self.metric,
            better,
        )
        winner = next(item for item in trained if item.name == chosen.name)
        known = self.registry.find(self.name, winner.model.fingerprint)
        wanted = self.engine.selection.wanted("register")
        if known is not None and not (self.engine.selection.force and wanted):
            return self._known(winner, known), known
        if not wanted:
            raise ConfigError(
                f"the selected model {winner.name} is not registered yet, and register is left out", hint="--from register"
            )
        began, start = now(), time.monotonic()
        with self.engine.board.stage("register") as progress:
            champion = self.champion() if "champion" in self.registry.aliases(self.name) else None
            decision = self._decide(evaluations[winner.name], winner.name, champion, good, better)
            version = None if decision.outcome == "rejected" else self._publish(winner, features, good, decision)
            progress.note(f"{version.label if version else 'nothing'} as {decision.outcome}: {decision.reason}")
        self.engine.add_record(
            StageRecord(
                stage="register",
                status="ran",
                started=began,
                seconds=round(time.monotonic() - start, 3),
                fingerprint=winner.model.fingerprint,
                artifact=self.store.url(version.path) if version else "",
                settings=self.settings.registration.model_dump(mode="json"),
                inputs=[item.evaluated.as_input() for item in trained if item.evaluated],
                notes=asdict(decision),
            )
        )
        return decision, version

    def _decide(self, candidate: Evaluation, name: str, champion: ModelVersion | None, good: Artifact, better: bool) -> Decision:
        from pyspark.errors import AnalysisException

        if champion is None:
            return decide(name, self.metric, None, None, better)
        try:
            difference = self._difference(candidate, champion, good)
        except (DataError, ConfigError, AnalysisException) as error:  # other classes or columns than it was made for
            why = str(error).strip().splitlines()[0]
            return Decision(name, "champion", f"{champion.label} cannot be evaluated on this data and is replaced: {why}")
        return decide(name, self.metric, champion.label, difference, better)

    def _known(self, winner: Trained, known: ModelVersion) -> Decision:
        self._point_aliases(known)
        aliases = [alias for alias, version in self.registry.aliases(self.name).items() if version == known.version]
        outcome = "champion" if "champion" in aliases else "challenger"
        reason = f"the selected model {winner.name} is {known.label} already" + (f" ({', '.join(aliases)})" if aliases else "")
        self.engine.board.skipped("register", reason)
        self.engine.add_record(
            StageRecord(
                stage="register",
                status="skipped",
                started=now(),
                seconds=0.0,
                fingerprint=winner.model.fingerprint,
                artifact=self.store.url(known.path),
                notes={"reason": reason},
            )
        )
        return Decision(winner.name, "champion" if outcome == "champion" else "challenger", reason)

    def _point_aliases(self, known: ModelVersion) -> None:
        """Do what a run that was killed after publishing the version did not come to: point its alias."""
        if any(move["version"] == known.version for move in self.registry.alias_history(self.name)):
            return
        decision, when, run_id = known.manifest.extra["decision"], now(), self.engine.run.run_id
        self.registry.set_alias(
            self.name, decision["outcome"], known.version, run_id=run_id, when=when, reason=decision["reason"]
        )

    def champion(self, alias: str = "champion") -> ModelVersion:
        """Return the version an alias of this pipeline's model points to."""
        return self.registry.resolve(f"{self.name}@{alias}")

    def _difference(self, candidate: Evaluation, champion: ModelVersion, good: Artifact) -> tuple[float, float, float]:
        """Candidate minus champion on the candidate's test rows; the champion is evaluated anew when it was not on these rows."""
        recorded = Evaluation.model_validate(self.store.read_json(f"{champion.path}/evaluation.json"))
        try:
            return tuple(compare(candidate, recorded, self.metric))[:3]  # type: ignore[return-value]
        except DataError:
            self.engine.board.line(f"{champion.label} was evaluated on other rows: evaluating it on this test split")
        found = compare(candidate, self._evaluate_again(champion, good, candidate), self.metric)
        return found.difference, found.low, found.high

    def _evaluate_again(self, champion: ModelVersion, good: Artifact, like: Evaluation) -> Evaluation:
        from sparkml.evaluate.distributed import evaluate
        from sparkml.features.fit import label_column
        from sparkml.features.splits import assign_split

        self.store.verify(champion.path)
        rows = assign_split(self.engine.spark.read.parquet(f"{good.url}/rows"), self.settings.split)
        test: DataFrame = label_column(rows.where("_split = 'test'"), self.settings.target, champion.bundle.classes)
        predictions = predict(self.engine.spark, champion, self.store.url(champion.path), test)
        classes = champion.bundle.classes
        keys = [column for column in self._key_columns() if column in predictions.columns]
        return evaluate(predictions, self.settings.evaluate, self.settings.target.task, classes, keys)

    def _key_columns(self) -> list[str]:
        return self.settings.split.key_columns() or ["_key"]

    def _publish(self, winner: Trained, features: Artifact, good: Artifact, decision: Decision) -> ModelVersion:
        assert winner.evaluated is not None
        bundle = self._bundle(winner, features, good)
        store = self.store
        with store.stage() as staging:
            store.copy(f"{winner.model.path}/model", f"{staging.path}/model")
            store.copy(f"{features.path}/pipeline", f"{staging.path}/features/pipeline")
            store.copy(f"{winner.evaluated.path}/evaluation.json", f"{staging.path}/evaluation.json")
            store.replace(f"{staging.path}/bundle.json", bundle.model_dump(mode="json"))
            card = model_card(self.name, bundle, winner.evaluation.model_dump(), decision, self.engine.run)
            store.replace(f"{staging.path}/card.md", card.encode())
            inputs = [winner.model, winner.evaluated, features]
            lineage = {
                "run_id": self.engine.run.run_id,
                "stage": "register",
                "inputs": [item.as_input().model_dump() for item in inputs],
                "versions": self.engine.run.versions,
            }
            version = self.registry.publish(
                self.name, staging, fingerprint=winner.model.fingerprint, lineage=lineage, extra={"decision": asdict(decision)}
            )
        when, run_id = now(), self.engine.run.run_id
        self.registry.set_alias(self.name, decision.outcome, version.version, run_id=run_id, when=when, reason=decision.reason)
        return version

    def _bundle(self, winner: Trained, features: Artifact, good: Artifact) -> Bundle:
        settings = self.settings
        report = FeaturesReport.model_validate(features.extra["report"])
        dumped: dict[str, Any] = settings.model_dump(mode="json", by_alias=True)
        columns = {
            name: kind for name, kind in self._schema(good).items() if name != settings.target.column and not name.startswith("_")
        }
        outputs = {"predicted": "string", "probability": "array<double>"} if report.classes else {"predicted": "double"}
        return Bundle(
            pipeline=settings.pipeline,
            candidate=winner.name,
            task=settings.target.task,
            classes=list(report.classes),
            shape=list(report.shape),
            feature_names=list(report.feature_names),
            trainer=dumped["train"]["candidates"][winner.name],
            source=dumped["source"],
            contract=dumped["contract"],
            target=dumped["target"],
            split=dumped["split"],
            features=dumped["features"],
            signature={"inputs": columns, "outputs": outputs},
            test_fingerprint=features.fingerprint,
            model_fingerprint=winner.model.fingerprint,
            seed=settings.seed,
        )

    def _schema(self, good: Artifact) -> dict[str, str]:
        schema = self.engine.spark.read.parquet(f"{good.url}/rows").schema
        return {field.name: field.dataType.simpleString() for field in schema}
