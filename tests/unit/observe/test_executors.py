"""Executors that are gone are told once, with Spark's reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sparkml.observe.executors import LostExecutors


class Executor:
    def __init__(self, name: str, reason: str | None = None) -> None:
        self.id, self.hostPort, self.reason = lambda: name, lambda: f"host-{name}:1", reason

    def isActive(self) -> bool:
        return self.reason is None

    def removeReason(self) -> Any:
        return SimpleNamespace(isDefined=lambda: bool(self.reason), get=lambda: self.reason)


class Listed(list[Executor]):
    size = list.__len__
    apply = list.__getitem__


def test_each_loss_is_told_once() -> None:
    there = [Executor("driver"), Executor("0", "before"), Executor("1"), Executor("2"), Executor("3")]
    store = SimpleNamespace(executorList=lambda active: Listed(item for item in there if item.isActive() or not active))
    news = LostExecutors(SimpleNamespace(_jsc=SimpleNamespace(sc=lambda: SimpleNamespace(statusStore=lambda: store))))
    assert news() == []
    there[2].reason = "Command exited with code 137\nmore"
    there[3].reason = "Executor killed by driver."
    assert news() == ["executor 1 on host-1:1 was lost: Command exited with code 137"]
    assert news() == []
    there.append(Executor("4", " "))
    assert news() == ["executor 4 on host-4:1 was lost: Spark does not say why"]
