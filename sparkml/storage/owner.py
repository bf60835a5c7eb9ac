"""Marks by which a process is recognised later, so that what a dead one left can be told from a living one's."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """Return the mark by which `owner_alive` recognises this process later."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(psutil.Process())}


def started(process: psutil.Process) -> str:
    """Return which boot of this host a process belongs to, and after how many seconds of it it started.

    Both of psutil's times move when the clock is set, their difference does not.
    """
    boot = ""
    with suppress(OSError):  # Linux's own
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}+{process.create_time() - psutil.boot_time():.2f}"


def process_tag() -> str:
    """Return a short mark of this process for names: ``host-pid-start``, host and start as hashes."""
    owner = this_process()
    return f"{_hash(owner['host'])}-{owner['pid']}-{_hash(owner['started'])}"


def tagged_alive(tag: str) -> bool:
    """Whether the process that made this tag may still run; what is no tag may be anybody's."""
    found = re.fullmatch(r"([0-9a-f]{8})-(\d+)-([0-9a-f]{8})", tag)
    if found is None or found[1] != _hash(socket.gethostname()):
        return True
    try:
        return _hash(started(psutil.Process(int(found[2])))) == found[3]
    except psutil.NoSuchProcess:
        return False


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def owner_alive(owner: Mapping[str, Any]) -> bool:
    """Whether the process that wrote this owner mark may still run: on another host we cannot know, and say yes."""
    if owner.get("host") != socket.gethostname():
        return True
    try:
        return started(psutil.Process(int(owner["pid"]))) == str(owner["started"])
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False
