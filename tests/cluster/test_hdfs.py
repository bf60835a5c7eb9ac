"""What hdfs-native alone does not do: forks that return, errors in words, and patience."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import hdfs_native
import pytest

from scripts.devcluster.cluster import Cluster
from sparkml.errors import StorageError
from sparkml.ingest.files import expand
from sparkml.storage import Store
from sparkml.storage.backends.hdfs import Hdfs
from sparkml.storage.hdfs_client import authority


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    cluster.up(["hdfs"])
    return cluster.environment()["SPARKML_HDFS"]


def test_a_process_that_has_used_hdfs_can_still_fork(url: str) -> None:
    """As pyspark does to start its JVM."""
    code = f"""
import subprocess
from sparkml.storage import Store
Store({url!r}).replace("forks/a", b"1")
print(subprocess.run(["echo", "forked"], preexec_fn=lambda: None, capture_output=True, text=True).stdout)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "forked"


def test_the_namenode_s_refusal_is_an_error_in_one_line(url: str) -> None:
    store = Store(f"{url}/refused")
    store.replace("file", b"1")
    with pytest.raises(
        StorageError, match=r"cannot write hdfs://.*/refused/file/below: \w*Exception: .*is not a directory"
    ) as caught:
        store.replace("file/below", b"2")
    assert "\n" not in caught.value.message and "\\n" not in caught.value.message


def test_names_that_urls_would_cut_are_whole(url: str) -> None:
    store = Store(f"{url}/odd")
    for name in ("k=x;y/a", "k=b#1/a", "k=what?/a", "k=50%25/a"):
        store.replace(f"out/{name}", name.encode())
    assert set(store.files("out")) == {"k=x;y/a", "k=b#1/a", "k=what?/a", "k=50%25/a"}
    assert store.read("out/k=b#1/a") == b"k=b#1/a"
    assert expand([f"{url}/odd/out/k=b*/?"]) == [f"{url}/odd/out/k=b#1/a"]


def test_a_nameservice_keeps_its_capitals() -> None:
    assert authority("hdfs://NameService1/x") == {"host": "NameService1", "port": None}
    assert authority("hdfs://127.0.0.1:8020/x") == {"host": "127.0.0.1", "port": 8020}
    assert authority("hdfs:///x") == {"host": None, "port": None}


def test_lines_are_read_by_the_mebibyte_not_by_the_byte(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"{url}/lines")
    store.replace("log", b"a line of a log\n" * 100_000)
    requests: list[int] = []
    read = hdfs_native.FileReader.read
    monkeypatch.setattr(hdfs_native.FileReader, "read", lambda self, size=-1: requests.append(size) or read(self, size))
    with store.open("log") as file:
        assert sum(1 for _ in file) == 100_000
    assert 2 <= len(requests) <= 4  # 1.6 MB by 1 MiB, and the end


def test_a_swap_that_fails_leaves_what_stood_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"{url}/swap")

    def put(content: bytes) -> None:
        with store.stage() as staging:
            store.replace(f"{staging.path}/day=1/a", content)
            store.replace_artifact(staging, "out", kind="predictions", fingerprint="f", partitions=True)

    put(b"old")
    rename = Hdfs._client.fget(store.backend).rename  # type: ignore[attr-defined]
    calls: list[str] = []

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(store.fs.client, name)

        def rename(self, source: str, target: str, overwrite: bool) -> None:
            if target.endswith("out/day=1") and "_staging" in source and not source.endswith(".old"):
                calls.append(source)
                if len(calls) == 2:  # the first finds the old folder in its place
                    raise OSError("the answer was lost")
            rename(source, target, overwrite)

    with monkeypatch.context() as patched, pytest.raises(StorageError, match="the answer was lost"):
        patched.setattr(Hdfs, "_client", Failing())
        put(b"new")
    assert len(calls) == 2
    assert store.read("out/day=1/a") == b"old"
    store.verify("out")
