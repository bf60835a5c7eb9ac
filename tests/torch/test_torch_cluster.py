"""Gangs of PyTorch ranks in sessions of the tests' own: executors that die, sessions that encrypt."""

from __future__ import annotations

from pathlib import Path

from tests.spark.test_gang_cluster import answer, start, survivors

GANG = """
from sparkml.launch.distributor import DistributorGang

def executor_of(pid):
    return next(parent for parent in psutil.Process(pid).parents() if "java" in parent.name())

gang = DistributorGang(spark, stall_timeout=60.0, verbose=False)
"""


def test_an_executor_that_dies_restarts_the_gang(tmp_path: Path) -> None:
    body = """
def fn(worker):
    pid = here / f"pid-{worker.rank}"
    first = not pid.exists()
    if first:
        pid.write_text(str(os.getpid()))
    worker.barrier()
    if first and worker.rank == 1:
        executor_of(os.getpid()).kill()
    if first:
        time.sleep(600)  # `answer` waits for four minutes
    worker.barrier()
    return str(worker.size).encode()

results, restarts = run_with_restarts(gang, fn, 2, max_restarts=1)
print(json.dumps({"results": [result.decode() for result in results], "reasons": [each.reason for each in restarts]}))
"""
    told = answer(start(tmp_path, GANG + body, "local-cluster[2,1,1024]"))
    assert told["results"] == ["2", "2"]
    (reason,) = told["reasons"]
    assert reason.startswith("rank 1 on its executor was lost: ExecutorLostFailure")
    assert survivors(tmp_path) == []


def test_one_machine_needs_no_leave_for_ranks_in_the_clear(tmp_path: Path) -> None:
    """pyspark's distributor has a switch of its own, which nobody is told to set."""
    body = """
found = gang.run(lambda worker: b"".join(worker.all_gather(b"%d" % worker.rank)), 2)
print(json.dumps({"found": [block.decode() for block in found]}))
"""
    assert answer(start(tmp_path, GANG + body, "local[2]", **{"spark.ssl.enabled": "true"})) == {"found": ["01", "01"]}


def test_a_cluster_that_encrypts_is_told_what_to_set_and_obeys(tmp_path: Path) -> None:
    body = """
try:
    gang.run(lambda worker: b"", 2)
except LaunchError as error:
    refused = [error.message, error.hint]
spark.sparkContext._conf.set("spark.sparkml.ranksInTheClear", "true")
found = gang.run(lambda worker: b"".join(worker.all_gather(b"%d" % worker.rank)), 2)
print(json.dumps({"refused": refused, "found": [block.decode() for block in found]}))
"""
    told = answer(start(tmp_path, GANG + body, "local-cluster[2,1,1024]", **{"spark.ssl.enabled": "true"}))
    message, hint = told["refused"]
    assert message.startswith("spark.ssl.enabled is true") and "Horovod" not in message
    assert "spark.sparkml.ranksInTheClear=true" in hint
    assert told["found"] == ["01", "01"]
