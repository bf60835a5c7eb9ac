"""One run from settings to report: the order of the stages, the lease, the record, and what a failure leaves behind."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from sparkml.config import Layered, redact
from sparkml.errors import ConfigError, SparkmlError
from sparkml.flow.dates import settings_of
from sparkml.flow.engine import SPARK_LOG, STAGES, Artifact, Build, Engine, Selection
from sparkml.flow.pipeline import Pipeline, Trained
from sparkml.flow.registration import Registration
from sparkml.flow.reporting import write_report
from sparkml.flow.scoring import predict, shown
from sparkml.lineage.records import InputRef, RunRecord, load_run, now, restart_run, save_run, start_run
from sparkml.observe.logs import log_folder, logging_to
from sparkml.observe.progress import Board
from sparkml.registry.registry import ModelVersion
from sparkml.settings import Settings
from sparkml.storage import Store
from sparkml.storage.lease import lease

log = logging.getLogger(__name__)

_DATE_OPTIONS = ("--date", "--from-date", "--to-date")
_BACKFILL_FLAGS = ("--keep-going", "--skip-missing")


def run_pipeline(
    settings: Settings,
    layered: Layered,
    *,
    env: str | None,
    selection: Selection,
    resume: str | None,
    board: Board,
    verbose: bool = False,
    day: date | None = None,
    spark_log: Path | None = None,
) -> RunRecord:
    """Run a pipeline and return its record.

    Parameters
    ----------
    settings
        As they were loaded; a ``{date}`` in the source is filled in here.
    spark_log
        Where the JVM of a session that outlives the run prints; what it prints meanwhile is kept with the run.

    Raises
    ------
    SparkmlError
        A stage failed. The run record says so, finished stages are kept, and the error's hint holds the resume command.
    """
    store = Store(settings.store)
    record = _record(store, settings, layered, env, resume, day)
    settings = settings_of(settings, day)
    if selection.dry_run:
        engine = Engine(store, settings, record, board, selection)
        _stages(engine, settings)
        record.result = {"plan": [{"stage": stage, "action": action} for stage, action in engine.planned]}
        return record
    of = f" of {day}" if day else ""
    lease_path = f"_leases/pipeline-{settings.pipeline}{f'@{day}' if day else ''}.json"
    spark_log = spark_log or log_folder(record.run_id) / SPARK_LOG
    with (
        lease(store, lease_path, {"run_id": record.run_id}, what=f"pipeline {settings.pipeline!r}{of}"),
        _logged(store, record, spark_log, verbose=verbose),
        board,
    ):
        store.sweep()
        engine = Engine(store, settings, record, board, selection, spark_log)
        record.resume = resume_command(record)
        save_run(store, record)
        board.line(f"run {record.run_id}{of}" + (f" (attempt {record.attempts})" if record.attempts > 1 else ""))
        try:
            record.result = _stages(engine, settings)
            record.status, record.ended = "done", now()
            if selection.reached("report") and not (day and idle(record) and selection.first != "report" and resume is None):
                record.report = write_report(engine, settings, layered)
            save_run(store, record)
        except BaseException as error:
            engine.fail(error)
            if isinstance(error, SparkmlError):
                report = _report_of_failure(engine, settings, layered)
                hints = [error.hint, report and f"report: {report}", f"then go on with: {record.resume}"]
                error.hint = "\n     ".join(filter(None, hints))
            elif isinstance(error, KeyboardInterrupt):
                board.line(f"interrupted, go on with: {record.resume}")
            raise
    return record


def idle(record: RunRecord) -> bool:
    """Whether every stage of a run was up to date."""
    return all(stage.status == "skipped" for stage in record.stages)


def _report_of_failure(engine: Engine, settings: Settings, layered: Layered) -> str:
    """Write what there is to see of a failed run; nothing when that fails too."""
    if not engine.run.stages:
        return ""
    try:
        engine.run.report = write_report(engine, settings, layered)
        save_run(engine.store, engine.run)
    except Exception as problem:
        log.error("no report of the failed run: %s", problem)
    return engine.run.report


def resume_command(record: RunRecord) -> str:
    """Return the command that takes a failed or killed run up again; of a dated run it names the day, whatever was typed."""
    words, skip = [], False
    job = Path(sys.argv[0])
    inserted = job.suffix == ".py" and job.name != "cli.py"  # a job puts its command's name before what was typed
    for word in sys.argv[2 if inserted else 1 :]:
        option = word.partition("=")[0]
        if skip or option in {"--resume", *_DATE_OPTIONS, *_BACKFILL_FLAGS}:
            skip = not skip and word == option and option not in _BACKFILL_FLAGS
            continue
        words.append(word)
    dated = f" --date {record.date}" if record.date else ""
    return redact(f"{_program()} {shlex.join(words)}{dated} --resume {record.run_id}")


def _program() -> str:
    """How this process was started, as one types it; what starts it on a cluster says so by a variable."""
    if said := os.environ.get("SPARKML_PROGRAM"):
        return said
    started = Path(sys.argv[0])
    if started.name == "cli.py":
        return f"{sys.executable} -m sparkml.cli"
    if started.suffix == ".py":
        return f"spark-submit {started}"
    return started.name if shutil.which(started.name) else str(started)


def _record(
    store: Store, settings: Settings, layered: Layered, env: str | None, resume: str | None, day: date | None
) -> RunRecord:
    origins = {path: str(origin) for path, origin in layered.origins.items()}
    dumped = settings.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if resume is None:
        return start_run(settings.pipeline, env, dumped, origins, str(day) if day else None)
    record = load_run(store, resume)
    if record.pipeline != settings.pipeline:
        raise ConfigError(f"--resume {resume}: that is a run of the pipeline {record.pipeline!r}, not of {settings.pipeline!r}")
    if record.date != (str(day) if day else None):
        raise ConfigError(
            f"--resume {resume}: that is a run {f'of {record.date}' if record.date else 'without a date'}", hint=record.resume
        )
    if record.alive():
        raise ConfigError(f"--resume {resume}: that run is still going (pid {record.pid} on {record.host})", hint="sparkml runs")
    if record.status == "done":
        raise ConfigError(f"--resume {resume}: that run is done", hint="run it without --resume: only what changed is done again")
    if record.settings != dumped:
        changed = sorted(key for key in {**record.settings, **dumped} if record.settings.get(key) != dumped.get(key))
        log.warning("the settings changed since %s: %s", resume, ", ".join(changed))
    return restart_run(record.model_copy(update={"settings": dumped, "origins": origins}))


def _stages(engine: Engine, settings: Settings) -> dict[str, Any]:
    """Run the selected stages in their order; return what the run's summary shows."""
    pipeline, reached = Pipeline(engine, settings), engine.selection.reached
    table = pipeline.ingest()
    result: dict[str, Any] = {"store": engine.store.root}
    if not reached("contract"):
        return result
    good = pipeline.contract(table)
    if not reached("features"):
        return result
    features = pipeline.features(good)
    if not reached("train"):
        return result
    trained = pipeline.train(features)
    if not reached("evaluate"):
        return result
    trained = pipeline.evaluate(features, trained)
    registration = Registration(engine, settings)
    if engine.selection.dry_run:
        fresh = all(item.evaluated and item.evaluated.manifest for item in trained)
        finished = registration.finished(good, trained) if fresh else set()
        otherwise = "depends on the champion at that time" if fresh else "would run: its input changes"
        later = [stage for stage in STAGES[5:] if reached(stage)]
        engine.planned += [(stage, "up to date" if stage in finished else otherwise) for stage in later]
        return result
    result["candidates"] = {item.name: _headline(item) for item in trained}
    if not reached("register"):
        return result
    decision, version = registration.register(good, features, trained)
    result["decision"] = asdict(decision)
    result["version"] = version.label if version else None
    if reached("score"):
        scorer = registration.scorer(good, trained)
        result["predictions"] = score_own_input(engine, settings, good, scorer).url
        result["scored_by"] = scorer.label
        registration.remember_scorer(good, trained, scorer)
    return result


def _headline(item: Trained) -> dict[str, Any]:
    metrics = item.evaluation.metrics
    return {name: {"value": found.value, "low": found.low, "high": found.high} for name, found in metrics.items()}


def score_own_input(engine: Engine, settings: Settings, good: Artifact, version: ModelVersion) -> Artifact:
    """The score stage of a pipeline run: the champion predicts the pipeline's own good rows."""

    def build(work: Build) -> dict[str, Any]:
        engine.store.verify(version.path)
        rows = engine.spark.read.parquet(f"{good.url}/rows")
        predictions = shown(predict(engine.spark, version, engine.store.url(version.path), rows), rows.columns, version)
        writer = predictions.write
        by = settings.score.partition_by
        (writer.partitionBy(*by) if by else writer).parquet(f"{work.staging.url}/predictions")
        work.rows = good.extra.get("rows")
        work.progress.note(f"{work.rows:,} rows by {version.label}")
        return {"model": version.label, "model_fingerprint": version.manifest.fingerprint}

    model = InputRef(name=version.label, url=engine.store.url(version.path), fingerprint=version.manifest.fingerprint)
    return engine.artifact(
        "score",
        kind="predictions",
        settings={"model": version.label, "partition_by": settings.score.partition_by},
        inputs=[good.as_input(), model],
        rooms=("score", "features", "estimators"),
        build=build,
    )


@contextmanager
def _logged(store: Store, record: RunRecord, spark_log: Path, *, verbose: bool) -> Iterator[None]:
    """Log into a local file while the run goes on, and keep the logs with the run."""
    folder = log_folder(record.run_id)
    printed_before = spark_log.stat().st_size if spark_log.exists() and spark_log.parent != folder else 0
    try:
        with logging_to(folder / "run.log", verbose=verbose):
            try:
                yield
            except SparkmlError:
                log.info("the run failed", exc_info=True)  # the terminal gets the message, the file the traceback too
                raise
            except Exception:
                log.exception("the run failed: a bug in sparkml")
                raise
    finally:
        logs = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.log"))}
        if spark_log.exists():
            logs[SPARK_LOG] = spark_log.read_bytes()[printed_before:]
        for name, text in logs.items():
            try:
                store.replace(f"runs/{record.run_id}/logs/{name}", redact(text.decode(errors="replace")).encode())
            except SparkmlError as error:
                print(f"the log {folder / name} could not be copied to the store: {error.message}", file=sys.stderr)
