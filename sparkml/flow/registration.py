"""Selection among candidates, comparison with the champion on the same rows, and the version that comes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from sparkml import plugins
from sparkml.errors import BusyError, ConfigError, DataError, GateError
from sparkml.evaluate.evaluation import Evaluation, compare
from sparkml.features.report import FeaturesReport
from sparkml.flow.dates import Remembered
from sparkml.flow.engine import Artifact, Engine
from sparkml.flow.pipeline import Trained
from sparkml.flow.scoring import predict
from sparkml.lineage.records import StageRecord, now
from sparkml.registry.bundle import Bundle
from sparkml.registry.card import model_card
from sparkml.registry.gates import Candidate, Decision, decide, select
from sparkml.registry.registry import ModelVersion, Registry
from sparkml.settings import Settings
from sparkml.storage.lease import lease

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_PATIENCE_SECONDS = 1800.0  # another's registration may evaluate the champion anew and copy a large model


class Registration:
    """The register stage of one run."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings, self.store = engine, settings, engine.store
        self.registry = Registry(engine.store)
        self.remembered = Remembered(engine.store, settings.pipeline, engine.run.date)
        self.name = settings.registration.name or settings.pipeline
        first = settings.evaluate.for_task(settings.target.task)[0]
        self.metric = settings.registration.metric or first.plugin_name()

    def register(self, good: Artifact, features: Artifact, trained: list[Trained]) -> tuple[Decision, ModelVersion | None]:
        """Select, compare and publish; return the decision and the version that holds the selected model (None when rejected)."""
        winner, better = self._winner(trained)
        wanted = self.engine.selection.wanted("register")
        if not (self.engine.selection.force and wanted):
            finished = self._finished(winner)
            if finished is not None:
                return finished
            known = self.registry.find(self.name, winner.model.fingerprint)
            if known is not None:
                return self._known(winner, known), known
        if not wanted:
            raise ConfigError(
                f"the selected model {winner.name} is not registered yet, and register is left out", hint="--from register"
            )
        began, start = now(), time.monotonic()
        with self.engine.board.stage("register") as progress, self._alone():
            champion = self.champion() if "champion" in self.registry.aliases(self.name) else None
            decision = self._decide(winner.evaluation, winner.name, champion, good, better)
            version = None if decision.outcome == "rejected" else self._publish(winner, features, good, decision)
            progress.note(f"{version.label if version else 'nothing'} as {decision.outcome}: {decision.reason}")
        self._remember(winner, decision, version)
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

    def _winner(self, trained: list[Trained]) -> tuple[Trained, bool]:
        """The candidate that the gates and the metric select, and whether a greater value of the metric is better."""
        better = bool(getattr(plugins.load("evaluate.metrics", self.metric), "greater_is_better", True))
        measured = {item.name: {key: found.value for key, found in item.evaluation.metrics.items()} for item in trained}
        candidates = [Candidate(name, metrics) for name, metrics in measured.items()]
        chosen = select(candidates, self.settings.registration, self.metric, better)
        return next(item for item in trained if item.name == chosen.name), better

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of two runs that come to register this model at once the second waits, and compares with what the first made of it."""

        def tell(state: RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome is not None:
                self.engine.board.line(f"register waits: {getattr(state.outcome.exception(), 'message', '')}")

        waiting = Retrying(
            retry=retry_if_exception_type(BusyError),
            wait=wait_exponential_jitter(initial=0.5, max=5),
            stop=stop_after_delay(_PATIENCE_SECONDS),
            before_sleep=tell,
            reraise=True,
        )
        path, holder = f"_leases/register-{self.name}.json", {"run_id": self.engine.run.run_id}
        with ExitStack() as stack:
            waiting(lambda: stack.enter_context(lease(self.store, path, holder, what=f"the registration of {self.name}")))
            yield

    # --- what a finished date decided ---

    def _remember(self, winner: Trained, decision: Decision, version: ModelVersion | None) -> None:
        found = {"version": version.version if version else None, "decision": asdict(decision)}
        self.remembered.put("register", self._about(winner), found)

    def _about(self, winner: Trained) -> dict[str, Any]:
        return {"name": self.name, "model": winner.model.fingerprint}

    def _recorded(self, winner: Trained) -> tuple[Decision, int | None] | None:
        """The decision on this model in an earlier run of the date; None when its version is gone."""
        found = self.remembered.get("register", self._about(winner))
        if found is None or not (found["version"] is None or found["version"] in self.registry.versions(self.name)):
            return None
        return Decision(**found["decision"]), found["version"]

    def _finished(self, winner: Trained) -> tuple[Decision, ModelVersion | None] | None:
        recorded = self._recorded(winner)
        if recorded is None:
            return None
        decision, number = recorded
        version = None if number is None else self.registry.get(self.name, number)
        self._skip(winner, version, f"decided before: {version.label if version else 'nothing'} as {decision.outcome}")
        return decision, version

    def scorer(self, good: Artifact, trained: list[Trained]) -> ModelVersion:
        """Return the version that scores these rows: the alias's, or for a date that was scored before the one that did it."""
        selection = self.engine.selection
        before = None if selection.force and selection.wanted("score") else self._scored_by(good, trained)
        return before or self.champion(self.settings.score.alias)

    def remember_scorer(self, good: Artifact, trained: list[Trained], version: ModelVersion) -> None:
        """Keep which version scored a date's rows."""
        self.remembered.put("score", self._about_rows(good, trained), {"version": version.version})

    def finished(self, good: Artifact, trained: list[Trained]) -> set[str]:
        """Return the stages from register on that a date is done with."""
        if self.engine.selection.force:
            return set()
        try:
            registered = self._recorded(self._winner(trained)[0]) is not None
        except GateError:  # a run says so again
            return set()
        if not registered:
            return set()
        return {"register"} if self._scored_by(good, trained) is None else {"register", "score", "report"}

    def _scored_by(self, good: Artifact, trained: list[Trained]) -> ModelVersion | None:
        found = self.remembered.get("score", self._about_rows(good, trained))
        if found is None or found["version"] not in self.registry.versions(self.name):
            return None
        return self.registry.get(self.name, found["version"])

    def _about_rows(self, good: Artifact, trained: list[Trained]) -> dict[str, Any]:
        about = self._about(self._winner(trained)[0])
        return {**about, "rows": good.fingerprint, "alias": self.settings.score.alias}

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
        reason = f"the selected model {winner.name} is {known.label} already" + (f" ({', '.join(aliases)})" if aliases else "")
        decision = Decision(winner.name, "champion" if "champion" in aliases else "challenger", reason)
        self._remember(winner, decision, known)
        self._skip(winner, known, reason)
        return decision

    def _skip(self, winner: Trained, version: ModelVersion | None, reason: str) -> None:
        self.engine.board.skipped("register", reason)
        self.engine.add_record(
            StageRecord(
                stage="register",
                status="skipped",
                started=now(),
                seconds=0.0,
                fingerprint=winner.model.fingerprint,
                artifact=self.store.url(version.path) if version else "",
                notes={"reason": reason},
            )
        )

    def _point_aliases(self, known: ModelVersion) -> None:
        """Do what a run that was killed after publishing the version did not come to: point its alias.

        If another run's model has become champion since, this one was never compared with it, and is a challenger.
        """
        if self._was_pointed_at(known):
            return
        with self._alone():
            if self._was_pointed_at(known):
                return
            alias, reason = known.manifest.extra["decision"]["outcome"], known.manifest.extra["decision"]["reason"]
            champion = self.registry.aliases(self.name).get("champion", 0)
            if alias == "champion" and champion > known.version:
                alias, reason = (
                    "challenger",
                    f"{self.name}@{champion} became champion before this version's run was taken up again",
                )
            when, run_id = now(), self.engine.run.run_id
            self.registry.set_alias(self.name, alias, known.version, run_id=run_id, when=when, reason=reason)

    def _was_pointed_at(self, version: ModelVersion) -> bool:
        return any(move["version"] == version.version for move in self.registry.alias_history(self.name))

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
                **({"date": self.engine.run.date} if self.engine.run.date else {}),
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
            # with today's defaults; a {date} in what was set is filled in anew when files are scored
            source={**dumped["source"], **self.engine.run.settings["source"]},
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
