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


def kill_in(tiny: Any, stage: str, *words: str) -> None:
    """Start the pipeline and kill -9 its whole process tree's root once `stage` has begun."""
    process = tiny.start("run", str(tiny.yaml), *words, start_new_session=True)
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


def test_killed_in_every_stage_and_resumed_equals_never_killed(tiny_with_net: Any, uninterrupted: dict[str, Any]) -> None:
    """One run, killed in its first stage, resumed and killed in its second, and so on: whatever a kill leaves, the next finds."""
    tiny, resume = tiny_with_net, []
    for at, stage in enumerate(STAGES):
        kill_in(tiny, stage, *resume)
        (killed,) = tiny.json("runs")
        assert (killed["status"], killed["pipeline"]) == ("killed", "tiny"), stage
        assert f"--resume {killed['run_id']}" in killed["result"]
        resume = ["--resume", killed["run_id"]]
        planned = tiny.json("run", str(tiny.yaml), "--dry-run")["result"]["plan"]
        done = {item["stage"] for item in planned if item["action"] == "up to date"}
        assert done >= {*STAGES[:at]} - {"register", "score"}, f"what was done before {stage} is not done again"
    resumed = tiny.json("run", str(tiny.yaml), *resume)
    assert (resumed["run_id"], resumed["attempts"], resumed["status"]) == (resume[1], len(STAGES) + 1, "done")
    again = {item["stage"] for item in resumed["stages"] if item["status"] != "skipped"}
    assert again <= {"register", "score"}, "finished stages are not done again"
    assert tiny.store.list("_staging") == []
    assert outcome(tiny, resumed) == uninterrupted
