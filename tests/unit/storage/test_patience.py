"""Storage services that are away: what is tried again, how long, and that it is counted."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparkml.errors import ConfigError, StorageError
from sparkml.storage import Store, retries
from sparkml.storage.hdfs_client import PatientClient, _Reader, _Writer

REFUSED = OSError("Connection refused (os error 111)")
LOST = OSError("RPC listener disconnected")
SAFE = RuntimeError(
    'RPCError("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "Name node is in safe mode.\\n\\tat x")'
)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SERVICE_SECONDS", 3.0), ("FIRST_SECONDS", 1.0), ("DATA_SECONDS", 3.0)):
        monkeypatch.setattr(retries, name, seconds)


class Hdfs:
    """A NameNode with one file, whose answers are scripted: an error is raised, ``lost`` says that it was raised afterwards."""

    def __init__(self, *failures: Exception, lost: bool = False) -> None:
        self.failures, self.lost, self.files = list(failures), lost, {"/a": b"0123456789"}
        self.opened: dict[str, int] = {}

    def _fail(self) -> None:
        if self.failures:
            error = self.failures.pop(0)
            raise type(error)(*error.args)  # a new one: the traceback of one that stays would keep what it saw alive

    def get_file_info(self, path: str) -> Any:
        if not self.lost:
            self._fail()
        if path not in self.files:
            raise FileNotFoundError(path)
        return type("Status", (), {"length": len(self.files[path])})

    def rename(self, source: str, target: str, overwrite: bool) -> None:
        if not self.lost:
            self._fail()
        if source not in self.files:
            raise FileNotFoundError(source)
        if target in self.files and not overwrite:
            raise FileExistsError(target)
        self.files[target] = self.files.pop(source)
        self._fail()

    def recover_lease(self, path: str) -> bool:
        return True

    def read(self, path: str) -> Any:
        return _Handle(self, path)

    def create(self, path: str, _: object) -> Any:
        self.files[path] = b""
        return _Handle(self, path)

    def append(self, path: str) -> Any:
        return _Handle(self, path)


class _Handle:
    """An open file; what is written is confirmed (and there for others) at once, unless its writer fails."""

    def __init__(self, hdfs: Hdfs, path: str) -> None:
        self.hdfs, self.path, self.place, self.size = hdfs, path, 0, len(hdfs.files[path])
        self.number = hdfs.opened[path] = hdfs.opened.get(path, 0) + 1

    def __del__(self) -> None:
        self.close()  # as `io.RawIOBase` does

    def seek(self, place: int, _: int = 0) -> None:
        self.place = place

    def tell(self) -> int:
        return self.place

    def read(self, size: int) -> bytes:
        found = self.hdfs.files[self.path][self.place :][: size if size >= 0 else None]
        self.place += len(found)
        self.hdfs._fail()
        return found

    def write(self, data: bytes) -> int:
        if self.hdfs.opened[self.path] < 0:
            raise RuntimeError("LeaseExpiredException: File is not open for writing")
        if self.hdfs.failures:
            self.hdfs.files[self.path] += data[:3]  # so far it came
        self.hdfs._fail()
        self.hdfs.files[self.path] += data
        return len(data)

    def close(self) -> None:
        self.hdfs._fail()
        if self.number != self.hdfs.opened[self.path]:
            self.hdfs.opened[self.path] = -1  # whoever has the file open


def test_a_namenode_that_never_answered_is_an_error_soon_one_that_did_is_waited_for() -> None:
    before = retries.taken()
    with pytest.raises(ConnectionRefusedError, match="no NameNode answers at hdfs://h:1: Connection refused"):
        PatientClient(Hdfs(*[REFUSED] * 9), "hdfs://h:1").get_file_info("/a")
    hdfs = Hdfs()
    client = PatientClient(hdfs, "hdfs://h:1")
    client.get_file_info("/a")
    hdfs.failures = [REFUSED, SAFE, SAFE]
    middle = retries.taken()
    assert client.get_file_info("/a").length == 10
    assert (retries.taken() - middle)["hdfs"] == 3
    assert (middle - before)["hdfs"] < 4


def test_a_rename_whose_answer_was_lost_is_told_from_one_that_came_second() -> None:
    hdfs = Hdfs(LOST, lost=True)
    PatientClient(hdfs, "hdfs://h:1").rename("/a", "/b", False)
    assert set(hdfs.files) == {"/b"}
    hdfs.files["/c"] = b"another's"
    with pytest.raises(FileExistsError):
        PatientClient(hdfs, "hdfs://h:1").rename("/b", "/c", False)
    with pytest.raises(FileNotFoundError):
        PatientClient(Hdfs(), "hdfs://h:1").rename("/none", "/d", True)


def test_a_read_that_failed_is_made_again_from_its_place() -> None:
    hdfs = Hdfs()
    reader = _Reader(PatientClient(hdfs, "hdfs://h:1"), "/a")
    reader.seek(4)
    hdfs.failures = [RuntimeError("All DataNodes failed")]
    assert reader.read(3) == b"456"
    assert reader.readall() == b"789"


@pytest.mark.parametrize("failing", ["write", "second write", "close"])
def test_a_write_that_was_broken_off_goes_on(failing: str) -> None:
    hdfs, before = Hdfs(), retries.taken()
    writer = _Writer(PatientClient(hdfs, "hdfs://h:1"), "/new", True)
    for at, content in enumerate((b"abcdef", b"ghijkl")):
        hdfs.failures = [LOST] if failing == ("write", "second write")[at] else []
        writer.write(content)
        gc.collect()
    hdfs.failures = [SAFE] if failing == "close" else []
    writer.close()
    assert hdfs.files["/new"] == b"abcdefghijkl"
    assert (retries.taken() - before)["hdfs"] == 1  # the broken writer, collected, has not closed the file again


def test_a_write_that_lost_what_was_confirmed_is_an_error_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkml.storage.hdfs_client._UNCONFIRMED", 4)
    hdfs = Hdfs()
    writer = _Writer(PatientClient(hdfs, "hdfs://h:1"), "/new", True)
    writer.write(b"abcdef")
    hdfs.files["/new"] = b""
    hdfs.failures = [LOST]
    with pytest.raises(OSError, match="RPC listener disconnected; of 12 bytes 3 are there"):
        writer.write(b"ghijkl")
    with pytest.raises(OSError, match="RPC listener disconnected"):  # a buffer above tries to write the rest
        writer.write(b"mno")
    writer.close()


@pytest.mark.parametrize(
    ("error", "kind", "errno_is"),
    [("AccessControlException", PermissionError, 13), ("DSQuotaExceededException", OSError, 122)],
)
def test_a_refusal_is_not_tried_again_and_has_its_errno(error: str, kind: type[OSError], errno_is: int) -> None:
    hdfs = Hdfs(RuntimeError(f'RPCError("org.apache.hadoop.{error}", "Permission denied: user=x\\n\\tat y")'))
    before = retries.taken()
    with pytest.raises(kind, match=f"{error}: Permission denied: user=x$") as caught:
        PatientClient(hdfs, "hdfs://h:1").get_file_info("/a")
    assert caught.value.errno == errno_is and retries.taken() == before


def test_urls_that_lead_to_no_namenode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    monkeypatch.delenv("HADOOP_HOME", raising=False)
    with pytest.raises(ConfigError, match=r"names no host.*no fs.defaultFS: HADOOP_CONF_DIR is not set") as caught:
        Store("hdfs:///data").exists("x")
    assert caught.value.hint and "export HADOOP_CONF_DIR" in caught.value.hint
    with pytest.raises(ConfigError, match="'prod' is no nameservice of the configuration"):
        Store("hdfs://prod/data").exists("x")
    with pytest.raises(StorageError, match=r"no NameNode answers at hdfs://127\.0\.0\.1:9: Connection refused") as refused:
        Store("hdfs://127.0.0.1:9/data").exists("x")
    assert refused.value.hint and "check host and port" in refused.value.hint


@pytest.mark.parametrize("killed_before", ["the new one is there", "the mark is gone"])
def test_a_swap_that_was_killed_is_ended_by_the_next_run(tmp_path: Path, killed_before: str) -> None:
    """On storage that cannot exchange two names; the process that was killed is a real one."""
    code = f"""
import os
from sparkml.storage import Store
from sparkml.storage.backends.file import File
store = Store({str(tmp_path)!r})
File.exchange_folders = lambda *_: False
def put(content):
    with store.stage() as staging:
        store.replace(f"{{staging.path}}/day=1/a", content)
        store.replace_artifact(staging, "out", kind="predictions", fingerprint="f", partitions=True)
put(b"old")
rename = File.rename_folder
def killed(self, source, target):
    if {killed_before!r} == "the new one is there" and source.endswith("day=1") and "_staging" in source:
        if os.path.exists(target): return False
        os.kill(os.getpid(), 9)
    if {killed_before!r} == "the mark is gone" and source.endswith(".old"):
        os.kill(os.getpid(), 9)
    return rename(self, source, target)
File.rename_folder = killed
put(b"new")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = Store(str(tmp_path))
    assert store.exists("out/day=1/a") == (killed_before == "the mark is gone")
    store.sweep()
    assert store.read("out/day=1/a") == (b"old" if killed_before == "the new one is there" else b"new")
    assert store.list("_staging") == []
