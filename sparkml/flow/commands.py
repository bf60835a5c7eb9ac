"""What the smaller commands do: score files, list runs and models, find a report, trace lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import yaml

from sparkml.config import suggest
from sparkml.errors import ConfigError, SparkmlError, StorageError
from sparkml.flow.dates import parse_date, with_date
from sparkml.flow.engine import Engine, Selection
from sparkml.flow.faults import explained
from sparkml.flow.scoring import score_files
from sparkml.ingest.files import InputFile, scan
from sparkml.lineage.records import RunRecord, all_runs, load_run, now, save_run, start_run
from sparkml.lineage.trace import Node, trace, trace_output
from sparkml.observe.logs import log_folder, logging_to
from sparkml.observe.progress import Board
from sparkml.registry.registry import Registry
from sparkml.settings import load_run_settings
from sparkml.storage import Store


def score_command(
    model: str,
    inputs: list[str],
    output: str,
    env: str | None,
    source: str | None,
    partition_by: list[str],
    assignments: list[str],
    verbose: bool,
    day: str | None = None,
) -> dict[str, Any]:
    """Score raw files with a registered model; return what was written, for people and for ``--json``.

    A ``{date}`` in the inputs, the output, `source` or in how the model reads its input is filled in with `day`.
    """
    settings = load_run_settings(env, assignments)
    store = Store(settings.store)
    version = Registry(store).resolve(model)
    try:
        override = yaml.safe_load(source) if source else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"--source {source!r} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(override, dict):
        raise ConfigError(f"--source {source!r} must be a YAML mapping", hint="--source '{type: parquet}'")
    when = None if day is None else parse_date(day)
    recorded = {key: item for key, item in version.bundle.source.items() if key != "path"}
    inputs, output, override, recorded = with_date([inputs, output, override, recorded], when, f"score with {version.label}")
    version = replace(version, bundle=version.bundle.model_copy(update={"source": {**version.bundle.source, **recorded}}))
    run = start_run(version.bundle.pipeline, env, settings.model_dump(mode="json"), {}, str(when) if when else None)
    with Board() as board, logging_to(log_folder(run.run_id) / "run.log", verbose=verbose):
        engine = Engine(store, settings, run, board, Selection())
        try:
            manifest, contract = score_files(engine, version, inputs, output, partition_by=partition_by, source=override)
            run.status, run.ended = "done", now()
            save_run(store, run)
        except BaseException as error:
            shown = explained(error, "score")
            engine.fail(shown)
            if shown is error:
                raise
            raise shown from error
    return {
        "schema_version": 1,
        "run_id": run.run_id,
        "model": version.label,
        "output": output,
        "rows": contract["good"],
        "quarantined": contract["bad"],
        "quarantine": contract["quarantine"],
        "fingerprint": manifest.fingerprint,
    }


def list_runs(pipeline: str | None, env: str | None, assignments: list[str], limit: int) -> list[dict[str, Any]]:
    """Return the newest runs as rows of plain values."""
    found = []
    for run in all_runs(Store(load_run_settings(env, assignments).store)):
        if pipeline not in (None, run.pipeline):
            continue
        found.append(
            {
                "run_id": run.run_id,
                "pipeline": run.pipeline,
                "date": run.date or "",
                "status": run.shown_status(),
                "started": run.started[:19],
                "seconds": _seconds(run),
                "stages": " ".join(f"{stage.stage}:{stage.status}" for stage in run.stages),
                "result": outcome_of(run),
                "report": run.report,
                "error": run.error,
            }
        )
        if len(found) >= limit:
            break
    return found


def _seconds(run: RunRecord) -> float | None:
    if not run.ended:
        return None
    return round((datetime.fromisoformat(run.ended) - datetime.fromisoformat(run.started)).total_seconds(), 1)


def outcome_of(run: RunRecord) -> str:
    """Return what came of a run in a line: the version, or why there is none and how to go on."""
    if run.shown_status() in {"failed", "killed", "interrupted"}:
        reason = run.error.splitlines()[0][:60] if run.error else "the process is gone"
        return f"{reason}; {run.resume}" if run.resume else reason
    decision = run.result.get("decision")
    return f"{run.result.get('version') or decision['candidate']} {decision['outcome']}" if decision else ""


def list_models(name: str | None, env: str | None, assignments: list[str]) -> list[dict[str, Any]]:
    """Return every version of one or all models as rows of plain values."""
    store = Store(load_run_settings(env, assignments).store)
    registry = Registry(store)
    known = registry.names()
    if name is not None and name not in known:
        raise ConfigError(f"no model {name!r} in {store.root}; {suggest(name, known)}")
    rows = []
    for model in [name] if name else known:
        aliases = registry.aliases(model)
        for number in reversed(registry.versions(model)):
            try:
                version = registry.get(model, number)
                evaluation = store.read_json(f"{version.path}/evaluation.json")
            except StorageError as error:
                rows.append({"model": f"{model}@{number}", "metrics": f"unusable: {error.message}"})
                continue
            metrics = [(key, item["value"]) for key, item in evaluation["metrics"].items()][:3]
            rows.append(
                {
                    "model": version.label,
                    "aliases": ", ".join(alias for alias, at in aliases.items() if at == number),
                    "candidate": version.bundle.candidate,
                    "metrics": "  ".join(f"{key} {value:.4f}" for key, value in metrics),
                    "created": version.manifest.created[:19],
                    "run_id": version.manifest.lineage.get("run_id", ""),
                }
            )
    return rows


def report_path(what: str, env: str | None, assignments: list[str]) -> dict[str, str]:
    """Return the report of a run, or of a pipeline's newest run that has one."""
    store = Store(load_run_settings(env, assignments).store)
    newest = next((run for run in all_runs(store) if run.pipeline == what and run.report), None)
    run = newest or load_run(store, what)
    if not run.report:
        raise ConfigError(
            f"run {run.run_id} ended before its report ({run.shown_status()})",
            hint=f"sparkml run {run.pipeline} --resume {run.run_id}",
        )
    return {"run_id": run.run_id, "report": run.report}


def lineage_tree(what: str, env: str | None, assignments: list[str]) -> Node:
    """Return the tree of a model reference, an artifact of the store, or an output folder anywhere."""
    store = Store(load_run_settings(env, assignments).store)
    if "/" not in what:
        version = Registry(store).resolve(what)
        return trace(store, version.path, version.label, raw_file_state)
    if what.startswith(f"{store.root}/"):
        path = what.removeprefix(f"{store.root}/")
        if not store.exists(f"{path}/_MANIFEST.json"):
            raise ConfigError(f"{what} is no artifact of the store: it has no _MANIFEST.json", hint="sparkml models")
        return trace(store, path, path.split("/")[-2], raw_file_state)
    output = Store(what)
    if not output.exists("_MANIFEST.json"):
        raise ConfigError(
            f"{what} has no _MANIFEST.json: neither an artifact nor an output of sparkml score", hint="sparkml models"
        )
    return trace_output(output, store, raw_file_state)


def raw_file_state(recorded: dict[str, Any]) -> tuple[str, str]:
    """Say how a raw file stands today against what was recorded of it."""
    old = InputFile.model_validate(recorded)
    try:
        new = _scan_again(old)
    except (SparkmlError, OSError):
        return "missing", f"was {old.size:,} bytes, sha256 {old.sha256[:16]}"
    if new.sha256 != old.sha256:
        return "changed", f"sha256 {old.sha256[:16]} then, {new.sha256[:16]} now; {old.size:,} -> {new.size:,} bytes"
    return "ok", ""


def _scan_again(old: InputFile) -> InputFile:
    found: Sequence[InputFile] = scan([old.path], {})
    return found[0]
