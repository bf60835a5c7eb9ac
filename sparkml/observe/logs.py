"""Logs: everything as JSON lines into the run's file, warnings to the terminal; resolved secrets never reach either."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from pythonjsonlogger.json import JsonFormatter

from sparkml.config import redact

_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


def log_folder(run_id: str) -> Path:
    """Return the local folder of a run's logs; they are copied into the store when the run ends."""
    return Path(platformdirs.user_state_path("sparkml")) / "runs" / run_id


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True


@contextmanager
def logging_to(path: Path, *, verbose: bool = False) -> Iterator[None]:
    """Send all log records to `path` as JSON lines (UTC) and warnings (everything with `verbose`) to stderr."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(JsonFormatter(_FIELDS, rename_fields={"asctime": "time", "levelname": "level", "name": "logger"}))
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setLevel(logging.DEBUG if verbose else logging.WARNING)
    to_terminal.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    before = root.level
    for handler in (to_file, to_terminal):
        handler.addFilter(_Redacting())
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("py4j").setLevel(logging.WARNING)  # one line per call into the JVM otherwise
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in (to_file, to_terminal):
            root.removeHandler(handler)
            handler.close()
