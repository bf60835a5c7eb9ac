"""`TorchWorker`: a rank that ``TorchDistributor`` started, and `run_rank`, all that runs there. Imports no pyspark.

What ends a rank is printed as one marked line of JSON, from which the driver makes the error: of a failed task, Spark passes on
its output and nothing else.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
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
from sparkml.launch.address import HERE, interface_to
from sparkml.launch.failure import RankFailure
from sparkml.launch.parent import die_with_parent
from sparkml.launch.shared_memory import PeerGoneError
from sparkml.launch.versions import ONE_ENVIRONMENT, TORCH, differences, installed

FAILED = "sparkml-rank-failed "
TASK = "SPARKML_TASK"  # environment variable: the process id of the Spark task that all this began with
_INTERFACE = "GLOO_SOCKET_IFNAME"
# what Gloo and the store say when the other side is not there; Gloo has no errors of its own
_GONE = re.compile(r"connect|closed|reset|broken pipe|socket|read error|write error", re.IGNORECASE)
_LONGEST_SECONDS = 365 * 86400.0  # the store's timeouts are milliseconds in an int
_ECHO_SECONDS = 15.0  # the rank that is to blame gets its say first: the first task that fails makes the error


class _StallError(Exception):
    """Ranks waited too long for each other."""


class _UnfitError(Exception):
    """This host may not take part."""


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

        counts = self._lengths(payload)
        if not max(counts):
            return [b""] * self.size
        mine = torch.zeros(max(counts), dtype=torch.uint8)
        if payload:
            mine[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        blocks = [torch.empty_like(mine) for _ in range(self.size)]
        with self._collective():
            torch.distributed.all_gather(blocks, mine)
        return [block[:count].numpy().tobytes() for block, count in zip(blocks, counts, strict=True)]

    def collect(self, payload: bytes) -> list[bytes]:
        """Return on rank 0 what every rank gave, in rank order, and nothing on the others. For what is large, like a model."""
        if self.size == 1:
            return [payload]
        import torch

        counts = self._lengths(payload)
        found = [payload] if self.rank == 0 else []
        with self._collective():
            if self.rank == 0:
                for other in range(1, self.size):
                    block = torch.empty(counts[other], dtype=torch.uint8)
                    if counts[other]:
                        torch.distributed.recv(block, other)
                    found.append(block.numpy().tobytes())
            elif payload:
                torch.distributed.send(torch.frombuffer(bytearray(payload), dtype=torch.uint8), 0)
        self.barrier()  # nobody leaves while its bytes are on their way
        return found

    def _lengths(self, payload: bytes) -> list[int]:
        import torch

        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._collective():
            torch.distributed.all_gather(sizes, torch.tensor([len(payload)]))
        return [int(size) for size in sizes]

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
        except RuntimeError as error:
            if "timed out" in str(error).lower() or "timeout" in str(error).lower():
                raise _StallError(f"waited longer than {self._stall:g} s for another rank") from error
            if _GONE.search(str(error)):
                raise PeerGoneError(f"lost contact with another rank: {str(error).splitlines()[0]}") from error
            raise  # ranks that do not agree on what they exchange


def run_rank(
    code: bytes, size: int, stall_timeout: float, verbose: bool, local: bool, versions: dict[str, str]
) -> list[bytes] | None:
    """Run the pickled function of a `TorchWorker` and return what it returned on all ranks; on ranks but the first None.

    Parameters
    ----------
    code
        From the driver, by Spark's own way for functions.
    local
        All ranks are on the driver's machine: they need not be reached from anywhere else.
    versions
        What the driver has installed.
    """
    task = os.environ.get(TASK)
    die_with_parent(int(task) if task else None)  # torchrun may be killed before it has ended us
    interface = interface_to(HERE if local else os.environ["MASTER_ADDR"])
    if interface and (local or not os.environ.get(_INTERFACE)):
        os.environ[_INTERFACE] = interface
    worker = TorchWorker(int(os.environ["RANK"]), size, stall_timeout, verbose=verbose)
    try:
        wrong = differences(versions, installed(TORCH))
        if wrong:
            raise _UnfitError(f"has other versions than the driver: {', '.join(wrong)}")
        worker.connect()
        function: Callable[[TorchWorker], bytes] = pickle.loads(code)
        results = worker.collect(function(worker))
    except BaseException as error:
        _tell(worker, error)
        sys.exit(1)
    return results if worker.rank == 0 else None


def _tell(worker: TorchWorker, error: BaseException) -> None:
    if not isinstance(error, SparkmlError | PeerGoneError | _StallError | _UnfitError):  # those say enough by themselves
        traceback.print_exc()
    if isinstance(error, _StallError):
        failure = RankFailure(worker.rank, worker.host, "stalled", str(error))
    elif isinstance(error, _UnfitError):
        failure = RankFailure(worker.rank, worker.host, "unfit", str(error), hint=ONE_ENVIRONMENT)
    else:
        text = error.message if isinstance(error, SparkmlError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, SparkmlError) else None
        failure = RankFailure(worker.rank, worker.host, "exception", f"failed: {text}", type(error).__name__, hint)
    sys.stderr.flush()
    if failure.secondary:
        time.sleep(_ECHO_SECONDS)
    print(f"\n{FAILED}{json.dumps(asdict(failure))}", flush=True)
