"""The faults: how each is brought about, and what is promised of it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from drill import RANK, Drill, FaultError, SkipError, interrupt, jvms_above, standalone_cluster, stopped

_STALL_SECONDS = 10.0
DIFFERENT = "the weights will not be those of an uninterrupted run"


@dataclass(frozen=True)
class Outcome:
    """What became of one fault.

    Attributes
    ----------
    seen
        What the user saw; empty: what the training says about its resumption.
    seconds
        From the injection until the gang (or, with its driver, everything) was gone; None: nothing had to stop.
    history
        What the training that ended said of itself.
    resumed
        How the training shall have gone on: a regular expression for ``history["resumed"]``.
    same
        Whether the weights shall equal those of the run without a fault.
    """

    seen: str
    seconds: float | None
    history: dict[str, Any]
    resumed: str = "went on after epoch"
    same: bool = True


Fault = Callable[[Drill], Outcome]


def in_gang(harm: Callable[[psutil.Process], object] | None, reason: str, **settings: Any) -> Fault:
    """A rank comes to grief: the gang stops and starts again from the last checkpoint. `harm` gets the rank's process."""

    def fault(drill: Drill) -> Outcome:
        driver = drill.start(**settings)
        at = drill.mark(driver)
        gang = drill.gang()
        if harm is not None:
            at = time.time()
            harm(gang[drill.settings.rank])
        seconds = stopped(list(gang.values()), at)
        history = drill.finish(driver)
        if len(history["restarts"]) != 1:
            raise FaultError(f"one restart was expected, not {history['restarts']}")
        seen = history["restarts"][0]["reason"]
        if not re.search(reason, seen):
            raise FaultError(f"the reason does not say {reason!r}: {seen}")
        return Outcome(seen, seconds, history)

    return fault


def kill(process: psutil.Process) -> None:
    process.kill()


def killed_driver(drill: Drill) -> float:
    """Start a training and kill its driver at the mark; return the seconds until nothing was left."""
    driver = drill.start()
    drill.mark(driver)
    at = time.time()
    driver.process.kill()
    driver.process.wait()
    return drill.all_gone(at)


def driver_killed(drill: Drill) -> Outcome:
    seconds = killed_driver(drill)
    return Outcome("(the process is gone)", seconds, drill.finish(drill.start()))


def interrupted(drill: Drill) -> Outcome:
    driver = drill.start()
    drill.mark(driver)
    at = time.time()
    interrupt(driver)
    driver.process.wait(60)
    seconds = drill.all_gone(at)
    seen = driver.errors.splitlines()[-1]
    if "KeyboardInterrupt" not in seen:
        raise FaultError(f"Ctrl-C shows {seen!r}")
    return Outcome(seen, seconds, drill.finish(drill.start()))


def torn_checkpoint(drill: Drill) -> Outcome:
    seconds = killed_driver(drill)
    newest = drill.checkpoints()[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    return Outcome("", seconds, drill.finish(drill.start()), rf"^{newest.name} is not used: .*torn.*; went on after epoch")


def foreign_checkpoint(drill: Drill) -> Outcome:
    other = str(drill.folder / "other")
    drill.finish(drill.start(seed=drill.settings.seed + 1, epochs=1, epoch=99, checkpoints=other))
    foreign = max(Path(other).glob("checkpoints/*/e*.npz"))
    shutil.rmtree(drill.folder / "ranks")
    seconds = killed_driver(drill)
    newest = drill.checkpoints()[-1]
    shutil.copyfile(foreign, newest)
    wanted = rf"^{newest.name} is not used: it belongs to a training with other data or settings; went on after epoch"
    return Outcome("", seconds, drill.finish(drill.start()), wanted)


def full_disk(drill: Drill) -> Outcome:
    disk = drill.folder / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, text=True)
    if mount.returncode != 0:
        raise SkipError(f"a small disk could not be mounted: {mount.stderr.strip().splitlines()[-1]}")
    try:
        drill.settings = replace(drill.settings, checkpoints=str(disk / "ours"))
        driver = drill.start()
        drill.mark(driver)
        with (disk / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * 4096)
            except OSError:
                pass  # full
        history = drill.finish(driver)
        if left := list((disk / "ours").rglob("*.tmp")):
            raise FaultError(f"half-written files stay: {[file.name for file in left]}")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
    if not history["checkpoints_failed"]:
        raise FaultError("history['checkpoints_failed'] is empty")
    return Outcome(history["checkpoints_failed"][-1], None, history, "^$")


def fewer_ranks(drill: Drill) -> Outcome:
    seconds = killed_driver(drill)
    wanted = f"went on after epoch .*, with 1 rank instead of 2: {DIFFERENT}"
    return Outcome("", seconds, drill.finish(drill.start(ranks=1)), wanted, same=False)


def lost_slot(drill: Drill) -> Outcome:
    master = standalone_cluster(drill, workers=2)
    driver = drill.start(master=master, least=1)
    drill.mark(driver)
    gang = drill.gang()
    executor, worker, *_ = jvms_above(gang[drill.settings.rank])
    at = time.time()
    worker.kill()  # first, or it would start another executor
    executor.kill()
    seconds = stopped(list(gang.values()), at)
    history = drill.finish(driver)
    if [restart["size"] for restart in history["restarts"]] != [1]:
        raise FaultError(f"one restart with one rank was expected, not {history['restarts']}")
    wanted = f"went on after epoch .*, with 1 rank instead of 2: {DIFFERENT}"
    drill.all_gone(time.time(), RANK)
    drill.close()  # the cluster is ours, not the training's
    return Outcome(history["restarts"][0]["reason"], seconds, history, wanted, same=False)


_CLUSTER = "local-cluster[2,1,2048]"
FAULTS: dict[str, tuple[str, Fault]] = {
    "raise": ("a callback raises OSError on one rank", in_gang(None, "Input/output error", inject="raise")),
    "kill-rank": ("a rank's process is killed with -9", in_gang(kill, r"signal 9 \(SIGKILL\)")),
    "stop-rank": (
        "a rank's process is stopped (SIGSTOP), stallTimeout=10",
        in_gang(lambda rank: rank.send_signal(signal.SIGSTOP), r"is stopped \(SIGSTOP\)", stall=_STALL_SECONDS),
    ),
    "hang": (
        "a callback never returns on one rank, stallTimeout=10",
        in_gang(None, "hangs", inject="hang", stall=_STALL_SECONDS),
    ),
    "memory": ("a rank runs out of memory (RLIMIT_AS)", in_gang(None, "MemoryError|signal", inject="memory")),
    "kill-executor": (
        f"an executor's JVM is killed with -9 ({_CLUSTER})",
        in_gang(lambda rank: kill(jvms_above(rank)[0]), "was lost", master=_CLUSTER),
    ),
    "kill-python-worker": (
        "the Python worker of a Spark task is killed with -9",
        in_gang(lambda rank: kill(psutil.Process(rank.ppid())), "was lost"),
    ),
    "kill-driver": ("the driver is killed with -9, the script started again", driver_killed),
    "ctrl-c": ("Ctrl-C on the driver, the script started again", interrupted),
    "torn-checkpoint": ("killed; half of the newest checkpoint is missing; started again", torn_checkpoint),
    "foreign-checkpoint": ("killed; the newest checkpoint is of another training; started again", foreign_checkpoint),
    "full-disk": ("the disk of checkpointDir is full from the step of the fault on", full_disk),
    "fewer-ranks": ("killed; started again with 1 rank instead of 2", fewer_ranks),
    "lost-slot": ("a host with one of two slots is gone for good, minProc=1 (standalone cluster)", lost_slot),
}
