"""A lease has one living holder."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from sparkml.errors import BusyError
from sparkml.storage import Store
from sparkml.storage import lease as leases
from sparkml.storage.lease import lease
from sparkml.storage.owner import this_process


def test_a_second_holder_is_told_who_has_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    since = f"({'|'.join(time.strftime('%H:%M:%S', time.localtime(time.time() + more)) for more in range(5))})"
    with lease(store, "_leases/p.json", {"run_id": "run-1"}, what="pipeline p"):
        with (
            pytest.raises(
                BusyError, match=rf"pipeline p is already running: run run-1, pid {os.getpid()} on .*, since {since}"
            ) as caught,
            lease(store, "_leases/p.json", {"run_id": "run-2"}, what="pipeline p"),
        ):
            pass
        assert caught.value.exit_code == 8
    with lease(store, "_leases/p.json", {"run_id": "run-3"}, what="pipeline p"):
        assert store.read_json("_leases/p.json")["run_id"] == "run-3"
    assert not store.exists("_leases/p.json")


@pytest.mark.parametrize(
    "dead",
    [
        {**this_process(), "pid": 2**22 + 1},
        {**this_process(), "started": "another boot+1.00"},  # the pid was given to another process since
        {"host": "elsewhere", "pid": 1, "started": 1.0, "beat": time.time() - 120},
    ],
)
def test_the_lease_of_a_dead_holder_is_taken_over(
    tmp_path: Path, dead: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)  # so long another host is watched before it counts as dead
    store = Store(str(tmp_path))
    store.create_exclusive("_leases/p.json", {"run_id": "dead", **dead})
    with lease(store, "_leases/p.json", {"run_id": "mine"}, what="p"):
        assert store.read_json("_leases/p.json")["run_id"] == "mine"


def test_a_living_holder_is_known_after_the_clock_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.create_exclusive("_leases/p.json", {"run_id": "lives", "beat": time.time(), **this_process()})
    start, boot = psutil.Process().create_time(), psutil.boot_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: start + 3600)  # both follow the clock
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
    with pytest.raises(BusyError, match="run lives"), lease(store, "_leases/p.json", {}, what="p"):
        pass


def test_a_holder_on_another_host_counts_while_it_beats(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create_exclusive(
        "_leases/p.json", {"run_id": "far", "host": "elsewhere", "pid": 1, "started": 1.0, "beat": time.time()}
    )
    with pytest.raises(BusyError, match="elsewhere"), lease(store, "_leases/p.json", {}, what="p"):
        pass


def test_a_holder_whose_clock_is_behind_is_not_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.2)
    store, skewed = Store(str(tmp_path)), time.time() - 1200
    far = {"run_id": "far", "host": "elsewhere", "pid": 1, "started": 1.0, "token": "t"}
    store.create_exclusive("_leases/p.json", {**far, "beat": skewed})
    beat = threading.Timer(0.1, lambda: store.replace("_leases/p.json", {**far, "beat": skewed + 0.2}))
    beat.start()
    with pytest.raises(BusyError, match="elsewhere"), lease(store, "_leases/p.json", {}, what="p"):
        pass
    beat.join()


def test_of_many_that_find_a_dead_lease_one_at_a_time_holds_it(tmp_path: Path) -> None:
    store, holding, most = Store(str(tmp_path)), [], []
    store.create_exclusive("_leases/p.json", {**this_process(), "pid": 2**22 + 1, "token": "dead"})

    def take(number: int) -> bool:
        try:
            with lease(store, "_leases/p.json", {"run_id": str(number)}, what="p"):
                holding.append(number)
                time.sleep(0.05)
                most.append(len(holding))
                holding.remove(number)
            return True
        except BusyError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert any(pool.map(take, range(8)))
    assert max(most) == 1
    assert store.list("_leases") == []


def test_a_lease_that_was_taken_over_is_not_given_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with lease(store, "_leases/p.json", {}, what="p"):
        store.replace("_leases/p.json", {"token": "another's"})
    assert store.read_json("_leases/p.json") == {"token": "another's"}
