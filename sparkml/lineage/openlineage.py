"""Standard OpenLineage events of every stage, appended to ``runs/<run_id>/openlineage.ndjson`` (spec: openlineage.io, 2-0-2)."""

from __future__ import annotations

import json
import uuid
from typing import Any

from sparkml.config import redact
from sparkml.lineage.records import RunRecord, StageRecord, now
from sparkml.storage import Store

PRODUCER = "https://github.com/OpenLineage/OpenLineage/tree/1.0/client/python"
_NAMESPACE = uuid.UUID("5d6a0c5e-6e0c-4f3a-9a51-7d4d7f1f6f10")
_STATES = {"ran": "COMPLETE", "skipped": "COMPLETE", "failed": "FAIL"}


def events(run: RunRecord, stage: StageRecord) -> list[dict[str, Any]]:
    """Return the START and the COMPLETE or FAIL event of a finished stage as JSON objects of the standard."""
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import error_message_run, nominal_time_run, parent_run
    from openlineage.client.serde import Serde

    run_uuid = str(uuid.uuid5(_NAMESPACE, f"{run.run_id}/{run.attempts}/{stage.stage}"))
    job = Job(namespace="sparkml", name=f"{run.pipeline}.{stage.stage}")
    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(runId=str(uuid.uuid5(_NAMESPACE, run.run_id))),
        job=parent_run.Job(namespace="sparkml", name=run.pipeline),
    )
    facets: dict[str, Any] = {"parent": parent}
    if run.date:  # what the run is for, which is not when it ran
        facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(nominalStartTime=f"{run.date}T00:00:00Z")
    if stage.error:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message=redact(stage.error), programmingLanguage="python")
    inputs = [InputDataset(*_dataset(file["path"])) for item in stage.inputs for file in item.files]
    inputs += [InputDataset(*_dataset(item.url)) for item in stage.inputs if not item.files]
    outputs = [OutputDataset(*_dataset(stage.artifact))] if stage.artifact else []

    def event(state: str, when: str) -> dict[str, Any]:
        made = RunEvent(
            eventType=RunState[state],
            eventTime=when,
            run=Run(runId=run_uuid, facets=facets),
            job=job,
            inputs=inputs,
            outputs=outputs,
            producer=PRODUCER,
        )
        return dict(json.loads(Serde.to_json(made)))

    return [event("START", stage.started), event(_STATES[stage.status], now())]


def save_events(store: Store, run: RunRecord) -> None:
    """Write the events of all stages of a run so far."""
    lines = [json.dumps(event) for stage in run.stages for event in events(run, stage)]
    store.replace(f"runs/{run.run_id}/openlineage.ndjson", ("\n".join(lines) + "\n").encode())


def _dataset(url: str) -> tuple[str, str]:
    """Namespace and name by the standard's naming rules: ``file`` + path, ``s3a://bucket`` + key."""
    if "://" not in url:
        return "file", url
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return (f"{scheme}://{host}" if host else scheme), f"/{path}"
