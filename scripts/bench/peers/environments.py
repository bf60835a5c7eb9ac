"""An environment for each peer, so that none constrains another or the product: `.peers/NAME`, from a lock file with hashes.

.venv/bin/python scripts/bench/peers/environments.py              install all that are missing
.venv/bin/python scripts/bench/peers/environments.py --lock       resolve anew and write the lock files (review the diff)
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / ".peers"
NEEDS = {
    "sklearn": ["scikit-learn", "numpy", "pyarrow"],
    "glum": ["glum", "numpy", "pyarrow"],
    "vw": ["vowpalwabbit", "numpy", "pyarrow"],
    "xgboost": ["xgboost-cpu", "numpy", "pyarrow"],
    "lightgbm": ["lightgbm", "numpy", "pyarrow"],
    "h2o": ["h2o", "numpy", "pyarrow"],
    "vaex": ["vaex-core", "scikit-learn", "numpy", "pyarrow"],
}
_UV = str(Path(sys.executable).with_name("uv"))
_LOCK_FLAGS = ("--universal", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--upgrade", "--quiet")


class NotInstalledError(Exception):
    """A peer's environment could not be made; the message is the last line that says why."""


def lock(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.lock.txt")


def python_of(name: str) -> str:
    """Return the interpreter of a peer's environment, which is made unless it is there.

    Raises
    ------
    NotInstalledError
        The lock cannot be installed here.
    """
    python, stamp = FOLDER / name / "bin" / "python", FOLDER / name / ".complete"
    want = hashlib.sha256(lock(name).read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != want:
        print(f"installing {name} ...", flush=True)
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(FOLDER / name))
        _uv("pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes", "--python", str(python), str(lock(name)))
        stamp.write_text(want)
    return str(python)


def write_lock(name: str) -> None:
    """Resolve a peer's requirements and write its lock file."""
    flags = (*_LOCK_FLAGS, "--python-version", "3.11", "--custom-compile-command", "make peers-lock", "-o", str(lock(name)))
    _uv("pip", "compile", "-", *flags, given="\n".join(NEEDS[name]))


def _uv(*arguments: str, given: str | None = None) -> None:
    done = subprocess.run([_UV, *arguments], cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise NotInstalledError(lines[-1] if lines else f"uv {arguments[0]}: exit code {done.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lock", action="store_true", help="write the lock files instead")
    parser.add_argument("--only", nargs="+", choices=NEEDS, default=list(NEEDS), metavar="PEER")
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.only:
        try:
            write_lock(name) if arguments.lock else python_of(name)
        except NotInstalledError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
