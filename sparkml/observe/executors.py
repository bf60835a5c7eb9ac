"""`LostExecutors`: what Spark itself tells only its web pages: that an executor is gone, and why."""

from __future__ import annotations

from typing import Any

_WANTED = "killed by driver"  # dynamic allocation had no use for it


class LostExecutors:
    """Called, returns one line for each executor that was lost since the last call, or since this was made.

    Parameters
    ----------
    context
        The SparkContext.
    """

    def __init__(self, context: Any) -> None:
        self._store = context._jsc.sc().statusStore()
        self._told: set[str] = set()
        self()

    def __call__(self) -> list[str]:
        known = self._store.executorList(False)
        if known.size() == self._store.executorList(True).size() + len(self._told):
            return []  # two calls, however many executors there are
        lines = []
        for at in range(known.size()):
            executor = known.apply(at)
            if executor.isActive() or executor.id() in self._told:
                continue
            self._told.add(executor.id())
            why = executor.removeReason()
            reason = (
                str(why.get()).strip().splitlines()[0] if why.isDefined() and str(why.get()).strip() else "Spark does not say why"
            )
            if _WANTED not in reason:
                lines.append(f"executor {executor.id()} on {executor.hostPort()} was lost: {reason}")
        return lines
