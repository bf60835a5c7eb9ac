"""Marks by which a process is recognised later, so that what a dead one left can be told from a living one's."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

import psutil

_SAME_SECONDS = 0.1  # the kernel counts in hundredths


def this_process() -> dict[str, Any]:
    """Return the mark by which `owner_alive` recognises this process later."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(psutil.Process())}


def _started(process: psutil.Process) -> float:
    """Seconds after the boot of this host: both of psutil's times move when the clock is set, their difference does not."""
    return process.create_time() - psutil.boot_time()


def owner_alive(owner: Mapping[str, Any]) -> bool:
    """Whether the process that wrote this owner mark may still run: on another host we cannot know, and say yes."""
    if owner.get("host") != socket.gethostname():
        return True
    try:
        return abs(_started(psutil.Process(int(owner["pid"]))) - float(owner["started"])) < _SAME_SECONDS
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False
