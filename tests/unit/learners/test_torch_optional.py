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
from sparkml.launch import distributor
from sparkml.launch.torch_worker import FAILED
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


def test_anything_else_is_spark_s_to_tell() -> None:
    assert "cancelled" in distributor._failure(RuntimeError("Job 7 cancelled by user")).message
    assert "no PyTorch" in distributor._failure(RuntimeError("x: No module named 'torch'")).message
    assert "out of luck" in distributor._failure(RuntimeError("out of luck")).message
