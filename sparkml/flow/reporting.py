"""Gathers what the report shows from the run's record and artifacts, and writes ``runs/<run_id>/report.html``."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np

from sparkml.config import Layered, redact
from sparkml.contract.report import ContractReport
from sparkml.evaluate.evaluation import Evaluation
from sparkml.evaluate.report import png_data_uri, render_report
from sparkml.evaluate.report_data import (
    BadRow,
    CandidateReport,
    ColumnSummary,
    ContractSummary,
    FeatureSummary,
    InputFile,
    LineageNode,
    Outcome,
    Picture,
    ReportData,
    SettingRow,
    StageRow,
)
from sparkml.features.report import FeaturesReport
from sparkml.flow.engine import Engine
from sparkml.lineage.records import RunRecord, StageRecord
from sparkml.settings import Settings
from sparkml.storage import Store

MOST_PICTURES = 24


def write_report(engine: Engine, settings: Settings, layered: Layered) -> str:
    """Render the report of the run so far into the store; return its URL. Reads artifacts only: no JVM is started for it."""
    data = gather(engine.store, engine.run, settings, layered)
    path = f"runs/{engine.run.run_id}/report.html"
    engine.store.replace(path, redact(render_report(data)).encode())
    return engine.store.url(path)


def gather(store: Store, run: RunRecord, settings: Settings, layered: Layered) -> ReportData:
    """Return everything on the page of a run."""
    stages = {stage.stage: stage for stage in run.stages}
    began, ended = datetime.fromisoformat(run.started), datetime.fromisoformat(run.ended) if run.ended else None
    nodes, edges = _lineage(run)
    return ReportData(
        run_id=run.run_id,
        pipeline=f"{run.pipeline} {run.date}" if run.date else run.pipeline,
        description=settings.description,
        status=run.status,
        started=run.started,
        ended=run.ended,
        seconds=(ended - began).total_seconds() if ended else None,
        command=run.command,
        outcome=_outcome(run, settings),
        error=run.error,
        stages=[_stage_row(stage) for stage in run.stages],
        files=[InputFile.model_validate(item, extra="ignore") for source in _inputs(stages, "ingest") for item in source.files],
        contract=_contract(store, stages),
        columns=_columns(store, stages),
        features=_features(store, stages),
        candidates=[_candidate(store, settings, stages, name) for name in _evaluated(settings, stages)],
        lineage_nodes=nodes,
        lineage_edges=edges,
        settings=_settings(layered),
        versions=run.versions,
    )


def _inputs(stages: dict[str, StageRecord], stage: str) -> list[Any]:
    return stages[stage].inputs if stage in stages else []


def _evaluated(settings: Settings, stages: dict[str, StageRecord]) -> list[str]:
    done = {name for name, stage in stages.items() if stage.status != "failed"}
    return [name for name in settings.train.candidates if f"evaluate.{name}" in done]


def _stage_row(stage: StageRecord) -> StageRow:
    kept = ("stage", "status", "seconds", "rows", "artifact", "fingerprint", "error")
    return StageRow.model_validate({name: getattr(stage, name) for name in kept})


def _outcome(run: RunRecord, settings: Settings) -> Outcome:
    decision = run.result.get("decision")
    if not decision:
        return Outcome()
    first = settings.evaluate.for_task(settings.target.task)[0].plugin_name()
    return Outcome(
        candidate=decision["candidate"],
        metric=settings.registration.metric or first,
        outcome=decision["outcome"],
        version=run.result.get("version") or "",
        decision=decision["reason"],
    )


def _extra(store: Store, stages: dict[str, StageRecord], stage: str) -> dict[str, Any]:
    if stage not in stages or stages[stage].status == "failed":
        return {}
    return store.manifest(_path(store, stages[stage])).extra


def _path(store: Store, stage: StageRecord) -> str:
    return stage.artifact.removeprefix(f"{store.root}/")


def _contract(store: Store, stages: dict[str, StageRecord]) -> ContractSummary | None:
    extra = _extra(store, stages, "contract")
    if not extra:
        return None
    report = ContractReport.model_validate(extra["report"])
    return ContractSummary(
        rows=report.rows,
        good=report.good,
        bad=report.bad,
        by_rule=report.by_rule,
        quarantine_url=store.url(extra["quarantine"]) if report.bad else "",
        examples=[BadRow(rules=item.rules, raw=item.raw) for item in report.examples],
    )


def _columns(store: Store, stages: dict[str, StageRecord]) -> list[ColumnSummary]:
    extra = _extra(store, stages, "contract")
    if not extra:
        return []
    return [
        ColumnSummary(name=name, **stats.model_dump())
        for name, stats in ContractReport.model_validate(extra["report"]).columns.items()
        if not name.startswith("_")
    ]


def _features(store: Store, stages: dict[str, StageRecord]) -> FeatureSummary | None:
    extra = _extra(store, stages, "features")
    if not extra:
        return None
    report = FeaturesReport.model_validate(extra["report"])
    return FeatureSummary(names=report.feature_names, shape=report.shape, balance=report.class_counts)


def _candidate(store: Store, settings: Settings, stages: dict[str, StageRecord], name: str) -> CandidateReport:
    trained, evaluated = stages[f"train.{name}"], stages[f"evaluate.{name}"]
    trainer = settings.train.candidates[name]
    evaluation = Evaluation.model_validate(store.read_json(f"{_path(store, evaluated)}/evaluation.json"))
    seconds = trained.seconds if trained.status == "ran" else trained.notes.get("seconds_then")
    return CandidateReport(
        name=name,
        trainer=trainer.plugin_name(),
        seconds=seconds,
        evaluation=evaluation,
        history=store.read_json(f"{_path(store, trained)}/history.json"),
        settings=trainer.options.model_dump(mode="json", exclude_unset=True),
        pictures=_pictures(store, stages, evaluation, settings.features.output),
    )


def _pictures(store: Store, stages: dict[str, StageRecord], evaluation: Evaluation, features: str) -> list[Picture]:
    """The worst mistakes as images, where a row's features are one; read with PyArrow by key."""
    import pyarrow.dataset as dataset

    extra = _extra(store, stages, "features")
    shape = FeaturesReport.model_validate(extra["report"]).shape if extra else []
    if len(shape) not in (2, 3) or not evaluation.worst:
        return []
    mistakes = evaluation.worst[:MOST_PICTURES]
    key = next(iter(mistakes[0].key))
    rows = dataset.dataset(store.at(f"{_path(store, stages['features'])}/rows/_split=test"), filesystem=store.fs)
    wanted = dataset.field(key).isin([mistake.key[key] for mistake in mistakes])
    found = {row[key]: row[features] for row in rows.to_table(filter=wanted).to_pylist()}
    pictures = []
    for mistake in mistakes:
        vector = found.get(mistake.key[key])
        if vector is None:
            continue
        pixels = np.asarray(vector["values"], dtype=np.float64)
        if vector["indices"] is not None:  # sparse: mostly background
            dense = np.zeros(int(np.prod(shape)))
            dense[vector["indices"]] = pixels
            pixels = dense
        names = evaluation.classes
        pictures.append(
            Picture(
                src=png_data_uri(_grey_levels(pixels).reshape(shape)),
                truth=names[int(mistake.label)],
                predicted=names[int(mistake.prediction)],
                probability=mistake.probability,
            )
        )
    return pictures


def _grey_levels(pixels: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    low, high = float(pixels.min()), float(pixels.max())
    levels: np.ndarray[Any, np.dtype[np.uint8]] = ((pixels - low) / (high - low or 1.0) * 255).astype(np.uint8)
    return levels


def _lineage(run: RunRecord) -> tuple[list[LineageNode], list[tuple[str, str]]]:
    nodes: dict[str, LineageNode] = {}
    edges: list[tuple[str, str]] = []
    for stage in run.stages:
        if not stage.artifact:
            continue
        kind = {"train": "model", "register": "model", "score": "predictions"}.get(stage.stage.partition(".")[0], "data")
        nodes[stage.artifact] = LineageNode.model_validate(
            {"id": stage.artifact, "label": stage.stage, "kind": kind, "detail": stage.fingerprint}
        )
        for item in stage.inputs:
            for file in item.files[:8]:
                name = str(file["path"])
                nodes[name] = LineageNode(id=name, label=name.rpartition("/")[2], kind="file", detail=f"{file['size']:,} bytes")
                edges.append((name, stage.artifact))
            if not item.files:
                edges.append((item.url, stage.artifact))
    if run.result.get("version"):
        for stage in run.stages:
            if stage.stage == "register" and stage.artifact:
                nodes[stage.artifact] = nodes[stage.artifact].model_copy(update={"label": run.result["version"]})
    return list(nodes.values()), [(start, end) for start, end in edges if start in nodes and end in nodes]


def _settings(layered: Layered) -> list[SettingRow]:
    return [
        SettingRow(key=path, value=redact(json.dumps(value, ensure_ascii=False)), origin=str(layered.origin(path) or "default"))
        for path, value in layered.leaves()
    ]
