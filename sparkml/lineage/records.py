"""Run and stage records: what ran, on what, with which settings and code, for how long, and what came out."""

from __future__ import annotations

import getpass
import os
import platform
import re
import secrets
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from sparkml.config import redact
from sparkml.errors import ConfigError, StorageError
from sparkml.storage import Store
from sparkml.storage.owner import owner_alive, this_process

Status = Literal["running", "done", "failed", "interrupted"]
SCHEMA = 1
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}")


def now() -> str:
    """Return this instant in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def versions() -> dict[str, str]:
    """Return the versions that can change a result, without importing the packages."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in (
        "sparkml",
        "pyspark",
        "numpy",
        "pandas",
        "pyarrow",
        "tensorflow-cpu",
        "tensorflow",
        "keras",
        "horovod",
        "torch",
    ):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class InputRef(BaseModel):
    """One input of a stage: another artifact, or raw files (then `files` lists path, size, modified and sha256)."""

    name: str
    url: str
    fingerprint: str
    files: list[dict[str, Any]] = []


class StageRecord(BaseModel):
    """One stage of one run.

    Attributes
    ----------
    parts
        The hashes whose change makes the stage stale.
    retries
        How often the driver tried something of a storage service again, by service.
    """

    stage: str
    status: Literal["ran", "skipped", "failed"]
    started: str
    seconds: float
    fingerprint: str = ""
    parts: dict[str, str] = {}
    artifact: str = ""
    inputs: list[InputRef] = []
    settings: dict[str, Any] = {}
    rows: int | None = None
    bytes: int | None = None
    retries: dict[str, int] = {}
    plan: str = ""
    notes: dict[str, Any] = {}
    error: str = ""


class RunRecord(BaseModel):
    """One run of a pipeline; the same document is printed by ``--json``. `date` is that of a dated pipeline, ISO 8601."""

    schema_version: int = SCHEMA
    run_id: str
    pipeline: str
    date: str | None = None
    status: Status = "running"
    started: str
    ended: str = ""
    attempts: int = 1
    command: str = ""
    resume: str = ""
    host: str = ""
    pid: int = 0
    process_started: str | float = ""
    user: str = ""
    env: str | None = None
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    versions: dict[str, str] = {}
    stages: list[StageRecord] = []
    result: dict[str, Any] = {}
    report: str = ""
    error: str = ""
    exit_code: int = 0

    def alive(self) -> bool:
        """Whether the process that wrote this record may still be running."""
        return self.status == "running" and owner_alive({"host": self.host, "pid": self.pid, "started": self.process_started})

    def shown_status(self) -> str:
        """The status as a person should see it: a run that says `running` but whose process is gone was killed."""
        return "killed" if self.status == "running" and not self.alive() else self.status


def new_run_id(pipeline: str) -> str:
    """Return a run id that sorts by time: ``20261120T221503-digits-1f3a``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{pipeline}-{secrets.token_hex(2)}"


def start_run(
    pipeline: str, env: str | None, settings: dict[str, Any], origins: dict[str, str], date: str | None = None
) -> RunRecord:
    """Return the record of a run that starts now in this process."""
    return RunRecord(
        run_id=new_run_id(pipeline),
        pipeline=pipeline,
        date=date,
        env=env,
        settings=settings,
        origins=origins,
        started=now(),
        versions=versions(),
        **_process(),
    )


def restart_run(record: RunRecord) -> RunRecord:
    """Return the record of an interrupted run that this process takes up again."""
    return record.model_copy(
        update={
            "status": "running",
            "ended": "",
            "error": "",
            "exit_code": 0,
            "stages": [],
            "report": "",
            "versions": versions(),
            "attempts": record.attempts + 1,
            **_process(),
        }
    )


def _process() -> dict[str, Any]:
    mark = this_process()
    return {
        "command": redact(shlex.join(sys.argv)),
        "host": mark["host"],
        "pid": mark["pid"],
        "process_started": mark["started"],
        "user": _user(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def save_run(store: Store, record: RunRecord) -> None:
    """Write a run record over its earlier state, atomically, with resolved secrets redacted."""
    store.replace(f"runs/{record.run_id}/run.json", redact(record.model_dump_json(indent=1)).encode())


def load_run(store: Store, run_id: str) -> RunRecord:
    """Return the record of a run. Raises `ConfigError` for an unknown id, `StorageError` for a torn record."""
    path = f"runs/{run_id}/run.json"
    if not _RUN_ID.fullmatch(run_id) or not store.exists(path):
        known = store.list("runs")[-5:]
        raise ConfigError(
            f"no run {run_id!r} in {store.root}; the last ones are: {', '.join(known) or 'none'}", hint="sparkml runs"
        )
    try:
        found = RunRecord.model_validate_json(store.read(path))
    except ValidationError as error:
        raise StorageError(f"{store.url(path)} is torn or was altered: {error.errors()[0]['msg']}") from None
    if found.run_id != run_id:  # it names the folders that a resumed run writes to
        raise StorageError(f"{store.url(path)} is torn or was altered: it is the record of {found.run_id!r}")
    return found


def all_runs(store: Store) -> Iterator[RunRecord]:
    """Yield the records of all runs, newest first; torn ones are passed over."""
    for run_id in reversed(store.list("runs")):
        try:
            yield load_run(store, run_id)
        except (ConfigError, StorageError):
            continue
