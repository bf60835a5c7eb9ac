"""The peers of linear_peers.py, and one turn of one of them: a process of its own in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import psutil

from scripts.bench.harness import PYTHONPATH, ROOT, Peak, SideFailedError, orphans_awaited
from scripts.bench.peers.environments import NotInstalledError, python_of

_LIMIT_SECONDS = 3600


@dataclass(frozen=True)
class Files:
    """One set of rows in all forms: URLs and folders."""

    folder: str
    rows: int
    features: int
    shards: str
    plain: str
    warm_shards: str
    warm_plain: str
    test: str

    @property
    def bytes_of_plain(self) -> int:
        return self.rows * 4 * (self.features + 1)


@dataclass(frozen=True)
class Peer:
    """A side.

    Attributes
    ----------
    program
        Of `peers`.
    environment
        Of `.peers`; None is the product's own.
    exact
        It ends at the optimum: its log-loss may be the one that others are to come near to.
    slow
        It takes minutes: half the turns.
    numbers
        Of 8 bytes that it keeps in memory for each of the rows' at its peak; 0 if it streams or spills.
    """

    name: str
    program: str
    environment: str | None
    variant: str | None = None
    exact: bool = False
    slow: bool = False
    numbers: float = 0

    @property
    def key(self) -> str:
        return f"{self.name} {self.program}".lower()

    @property
    def in_memory(self) -> bool:
        return self.exact and self.numbers > 0

    def turns(self, repeats: int) -> int:
        return max(1, repeats // 2) if self.slow else repeats


PEERS = (
    Peer("ours", "ours", None, "shards", exact=True),
    Peer("ours, from plain Parquet", "ours", None, "parquet", exact=True),
    Peer("MLlib, from Parquet", "mllib", None, "parquet", exact=True, slow=True),
    Peer("MLlib, from its cache", "mllib", None, "cache", exact=True, slow=True),
    Peer("scikit-learn, lbfgs", "sklearn", "sklearn", "lbfgs", exact=True, numbers=4),
    Peer("scikit-learn, newton-cholesky", "sklearn", "sklearn", "newton-cholesky", exact=True, numbers=4),
    Peer("scikit-learn, partial_fit", "sklearn", "sklearn", "sgd"),
    Peer("scikit-learn, partial_fit tuned", "sklearn", "sklearn", "sgd-tuned"),
    Peer("glum", "glum", "glum", exact=True, numbers=4),
    Peer("H2O GLM", "h2o", "h2o", exact=True, slow=True),
    Peer("Vowpal Wabbit, SGD", "vw", "vw", "sgd"),
    Peer("Vowpal Wabbit, BFGS", "vw", "vw", "bfgs", slow=True),
    Peer("Vaex, partial_fit tuned", "vaex", "vaex"),
    Peer("XGBoost, linear", "xgboost", "xgboost", "linear", slow=True, numbers=2),
    Peer("XGBoost, trees", "xgboost", "xgboost", "trees", slow=True, numbers=2),
    Peer("LightGBM, trees", "lightgbm", "lightgbm", slow=True, numbers=2),
)


def take(peer: Peer, files: Files, *, curve: bool) -> dict[str, Any]:
    """Run a peer's program once, and return what it printed, with its peak memory.

    Raises
    ------
    SideFailedError
        It cannot be installed, needs more memory than there is, takes too long, or ends with an error.
    """
    needed = peer.numbers * 8 * files.rows * files.features
    if needed > (free := psutil.virtual_memory().available):
        raise SideFailedError(f"needs about {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} are free")
    try:
        python = python_of(peer.environment) if peer.environment else sys.executable
    except NotInstalledError as error:
        raise SideFailedError(f"cannot be installed: {error}") from None
    rows, warm = (files.shards, files.warm_shards) if peer.variant == "shards" else (files.plain, files.warm_plain)
    words = [python, "-m", f"scripts.bench.peers.{peer.program}", rows, "--warm", warm, "--test", files.test]
    words += [*(["--variant", peer.variant] if peer.variant else []), *(["--curve"] if curve else [])]
    with Peak() as peak:
        printed = _ran(words)
    return {**printed, "peak_rss": peak.bytes}


def _ran(words: list[str]) -> dict[str, Any]:
    threads = str(os.cpu_count())
    env = {**os.environ, **PYTHONPATH, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    with (
        orphans_awaited(),
        subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            out, err = process.communicate(timeout=_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            raise SideFailedError(f"not done after {_LIMIT_SECONDS} s") from None
    if process.returncode:
        lines = [line.strip() for line in f"{out}\n{err}".splitlines() if line.strip()]
        raise SideFailedError(f"exit code {process.returncode}: {lines[-1] if lines else 'nothing was printed'}")
    return dict(json.loads(out.splitlines()[-1]))
