"""What can be said of PyTorch nets where PyTorch is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from pydantic import ValidationError

from sparkml.errors import ConfigError
from sparkml.estimators.trainers.torch import TorchTrainerOptions
from sparkml.launch import distributor, torch_worker
from sparkml.launch.shared_memory import PeerGoneError
from sparkml.launch.torch_worker import FAILED, TASK
from sparkml.plugins import load


@pytest.fixture
def torch_is(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Have ``torch`` look installed, or not."""
    real = importlib.util.find_spec

    def pretend(there: bool) -> None:
        load.cache_clear()
        here = real("json") if there else None
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: here if name == "torch" else real(name, *rest))

    yield pretend
    load.cache_clear()


def test_without_pytorch_estimators_and_trainer_name_the_extra(torch_is: Callable[[bool], None]) -> None:
    from sparkml.estimators import TorchClassifier

    torch_is(False)
    with pytest.raises(ConfigError, match=r"TorchClassifier needs the package 'torch'\n.*pip install 'sparkml\[torch\]'"):
        TorchClassifier(model="mlp")
    with pytest.raises(ConfigError, match=r"pip install 'sparkml\[torch\]'"):
        load("estimators.trainers", "torch")


def test_nothing_imports_pytorch_until_a_net_is_built() -> None:
    code = "import sys; sys.modules['torch'] = None\nimport sparkml.estimators.torch, sparkml.estimators.trainers.torch"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_ranks_run_imports_no_pyspark() -> None:
    code = "import sys; sys.modules['pyspark'] = None\nimport sparkml.launch.torch_worker, sparkml.learners.torch_job"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": {"type": "mlpp"}}, "did you mean 'mlp'"),
        ({"model": {"type": "mlp", "hiden": [3]}}, "hidden"),
        ({"model": {"type": "mlp"}, "optimizer": "lion"}, "'adam', 'adamw'"),
        ({"model": {"type": "mlp"}, "precision": "mixed_float16"}, "unknown key"),  # what Keras nets have and these do not
        ({"model": {"type": "mlp"}, "strategy": "allreduce"}, "unknown key"),
        ({"model": {"type": "mlp"}, "timeline": True}, "unknown key"),
    ],
)
def test_settings_that_are_not_allowed_say_what_is(
    settings: dict[str, object], message: str, torch_is: Callable[[bool], None]
) -> None:
    torch_is(True)
    with pytest.raises(ValidationError, match=message):
        TorchTrainerOptions.model_validate(settings)


def test_settings_that_are_allowed(torch_is: Callable[[bool], None]) -> None:
    torch_is(True)
    found = TorchTrainerOptions.model_validate({"model": {"type": "cnn", "dense": 8}, "num_proc": 2, "optimizer": "adamw"})
    assert (found.model.options.dense, found.num_proc, found.optimizer, found.epochs) == (8, 2, "adamw", 10)


OUTPUT = """the task failed: the rank has failed
sparkml-rank-output-begins
[Gloo] Rank 0 is connected to 1 peer ranks.
[rank 1] went on after epoch 1
a line of the user's
{marked}
E1121 17:41:07.029000 7526 torch/distributed/elastic/multiprocessing/api.py:882] failed (exitcode: {code}) local_rank: 0
Traceback (most recent call last):
  torchrun's own
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_17:39:15
  host      : node7
  rank      : 1 (local_rank: 0)
  exitcode  : {code} (pid: 7075)
sparkml-rank-output-ends
	at org.apache.spark.api.python
"""


def test_a_rank_s_own_account_makes_the_error() -> None:
    said = (
        '{"rank": 1, "host": "node7", "kind": "exception", "cause": "failed: bad column", "error_type": "DataError", "hint": "h"}'
    )
    error = distributor._failure(RuntimeError(OUTPUT.format(marked=f"{FAILED}{said}", code=1)))
    assert type(error).__name__ == "DataError" and error.hint == "h"
    assert error.message.splitlines() == [
        "rank 1 on node7 failed: bad column",
        "  its last lines:",
        "    [rank 1] went on after epoch 1",
        "    a line of the user's",
    ]


def test_of_a_rank_that_was_killed_torchrun_tells() -> None:
    error = distributor._failure(RuntimeError(OUTPUT.format(marked="", code=-9)))
    assert error.message.startswith("rank 1 on node7 was killed by signal 9 (SIGKILL)\n  its last lines:\n    [rank 1] went on")
    assert "torchrun" not in error.message


SPARK = """Job aborted due to stage failure: Could not recover from a failed barrier ResultStage. Most recent failure reason: \
Stage failed because barrier task ResultTask(3, 1) finished unsuccessfully.
{cause}
	at org.apache.spark.api.python
"""


@pytest.mark.parametrize(
    ("text", "rank", "cause"),
    [
        (
            SPARK.format(cause="ExecutorLostFailure (executor 0 exited) Reason: Command exited with code 137"),
            1,
            "was lost: ExecutorLost",
        ),
        (
            SPARK.format(cause="org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)"),
            1,
            "was lost: Python worker",
        ),
        (
            SPARK.format(
                cause=OUTPUT.split("E1121")[0].format(marked="DistNetworkError: code: -98, name: EADDRINUSE") + OUTPUT[-60:]
            ),
            0,
            "cannot meet the others: the port",
        ),
    ],
)
def test_what_was_lost_is_a_failure_that_may_pass(text: str, rank: int, cause: str) -> None:
    failure = distributor._failure(RuntimeError(text)).failure
    assert failure is not None and (failure.kind, failure.rank) == ("lost", rank) and failure.cause.startswith(cause)


def test_torchrun_imports_what_its_task_can_and_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.ml.torch.distributor import TorchDistributor

    code = f"import os; print(os.environ['PYTHONPATH'].split(os.pathsep)[-1], int(os.environ['{TASK}']) == os.getppid())"
    monkeypatch.setattr(TorchDistributor, "_create_torchrun_command", lambda *given: [sys.executable, "-c", code])
    monkeypatch.setattr(sys, "path", [*sys.path, "/place/of/py-files.zip"])
    with pytest.raises(RuntimeError, match=r"\n/place/of/py-files\.zip True\n"):
        distributor.run_file({}, "/nowhere/train.py")


def test_a_host_with_another_pytorch_may_not_take_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch_worker, "die_with_parent", lambda ancestor: None)
    monkeypatch.setattr(torch_worker, "installed", lambda packages: {"python": "3.11", "torch": "2.9.0"})
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    with pytest.raises(SystemExit):
        torch_worker.run_rank(b"", 2, 60.0, False, True, {"python": "3.11", "torch": "2.8.0"})
    told = capsys.readouterr().out.partition(FAILED)[2]
    failure = distributor._failure(RuntimeError(OUTPUT.format(marked=f"{FAILED}{told}", code=1))).failure
    assert failure is not None and failure.kind == "unfit"
    assert failure.cause == "has other versions than the driver: torch 2.9.0 (the driver has 2.8.0)"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4711", PeerGoneError),
        ("[/gloo/transport/tcp/pair.cc:446] writev [10.0.0.2]:4711: Broken pipe", PeerGoneError),
        (
            "[/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 8000ms for recv operation to complete",
            torch_worker._StallError,
        ),
        ("[enforce fail at /gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 12 vs 8", RuntimeError),
    ],
)
def test_only_a_lost_connection_is_another_rank_s_fault(said: str, kind: type[Exception]) -> None:
    worker = torch_worker.TorchWorker(0, 2, 8.0, verbose=False)
    with pytest.raises(kind) as caught, worker._collective():
        raise RuntimeError(said)
    assert type(caught.value) is kind


def test_anything_else_is_spark_s_to_tell() -> None:
    assert "cancelled" in distributor._failure(RuntimeError("Job 7 cancelled by user")).message
    assert "no PyTorch" in distributor._failure(RuntimeError("x: No module named 'torch'")).message
    assert "out of luck" in distributor._failure(RuntimeError("out of luck")).message
