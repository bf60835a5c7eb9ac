"""kill -9 in each stage, then resume: the outputs equal those of a run that was never killed."""

from __future__ import annotations

import signal
import time
from typing import Any

import psutil
import pytest

from sparkml.registry.registry import Registry
from tests.spark.tiny import make_tiny

STAGES = ["ingest", "contract", "features", "train.linear", "train.net", "evaluate.net", "register", "score"]


def outcome(tiny: Any, record: dict[str, Any]) -> dict[str, Any]:
    """What a run made, without names that differ by nature (run ids, part file names, times)."""
    import pandas as pd

    version = Registry(tiny.store).resolve(record["result"]["version"])
    evaluation = tiny.store.read_json(f"{version.path}/evaluation.json")
    predictions = pd.read_parquet(record["result"]["predictions"].removeprefix("file://") + "/predictions").sort_values("id")
    return {
        "version": record["result"]["version"],
        "candidates": record["result"]["candidates"],
        "evaluation": evaluation,
        "predictions": predictions.drop(columns="probability").to_dict("records"),
        "probability": [list(row) for row in predictions["probability"]],
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of the same pipeline when nothing goes wrong."""
    tiny = make_tiny(tmp_path_factory.mktemp("uninterrupted"), net=True)
    return outcome(tiny, tiny.json("run", str(tiny.yaml)))


def kill_in(tiny: Any, stage: str) -> None:
    """Start the pipeline and kill -9 its whole process tree's root once `stage` has begun."""
    process = tiny.start("run", str(tiny.yaml), start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if f"] {stage} ..." in line:
            time.sleep(0.4)  # into the stage's work, not only its announcement
            break
    else:
        pytest.fail(f"the run ended before {stage}: {process.communicate()}")
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    psutil.wait_procs(children, timeout=60)
    alive = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"processes outlived the killed driver: {[child.cmdline() for child in alive]}"


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_equals_never_killed(tiny_with_net: Any, uninterrupted: dict[str, Any], stage: str) -> None:
    tiny = tiny_with_net
    kill_in(tiny, stage)
    killed = tiny.json("runs")  # a list: the killed run, and how to take it up again
    assert (killed[0]["status"], killed[0]["pipeline"]) == ("killed", "tiny")
    assert f"--resume {killed[0]['run_id']}" in killed[0]["result"]
    resumed = tiny.json("run", str(tiny.yaml), "--resume", killed[0]["run_id"])
    assert (resumed["run_id"], resumed["attempts"], resumed["status"]) == (killed[0]["run_id"], 2, "done")
    done_before = {item["stage"] for item in resumed["stages"] if item["status"] == "skipped"}
    assert done_before >= set(STAGES[: STAGES.index(stage)]) & {item["stage"] for item in resumed["stages"]} - {
        "register",
        "score",
    }
    assert tiny.store.list("_staging") == []
    assert outcome(tiny, resumed) == uninterrupted
