"""The stage engine: an artifact is built when its fingerprint is new, and every stage leaves a record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkml.config import redact, suggest
from sparkml.errors import ConfigError, SparkmlError, StorageError
from sparkml.flow.faults import explained
from sparkml.lineage.fingerprint import code_fingerprint, fingerprint
from sparkml.lineage.openlineage import save_events
from sparkml.lineage.records import InputRef, RunRecord, StageRecord, all_runs, now, save_run
from sparkml.observe.executors import LostExecutors
from sparkml.observe.logs import log_folder
from sparkml.observe.progress import Board, StageProgress
from sparkml.settings import RunSettings
from sparkml.storage import Manifest, Staging, Store, retries

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

STAGES = ("ingest", "contract", "features", "train", "evaluate", "register", "score", "report")
SPARK_LOG = "spark.log"


@dataclass(frozen=True)
class Selection:
    """Which stages of a run may do work. Stages before the first must have their artifacts already."""

    first: str = STAGES[0]
    last: str = STAGES[-1]
    force: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        for stage in (self.first, self.last):
            if stage not in STAGES:
                raise ConfigError(f"no stage {stage!r}; {suggest(stage, STAGES)}")
        if STAGES.index(self.first) > STAGES.index(self.last):
            raise ConfigError(f"--from {self.first} comes after --to {self.last}; the order is: {' '.join(STAGES)}")

    def wanted(self, stage: str) -> bool:
        """Whether a stage (or a part of one, ``train.net``) is among those selected."""
        return STAGES.index(self.first) <= STAGES.index(stage.partition(".")[0]) <= STAGES.index(self.last)

    def reached(self, stage: str) -> bool:
        """Whether the run goes at least as far as `stage`."""
        return STAGES.index(stage) <= STAGES.index(self.last)


@dataclass(frozen=True)
class Artifact:
    """A published artifact, or (in a dry run) one that would be made: then `manifest` is None."""

    store: Store
    stage: str
    path: str
    fingerprint: str
    manifest: Manifest | None

    @property
    def url(self) -> str:
        return self.store.url(self.path)

    @property
    def extra(self) -> dict[str, Any]:
        """What the stage published beside its files."""
        return {} if self.manifest is None else self.manifest.extra

    def as_input(self) -> InputRef:
        return InputRef(name=self.stage, url=self.url, fingerprint=self.fingerprint)


@dataclass
class Build:
    """What a stage's function gets: a folder to write to, progress to show, and a record to fill."""

    staging: Staging
    progress: StageProgress
    fingerprint: str
    notes: dict[str, Any] = field(default_factory=dict)
    rows: int | None = None
    checksums: dict[str, str] = field(default_factory=dict)


class Engine:
    """Runs stages of one run against one store. The Spark session starts when the first stage needs it."""

    def __init__(
        self,
        store: Store,
        settings: RunSettings,
        run: RunRecord,
        board: Board,
        selection: Selection,
        spark_log: Path | None = None,
    ) -> None:
        self.store, self.settings, self.run, self.board, self.selection = store, settings, run, board, selection
        self.spark_log = spark_log or log_folder(run.run_id) / SPARK_LOG
        self.planned: list[tuple[str, str]] = []
        self._spark: SparkSession | None = None
        self._last_execution = -1

    @property
    def spark(self) -> SparkSession:
        """The Spark session, started at first use."""
        if self._spark is None:
            from pyspark.sql import SparkSession

            from sparkml.spark_session import session

            began, running = time.monotonic(), SparkSession.getActiveSession() is not None
            conf = {**{key: str(value) for key, value in self.store.backend.spark_conf().items()}, **self.settings.spark.conf}
            self._spark = session(
                self.settings.spark.master,
                app_name=f"{self.settings.spark.app_name} {self.run.run_id}",
                conf=conf,
                jvm_log=self.spark_log,
            )
            if running:  # of the date before
                self.executed_plans()
            else:
                self.board.line(
                    f"Spark {self._spark.version} on {self._spark.sparkContext.master} in {time.monotonic() - began:.1f} s"
                )
            self.board.watch_spark(self._task_counts, LostExecutors(self._spark.sparkContext))
        return self._spark

    def artifact(
        self,
        stage: str,
        *,
        kind: str,
        settings: Any,
        inputs: Sequence[InputRef],
        rooms: Sequence[str],
        build: Callable[[Build], dict[str, Any]],
    ) -> Artifact:
        """Return the artifact of a stage, building and publishing it when its fingerprint is new.

        Parameters
        ----------
        settings
            The part of the settings that determines the output (JSON-serialisable).
        rooms
            The rooms of sparkml whose code determines the output.
        build
            Writes below ``build.staging`` and returns the manifest's ``extra``. Not called when nothing changed.
        """
        parts = {
            "settings": fingerprint(settings),
            "inputs": fingerprint([(item.name, item.fingerprint) for item in inputs]),
            "code": code_fingerprint(*rooms),
        }
        mark = fingerprint({"stage": stage, **parts})
        path = f"datasets/{self.run.pipeline}/{stage.replace('.', '/')}/{mark}"
        record = StageRecord(
            stage=stage,
            status="skipped",
            started=now(),
            seconds=0.0,
            fingerprint=mark,
            parts=parts,
            artifact=self.store.url(path),
            inputs=list(inputs),
            settings=settings if isinstance(settings, dict) else {"value": settings},
        )
        done = self._done(path)
        wanted = self.selection.wanted(stage)
        if done is not None and not (wanted and self.selection.force):
            return self._skip(record, path, done)
        if self.selection.dry_run:
            self.planned.append((stage, f"would run: {self._why(record)}"))
            return Artifact(self.store, stage, path, mark, None)
        if not wanted:
            raise ConfigError(
                f"stage {stage!r} has no artifact for the present input and settings ({self._why(record)}) and is left out",
                hint=f"run it too: --from {stage.partition('.')[0]}, or without --from",
            )
        return self._build(record, path, kind, build, replace=done is not None)

    def _skip(self, record: StageRecord, path: str, manifest: Manifest) -> Artifact:
        record.bytes, record.rows = manifest.size, manifest.extra.get("rows")
        record.notes = {"made_by": manifest.lineage.get("run_id"), "seconds_then": manifest.lineage.get("seconds")}
        self.planned.append((record.stage, "up to date"))
        if not self.selection.dry_run:
            self.board.skipped(record.stage, f"unchanged since {manifest.created}")
            self.add_record(record)
        return Artifact(self.store, record.stage, path, record.fingerprint, manifest)

    def _build(
        self, record: StageRecord, path: str, kind: str, build: Callable[[Build], dict[str, Any]], *, replace: bool
    ) -> Artifact:
        began, retried = time.monotonic(), retries.taken()
        with self.board.stage(record.stage) as progress, self.store.stage() as staging:
            work = Build(staging, progress, record.fingerprint)
            try:
                extra = build(work)
                if work.rows is not None:
                    extra = {"rows": work.rows, **extra}
                if replace:
                    self.store.remove(path)
                lineage = {
                    "run_id": self.run.run_id,
                    "stage": record.stage,
                    **({"date": self.run.date} if self.run.date else {}),
                    "seconds": round(time.monotonic() - began, 3),
                    "parts": record.parts,
                    "inputs": [item.model_dump() for item in record.inputs],
                    "versions": self.run.versions,
                }
                manifest, _ = self.store.publish(
                    staging,
                    path,
                    kind=kind,
                    fingerprint=record.fingerprint,
                    lineage=lineage,
                    extra=extra,
                    checksums=work.checksums,
                )
            except BaseException as error:
                shown = explained(error, record.stage)
                record.status, record.error = "failed", redact(str(shown) or type(shown).__name__)
                if shown is error:
                    raise
                raise shown from error
            else:
                record.status, record.bytes, record.rows = "ran", manifest.size, work.rows
            finally:
                record.seconds, record.notes = round(time.monotonic() - began, 3), work.notes
                record.plan, record.retries = self.executed_plans(), dict(retries.taken() - retried)
                self.add_record(record)
        return Artifact(self.store, record.stage, path, record.fingerprint, manifest)

    def add_record(self, record: StageRecord) -> None:
        """Add a stage's record to the run and write both, with the OpenLineage events."""
        self.run.stages.append(record)
        try:
            save_run(self.store, self.run)
            save_events(self.store, self.run)
        except StorageError as error:
            if record.status != "failed":  # a failing store must not hide the error that is on its way to the user
                raise
            log.error("the run record could not be written: %s", error)

    def _done(self, path: str) -> Manifest | None:
        """The manifest of a whole artifact; a torn or altered one counts as not there and is built anew."""
        if not self.store.exists(f"{path}/_MANIFEST.json"):
            return None
        try:
            return self.store.manifest(path)
        except StorageError as error:
            self.board.line(f"warning: {error.message}; it is made again")
            return None  # and stays until publish has something to put in its place

    def _why(self, record: StageRecord) -> str:
        """What changed since the last run of this stage, in words."""
        for run in all_runs(self.store):
            if (run.pipeline, run.date) != (self.run.pipeline, self.run.date) or run.run_id == self.run.run_id:
                continue
            for old in run.stages:
                if old.stage == record.stage and old.status != "failed" and old.parts:
                    changed = [part for part, value in record.parts.items() if old.parts.get(part) != value]
                    return (
                        f"{' and '.join(changed)} changed since {run.run_id}" if changed else "its artifact is gone or was forced"
                    )
        return "never ran before"

    # --- Spark's own account ---

    def executed_plans(self, limit: int = 20_000) -> str:
        """Return the physical plans of the SQL executions since the last call, cut at `limit` characters."""
        if self._spark is None:
            return ""
        try:
            executions = self._spark._jsparkSession.sharedState().statusStore().executionsList()  # type: ignore[attr-defined]
            plans: list[str] = []
            newest = self._last_execution
            for index in reversed(range(executions.size())):  # by id: Spark forgets the oldest of a long backfill
                execution = executions.apply(index)
                if execution.executionId() <= self._last_execution:
                    break
                newest = max(newest, execution.executionId())
                plans.insert(0, execution.physicalPlanDescription())
            self._last_execution = newest
        except Exception as error:  # the JVM may be the very thing that failed
            log.warning("no Spark plans: %s", error)
            return ""
        return redact("\n\n".join(plans))[:limit]

    def _task_counts(self) -> tuple[int, int]:
        assert self._spark is not None
        tracker = self._spark.sparkContext.statusTracker()
        infos = [info for info in map(tracker.getStageInfo, tracker.getActiveStageIds()) if info is not None]
        return sum(info.numCompletedTasks for info in infos), sum(info.numTasks for info in infos)

    def fail(self, error: BaseException) -> None:
        """Write the end of a failed run."""
        self.run.error = redact(str(error) or type(error).__name__)
        self.run.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self.run.exit_code = (
            error.exit_code if isinstance(error, SparkmlError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        )
        self.run.ended = now()
        try:
            save_run(self.store, self.run)
        except StorageError as problem:
            log.error("the run record could not be written: %s", problem)
