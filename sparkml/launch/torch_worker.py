"""`TorchWorker`: a rank that ``TorchDistributor`` started, and `run_rank`, all that runs there. Imports no pyspark.

What ends a rank is printed as one marked line of JSON, from which the driver makes the error: of a failed task, Spark passes on
its output and nothing else.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sparkml.errors import SparkmlError
from sparkml.launch.failure import RankFailure
from sparkml.launch.shared_memory import PeerGoneError

FAILED = "sparkml-rank-failed "
_PR_SET_PDEATHSIG = 1
_LONGEST_SECONDS = 365 * 86400.0  # the store's timeouts are milliseconds in an int
_ECHO_SECONDS = 15.0  # the rank that is to blame gets its say first: the first task that fails makes the error


class _StallError(Exception):
    """Ranks waited too long for each other."""


class TorchWorker:
    """`Worker` over ``torch.distributed``, for ranks that can reach each other (Gloo on TCP)."""

    def __init__(self, rank: int, size: int, stall_timeout: float, *, verbose: bool) -> None:
        self.rank, self.size, self.host = rank, size, socket.gethostname()
        self._stall, self._verbose = stall_timeout, verbose
        self.local_rank, self.local_size = 0, 1

    def connect(self) -> None:
        """Meet the other ranks. ``MASTER_ADDR`` and the like are the distributor's."""
        if self.size == 1:
            return
        import torch.distributed

        seconds = self._stall if math.isfinite(self._stall) else _LONGEST_SECONDS
        with self._collective():
            torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=min(seconds, _LONGEST_SECONDS)))
        hosts = [block.decode() for block in self.all_gather(self.host.encode())]
        self.local_rank, self.local_size = hosts[: self.rank].count(self.host), hosts.count(self.host)

    def barrier(self) -> None:
        self.all_gather(b"")

    def all_gather(self, payload: bytes) -> list[bytes]:
        if self.size == 1:
            return [payload]
        import torch

        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._collective():
            torch.distributed.all_gather(sizes, torch.tensor([len(payload)]))
        counts = [int(size) for size in sizes]
        if not max(counts):
            return [b""] * self.size
        mine = torch.zeros(max(counts), dtype=torch.uint8)
        if payload:
            mine[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        blocks = [torch.empty_like(mine) for _ in range(self.size)]
        with self._collective():
            torch.distributed.all_gather(blocks, mine)
        return [block[:count].numpy().tobytes() for block, count in zip(blocks, counts, strict=True)]

    def total(self, tensor: Any) -> None:
        """Replace a tensor by its sum over ranks, the same bits on each. Every rank calls, in the same order."""
        if self.size > 1:
            import torch.distributed

            with self._collective():
                torch.distributed.all_reduce(tensor)

    def broadcast(self, tensor: Any) -> None:
        """Replace a tensor by rank 0's."""
        if self.size > 1:
            import torch.distributed

            with self._collective():
                torch.distributed.broadcast(tensor, 0)

    def log(self, text: str) -> None:
        print(f"[rank {self.rank}] {text}", flush=True)

    def note(self, phase: str, step: int) -> None:
        """Nobody watches: ranks find out by the collective's time limit that one of them hangs."""

    def report(self, progress: dict[str, Any]) -> None:
        """Print what an epoch gave. The distributor carries lines to the driver's stderr, and nothing else."""
        if self._verbose and self.rank == 0 and "step" not in progress:
            names = [name for name, value in progress.items() if isinstance(value, float) and not name.endswith("_share")]
            shown = ", ".join(f"{name} {progress[name]:.4g}" for name in names)
            self.log(f"epoch {progress['epoch']} of {progress['epochs']}: {shown}")

    @contextmanager
    def _collective(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # Gloo has no errors of its own
            if "timed out" in str(error).lower() or "timeout" in str(error).lower():
                raise _StallError(f"waited longer than {self._stall:g} s for another rank") from error
            raise PeerGoneError(f"lost contact with another rank: {str(error).splitlines()[0]}") from error


def run_rank(code: bytes, size: int, stall_timeout: float, verbose: bool, local: bool) -> list[bytes] | None:
    """Run the pickled function of a `TorchWorker` and return what it returned on all ranks; on ranks but the first None.

    Parameters
    ----------
    code
        From the driver, by Spark's own way for functions.
    local
        All ranks are on the driver's machine: they need not be reached from anywhere else.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # torchrun may be killed before it has ended us
    if local:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    worker = TorchWorker(int(os.environ["RANK"]), size, stall_timeout, verbose=verbose)
    try:
        worker.connect()
        function: Callable[[TorchWorker], bytes] = pickle.loads(code)
        results = worker.all_gather(function(worker))
    except BaseException as error:
        _tell(worker, error)
        sys.exit(1)
    return results if worker.rank == 0 else None


def _tell(worker: TorchWorker, error: BaseException) -> None:
    if not isinstance(error, SparkmlError | PeerGoneError | _StallError):  # those say enough by themselves
        traceback.print_exc()
    if isinstance(error, _StallError):
        failure = RankFailure(worker.rank, worker.host, "stalled", str(error))
    else:
        text = error.message if isinstance(error, SparkmlError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, SparkmlError) else None
        failure = RankFailure(worker.rank, worker.host, "exception", f"failed: {text}", type(error).__name__, hint)
    sys.stderr.flush()
    if failure.secondary:
        time.sleep(_ECHO_SECONDS)
    print(f"\n{FAILED}{json.dumps(asdict(failure))}", flush=True)
