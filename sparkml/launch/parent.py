"""What a process that is started here gets from its parent: where to import from, and to end with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
ORPHANED = 113  # exit code of a process that found itself without its parent


def import_path() -> str:
    """Return the ``PYTHONPATH`` of a child that shall import what this process can, from ``--py-files`` archives, too."""
    return os.pathsep.join(part for part in sys.path if part)


def die_with_parent(ancestor: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends (on Linux), and leave now if that has happened already.

    Parameters
    ----------
    ancestor
        Id of a process that is known to be above this one as long as all in between live.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or (ancestor is not None and ancestor not in _above()):
        os._exit(ORPHANED)


def _above() -> list[int]:
    import psutil

    return [process.pid for process in psutil.Process().parents()]
