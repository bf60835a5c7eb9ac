"""Marks by which a process is recognised later, so that what a dead one left can be told from a living one's."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """Return the mark by which `owner_alive` recognises this process later."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def owner_alive(owner: Mapping[str, Any]) -> bool:
    """Whether the process that wrote this owner mark may still run: on another host we cannot know, and say yes."""
    if owner.get("host") != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(int(owner["pid"])).create_time() - float(owner["started"])) < 1.0
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False
