"""Ask OSV whether the locked versions have known vulnerabilities. Called by make; `uv audit` asks, this file hands it our locks.

    python scripts/audit.py [--or-warn] [--url URL] [--cache FOLDER] [--exceptions FILE] [LOCK ...]

`uv audit` reads only ``uv.lock``, which holds download addresses and so is not committed. It is made here, for the time of the
call, of the names and versions of the hash-locked files. An answer about the same versions counts for a day.

Exit status: 0 nothing known, 1 vulnerabilities (or an exception that has expired), 2 the question was not answered. With
``--or-warn`` the last is a warning and 0, so that `make check` works without a network.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "scripts/torch.lock.txt", "scripts/uv.lock.txt")
_LOCKED = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)
_DAY_SECONDS = 86_400
_PATIENCE_SECONDS = 10
CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 2
# what it asks about is versions; the registry named here is never asked
_PACKAGE = '[[package]]\nname = "{name}"\nversion = "{version}"\nsource = {{ registry = "." }}\n'
_PROJECT = '[project]\nname = "locked-versions"\nversion = "0"\nrequires-python = ">=3.11"\n'


class NotAuditedError(Exception):
    """Nobody could be asked."""


def locked(files: Sequence[Path]) -> list[tuple[str, str]]:
    """Return names and versions of lock files, each once, sorted. Raises `SystemExit` for one that locks nothing."""
    found: set[tuple[str, str]] = set()
    for file in files:
        here = _LOCKED.findall(file.read_text())
        if not here:
            sys.exit(f"audit: {file} locks no version (lines NAME==VERSION are looked for)")
        found |= {(name.lower(), version) for name, version in here}
    return sorted(found)


def ask(packages: Sequence[tuple[str, str]], url: str | None) -> list[dict[str, Any]]:
    """Return the vulnerabilities as `uv audit` lists them. Raises `NotAuditedError` with the reason."""
    with tempfile.TemporaryDirectory(prefix="sparkml-audit-") as folder:
        Path(folder, "pyproject.toml").write_text(_PROJECT)
        Path(folder, "uv.lock").write_text(_as_uv_lock(packages))
        command = [str(Path(sys.executable).with_name("uv")), "audit", "--frozen", "--output-format", "json"]
        command += ["--preview-features", "audit-command,json-output", *(["--service-url", url] if url else [])]
        patience = {"UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": str(_PATIENCE_SECONDS // 2)}
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, **patience},
                capture_output=True,
                text=True,
                timeout=_PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotAuditedError(f"no answer within {_PATIENCE_SECONDS} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise NotAuditedError(" ".join(done.stderr.split()) or f"uv audit ended with {done.returncode} and no answer") from None
    if (asked := answer["summary"]["audited_packages"]) != len(packages):  # silence about the others would look like health
        raise NotAuditedError(f"{asked} of {len(packages)} versions were looked up")
    return list(answer["vulnerabilities"])


def _as_uv_lock(packages: Sequence[tuple[str, str]]) -> str:
    needs = ", ".join(
        f'{{ name = "{name}", version = "{version}", source = {{ registry = "." }} }}' for name, version in packages
    )
    head = 'version = 1\nrequires-python = ">=3.11"\n\n[[package]]\nname = "locked-versions"\nversion = "0"\n'
    body = "\n".join(_PACKAGE.format(name=name, version=version) for name, version in packages)
    return f'{head}source = {{ virtual = "." }}\ndependencies = [{needs}]\n\n{body}'


def remembered(packages: Sequence[tuple[str, str]], url: str | None, folder: Path) -> list[dict[str, Any]]:
    """Like `ask`; an answer of the last day about the same versions is given again."""
    key = hashlib.sha256(json.dumps([packages, url]).encode()).hexdigest()[:16]
    kept = folder / f"{key}.json"
    if kept.exists() and time.time() - kept.stat().st_mtime < _DAY_SECONDS:
        return list(json.loads(kept.read_text()))
    found = ask(packages, url)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = kept.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(found))
    scratch.replace(kept)
    return found


def accepted(file: Path, today: datetime.date) -> tuple[dict[str, str], list[str]]:
    """Return the reasons of the exceptions by advisory, and what is wrong with those that do not count (any more)."""
    valid: dict[str, str] = {}
    wrong: list[str] = []
    for entry in tomllib.loads(file.read_text()).get("exception", []):
        name, reason, expires = (entry.get(field) for field in ("id", "reason", "expires"))
        if not name or not reason or not isinstance(expires, datetime.date):
            wrong.append(f"{file.name}: {name or entry}: an exception needs 'id', 'reason' and 'expires' (a date)")
        elif expires < today:
            wrong.append(f"{file.name}: the exception for {name} expired on {expires} ({reason})")
        else:
            valid[name] = reason
    return valid, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("locks", nargs="*", type=Path, metavar="LOCK", default=[ROOT / name for name in LOCKS])
    parser.add_argument("--or-warn", action="store_true", help="exit 0 with a warning when nobody could be asked")
    parser.add_argument(
        "--url", default=os.environ.get("OSV_URL"), help="another OSV service, or OSV_URL (default: the public one)"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / ".audit_cache")
    parser.add_argument("--exceptions", type=Path, default=ROOT / "scripts" / "audit-exceptions.toml")
    arguments = parser.parse_args()
    packages = locked(arguments.locks)
    valid, wrong = accepted(arguments.exceptions, datetime.datetime.now(datetime.UTC).date())
    for line in wrong:
        print(f"audit: {line}", file=sys.stderr)
    try:
        found = remembered(packages, arguments.url, arguments.cache)
    except NotAuditedError as error:
        print(f"audit: NOT DONE, the {len(packages)} locked versions were not looked up: {error}", file=sys.stderr)
        print("audit: run `make audit` where OSV can be reached, or with OSV_URL=... of a mirror", file=sys.stderr)
        return VULNERABLE if wrong else CLEAN if arguments.or_warn else NOT_AUDITED
    bad = 0
    for item in found:
        names = {item["id"], item.get("display_id"), *item.get("aliases", [])}
        package = item["dependency"]
        what = f"{package['name']} {package['version']}: {item['id']}"
        if reason := next((valid[name] for name in sorted(filter(None, names)) if name in valid), None):
            print(f"audit: {what} is accepted: {reason}")
            continue
        bad += 1
        others = ", ".join(sorted(filter(None, names - {item["id"]})))
        fixed = f"fixed in {', '.join(item['fix_versions'])}" if item["fix_versions"] else "no version fixes it yet"
        print(f"audit: {what}{f' ({others})' if others else ''}: {item['summary'] or 'no summary'}; {fixed}", file=sys.stderr)
    if bad or wrong:
        print(
            "audit: `make lock` takes the newest versions; what has to wait goes to scripts/audit-exceptions.toml",
            file=sys.stderr,
        )
        return VULNERABLE
    print(f"audit: {len(packages)} locked versions, none has a known vulnerability that is not accepted")
    return CLEAN


if __name__ == "__main__":
    sys.exit(main())
