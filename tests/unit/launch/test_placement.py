"""What a rank gets of its host, and whether the host has the right versions."""

from __future__ import annotations

import os
import sys
from importlib import metadata

import pytest

from sparkml.launch.child import Place
from sparkml.launch.supervise import _environment, cores_of
from sparkml.launch.versions import differences, installed


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("local_rank", "local_size", "cpus", "cores", "threads"),
    [
        (1, 2, None, (4, 5, 6, 7), 4),
        (1, 2, 3, (3, 4, 5), 3),
        (1, 3, 3, (), 3),  # nine are wanted
        (8, 9, None, (), 1),
        (0, 1, 1, (0,), 1),
    ],
)
def test_cores(
    eight_cores: None, local_rank: int, local_size: int, cpus: int | None, cores: tuple[int, ...], threads: int
) -> None:
    assert cores_of(local_rank, local_size, pin=True, cpus=cpus) == (cores, threads)
    assert cores_of(local_rank, local_size, pin=False, cpus=cpus) == ((), threads)


def test_gpus_are_visible_only_if_spark_gave_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "mine")
    place = Place(0, 1, 0, 1, "here", (0, 1), 2)
    found = _environment(place, "/scratch", {})
    assert found["CUDA_VISIBLE_DEVICES"] == "mine" and found["TMPDIR"] == "/scratch"
    assert found["OMP_NUM_THREADS"] == found["TF_NUM_INTRAOP_THREADS"] == "2"
    assert _environment(Place(0, 1, 0, 1, "here", gpus=("2", "3")), "", {})["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_variables_of_the_user_go_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    found = _environment(Place(0, 1, 0, 1, "here"), "", {"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "3"})
    assert (found["NCCL_DEBUG"], found["OMP_NUM_THREADS"]) == ("INFO", "3")


def test_a_cluster_that_says_how_memory_is_allocated_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    assert _environment(Place(0, 1, 0, 1, "here"), "", {})["MALLOC_ARENA_MAX"] == "2"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "")
    assert _environment(Place(0, 1, 0, 1, "here"), "", {})["MALLOC_ARENA_MAX"] == "2"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert _environment(Place(0, 1, 0, 1, "here"), "", {})["MALLOC_ARENA_MAX"] == "4"


def test_versions_come_without_imports() -> None:
    found = installed()
    assert found["numpy"] == metadata.version("numpy") and found["python"] == ".".join(map(str, sys.version_info[:2]))
    assert {"sparkml", "pyarrow"} <= set(found)
    assert differences(found, found) == []


def test_differences_name_package_and_both_versions() -> None:
    driver = {"python": "3.11", "numpy": "2.0.2", "keras": "3.15.1", "sparkml": "0.1.0"}
    here = {"python": "3.12", "numpy": "1.26.4", "sparkml": "0.1.0", "horovod": "0.28.1"}  # more than the driver has is fine
    assert differences(driver, here) == [
        "python 3.12 (the driver has 3.11)",
        "numpy 1.26.4 (the driver has 2.0.2)",
        "keras is missing (the driver has 3.15.1)",
    ]
    assert differences({"sparkml": "0.1.0"}, {}) == []  # code without metadata, from --py-files
    assert differences({"sparkml": "0.1.0"}, {"sparkml": "0.2.0"}) == ["sparkml 0.2.0 (the driver has 0.1.0)"]
