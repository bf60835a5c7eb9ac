"""`scripts/audit.py` against an OSV service on loopback: what is known fails the check, silence never passes for health."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "audit.py"
LOCK = """# made by make lock
jinja2==2.4.1 \\
    --hash=sha256:00
numpy==2.0.2 ; python_version < '3.13' \\
    --hash=sha256:00
moto[server]==5.0.1
"""
# the fields that OSV's schema requires, and those that are shown
ADVISORY = {
    "id": "PYSEC-2014-8",
    "modified": "2021-07-05T00:01:22Z",
    "summary": "a predictable name in the temporary folder",
    "aliases": ["CVE-2014-1402"],
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.7.2"}]}],
        }
    ],
}


class Osv(BaseHTTPRequestHandler):
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        self.asked.extend(queries)
        mark = {"vulns": [{"id": ADVISORY["id"], "modified": ADVISORY["modified"]}]}
        self._answer({"results": [mark if query["package"]["name"] == "jinja2" else {} for query in queries]})

    def do_GET(self) -> None:
        self._answer(ADVISORY)

    def _answer(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    asked: list[dict[str, Any]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Recording", (Osv,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def audit(folder: Path, url: str, lock: str = LOCK, exceptions: str = "", *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "lock").write_text(lock)
    (folder / "exceptions.toml").write_text(exceptions)
    command = [sys.executable, str(SCRIPT), str(folder / "lock"), "--url", url, "--cache", str(folder / "cache"), *flags]
    command += ["--exceptions", str(folder / "exceptions.toml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_vulnerable_version_fails_and_says_what_fixes_it(tmp_path: Path, osv: tuple[str, list[dict[str, Any]]]) -> None:
    url, asked = osv
    done = audit(tmp_path, url)
    assert done.returncode == 1, done.stderr
    assert "jinja2 2.4.1: PYSEC-2014-8 (CVE-2014-1402)" in done.stderr
    assert "fixed in 2.7.2" in done.stderr
    wanted = {("jinja2", "2.4.1"), ("numpy", "2.0.2"), ("moto", "5.0.1")}
    assert {(query["package"]["name"], query["version"]) for query in asked} == wanted
    again = audit(tmp_path, url)
    assert again.returncode == 1 and len(asked) == 3, "the answer of the day is remembered, a bad one too"
    fixed = audit(tmp_path, url, "numpy==2.0.2\n")
    assert (fixed.returncode, len(asked)) == (0, 4), "other versions are another question"


def test_an_exception_needs_a_reason_and_ends_with_its_date(tmp_path: Path, osv: tuple[str, list[dict[str, Any]]]) -> None:
    entry = '[[exception]]\nid = "CVE-2014-1402"\nreason = "no untrusted user here"\nexpires = '
    done = audit(tmp_path, osv[0], LOCK, f"{entry}2999-01-01\n")
    assert done.returncode == 0, done.stderr
    assert "PYSEC-2014-8 is accepted: no untrusted user here" in done.stdout
    done = audit(tmp_path, osv[0], LOCK, f"{entry}2020-01-01\n")
    assert done.returncode == 1
    assert "expired on 2020-01-01" in done.stderr and "jinja2 2.4.1" in done.stderr
    done = audit(tmp_path, osv[0], LOCK, '[[exception]]\nid = "CVE-2014-1402"\n')
    assert done.returncode == 1 and "needs 'id', 'reason' and 'expires'" in done.stderr


def test_nobody_to_ask_is_said_loudly_and_only_the_check_passes(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    done = audit(tmp_path, nobody)
    assert done.returncode == 2
    assert "NOT DONE, the 3 locked versions were not looked up" in done.stderr
    done = audit(tmp_path, nobody, LOCK, "", "--or-warn")
    assert done.returncode == 0 and "NOT DONE" in done.stderr
    assert audit(tmp_path, nobody, "# nothing\n", "", "--or-warn").returncode == 1, "an empty lock is no healthy one"
