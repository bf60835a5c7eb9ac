"""`DistributorGang`: ranks that pyspark's own ``TorchDistributor`` starts; see ADR 0008 for what it cannot do."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cloudpickle

from sparkml.errors import LaunchError, SparkmlError
from sparkml.launch.barrier import first_cause, one_gang, preflight, slots
from sparkml.launch.failure import TAIL_LINES, RankFailure, ended_by
from sparkml.launch.gang import STALL_SECONDS, Gang
from sparkml.launch.parent import import_path
from sparkml.launch.torch_worker import FAILED, TASK, run_rank
from sparkml.launch.versions import TORCH, installed
from sparkml.launch.worker import Worker

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_END_SECONDS = 30.0
_RECOVER_SECONDS = 20.0
_LINES = 200  # of a failed rank's output: torchrun alone writes dozens about it
_BEGIN, _END = "sparkml-rank-output-begins", "sparkml-rank-output-ends"
_OUTPUT = re.compile(rf"{_BEGIN}\n(.*?)\n{_END}", re.DOTALL)
_ENDED = re.compile(r"host +: (\S+)\s+rank +: (\d+) .*?\s+exitcode +: (-?\d+)", re.DOTALL)  # torchrun's last words
_TORCHRUN = re.compile(r"^[EW]\d{4} .*torch/distributed/elastic.*failed \(exitcode", re.MULTILINE)  # it writes what follows
_LOST = re.compile(r"ExecutorLostFailure.*|Python worker exited unexpectedly.*")  # Spark's words, and whose task it was
_PARTITION = re.compile(r"barrier task \w+\(\d+, (\d+)\)")
_NOISE = re.compile(r"torch/distributed/|^\[Gloo\]|^\s*[~^]*$")


class DistributorGang(Gang):
    """One rank per task of a barrier stage, each a process that ``torchrun`` keeps. Ranks meet over ``torch.distributed``.

    A second gang of the same application waits until the first has ended. Nothing is reported while it runs: lines that ranks
    print appear on the driver's stderr.

    Parameters
    ----------
    stall_timeout
        Seconds that a rank waits for the others in a collective.
    verbose
        Print a line per epoch.
    """

    def __init__(self, spark: SparkSession, *, stall_timeout: float = STALL_SECONDS, verbose: bool = True) -> None:
        super().__init__(stall_timeout=stall_timeout)
        self._spark, self._verbose = spark, verbose

    def available(self, size: int) -> int:
        deadline = time.monotonic() + _RECOVER_SECONDS
        while (found := slots(self._spark)) < size and time.monotonic() < deadline:
            time.sleep(0.5)
        return min(size, found)

    def run(self, fn: Callable[[Worker], bytes], size: int) -> list[bytes]:
        with one_gang:
            preflight(self._spark, size)
            return self._run(cloudpickle.dumps(fn), size)

    def _run(self, code: bytes, size: int) -> list[bytes]:
        from pyspark import InheritableThread
        from pyspark.ml.torch.distributor import TorchDistributor

        context, tag = self._spark.sparkContext, f"sparkml-{uuid.uuid4().hex}"
        local = str(context.master).startswith("local")
        made: list[Any] = []
        problems: list[Exception] = []

        def stage() -> None:
            context.addJobTag(tag)
            try:
                distributor = TorchDistributor(num_processes=size, local_mode=False, use_gpu=False)
                setattr(distributor, "_check_encryption", lambda: None)  # noqa: B010  `preflight` has asked, before there were shards
                # what `run` does, as pyspark's own DeepspeedTorchDistributor does it, with another way to run the file
                settings = code, size, self.stall_timeout, self._verbose, local, installed(TORCH)
                made.append(distributor._run(run_rank, run_file, *settings))
            except Exception as problem:
                problems.append(problem)

        # in a thread of its own for the same reason as in `sparkml.launch.barrier`: Ctrl-C
        job = InheritableThread(stage, daemon=True)
        job.start()
        try:
            job.join()
        except BaseException:
            context.cancelJobsWithTag(tag)
            job.join(_END_SECONDS)
            raise
        if problems:
            raise _failure(problems[0]) from problems[0]
        return list(made[0])


def run_file(input_params: dict[str, Any], path: str, *args: Any) -> None:
    """Run torchrun in a task. Raises `RuntimeError` with the rank's output if the rank brought no result.

    pyspark 4.1's own function loses both: its wrapper around torchrun ends with 0 whatever happened.
    """
    from pyspark.ml.torch.distributor import TorchDistributor

    client = input_params.get("log_streaming_client")
    command = TorchDistributor._create_torchrun_command(input_params, path, *args)
    tail: deque[str] = deque(maxlen=_LINES)
    environment = {**os.environ, "PYTHONPATH": import_path(), TASK: str(os.getpid())}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as task:
        try:
            assert task.stdout is not None
            for raw in task.stdout:
                tail.append(raw.decode("utf-8", "replace").rstrip())
                if client is not None:
                    client.send(tail[-1])
        except BaseException:
            task.terminate()  # the wrapper passes it on
            raise
    if not os.path.exists(os.path.join(os.path.dirname(path), TorchDistributor._PICKLED_OUTPUT_FILE)):
        raise RuntimeError("\n".join(["the rank has failed", _BEGIN, *tail, _END]))


def _failure(error: Exception) -> SparkmlError:
    """Return what a rank said of itself, else what torchrun said of it, else what Spark said of the stage."""
    text = str(error)
    found = _OUTPUT.search(text)
    output = found.group(1) if found else ""
    said = [line.partition(FAILED)[2] for line in output.splitlines() if line.startswith(FAILED)]
    own = _TORCHRUN.split(output.partition(FAILED)[0])[0]
    tail = tuple([line for line in own.splitlines() if not _NOISE.search(line)][-TAIL_LINES:])
    if said:
        failure = RankFailure(**json.loads(said[0]))
        hint = "raise stallTimeout if a step or a checkpoint may take so long" if failure.kind == "stalled" else failure.hint
        return dataclasses.replace(failure, tail=tail, hint=hint).as_error()
    ended = _ENDED.search(output)
    if ended:
        kind, cause, hint = ended_by(int(ended[3]))
        return RankFailure(int(ended[2]), ended[1], kind, cause, hint=hint, tail=tail).as_error()
    if "EADDRINUSE" in output:
        cause = "cannot meet the others: the port that its task had found free was taken before torchrun listened there"
        return RankFailure(0, "its executor", "lost", cause, tail=tail).as_error()
    if re.search(r"Job \d+ cancelled|cancelled part of cancelled job", text):
        return LaunchError("the gang's Spark job was cancelled", hint="run it again when it is wanted")
    if "No module named torch" in text or "No module named 'torch'" in text:
        return LaunchError("the executors have no PyTorch", hint="pip install 'sparkml[torch]' in their environment")
    lost, partition = _LOST.search(text), _PARTITION.search(text)
    if lost:
        return RankFailure(int(partition[1]) if partition else 0, "its executor", "lost", f"was lost: {lost[0][:300]}").as_error()
    return LaunchError(f"TorchDistributor failed: {first_cause(error)}", hint="see the executors' logs")
