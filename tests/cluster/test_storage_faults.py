"""Services that fail under a store: what goes on by itself, and what is said. All faults: ``scripts/faults/cluster.py``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.devcluster.cluster import Cluster
from scripts.devcluster.hadoop import DATANODES, Hadoop
from scripts.faults.s3_proxy import Request, S3Proxy, completes_an_upload, is_conditional, is_skewed
from sparkml.class_archive import java
from sparkml.errors import StorageError
from sparkml.storage import Store, retries


@pytest.fixture
def hdfs(cluster: Cluster) -> Iterator[Store]:
    """A store on HDFS, whose daemons all live again afterwards."""
    cluster.up(["hdfs"])
    yield Store(f"{cluster.environment()['SPARKML_HDFS']}/{time.monotonic_ns()}")
    for row in cluster.status():
        if not row["resident_mb"]:
            cluster.start(row["daemon"])
    hadoop = Hadoop(cluster.folder, cluster.jars / "daemons", java(), cluster.state()["ports"])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, KeyError):
            if hadoop.live_datanodes() == DATANODES:
                return
        time.sleep(0.2)
    pytest.fail("HDFS did not come back to health")


def test_a_file_is_written_through_the_death_of_a_datanode_and_the_restart_of_the_namenode(cluster: Cluster, hdfs: Store) -> None:
    """The NameNode comes back in safe mode, does not know yet which DataNode is dead, and names it for blocks."""
    content = os.urandom(24 << 20)
    before = retries.taken()
    with ThreadPoolExecutor(1) as pool, hdfs.open("file", "wb") as file:
        file.write(content[: 8 << 20])
        holder = next(
            path.relative_to(cluster.folder).parts[0] for path in cluster.folder.glob("dn*/current/BP-*/current/rbw/blk_*")
        )
        cluster.signal(f"datanode{holder.removeprefix('dn')}")
        file.write(content[8 << 20 : 16 << 20])
        cluster.signal("namenode")
        closing = pool.submit(lambda: (file.write(content[16 << 20 :]), file.close()))
        time.sleep(1.0)
        cluster.start("namenode")  # in this thread: it ends with the one that starts it
        closing.result()
    assert hdfs.read("file") == content
    for number in range(4):  # of two of three DataNodes that the NameNode picks one is dead, for 20 s
        hdfs.replace("small", b"%d" % number)
    assert hdfs.read("small") == b"3"
    assert (retries.taken() - before)["hdfs"] > 0


@pytest.fixture
def s3(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, S3Proxy]]:
    """A store on S3 behind a proxy that can fail."""
    cluster.up(["s3"])
    for name, value in cluster.environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    proxy = S3Proxy(cluster.environment()["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr(retries, "FIRST_SECONDS", 1.0)
    yield Store(f"s3a://sparkml/{time.monotonic_ns()}"), proxy
    proxy.stop()


def test_an_endpoint_that_fails_for_a_while_and_answers_that_are_lost(s3: tuple[Store, S3Proxy]) -> None:
    store, proxy = s3
    store.replace("a", b"old")
    before = retries.taken()
    proxy.fail(lambda request: request.refuse(503, "SlowDown"), most=2)
    assert store.read("a") == b"old"
    assert (retries.taken() - before)["s3"] == 2
    proxy.fail(Request.cut_in_the_middle, most=2, wanted=lambda request: request.command == "PUT")
    store.replace("a", b"new" * 1000)
    assert store.read("a") == b"new" * 1000

    for harm, wanted in ((Request.lose_the_answer, is_conditional), (Request.cut, is_conditional)):
        proxy.fail(harm, most=2, wanted=wanted)
        assert store.create_exclusive(f"claims/{harm.__name__}", b"mine")  # put twice, and still known as ours
        assert proxy.harmed and not store.create_exclusive(f"claims/{harm.__name__}", b"mine")

    proxy.fail(Request.lose_the_answer, most=1, wanted=completes_an_upload)
    content = os.urandom(12 << 20)
    with store.fs.open(store.at("parts"), "wb", block_size=5 << 20) as file:
        file.write(content)
    assert proxy.harmed == 1 and store.read("parts") == content


def test_what_s3_refuses_is_an_error_with_the_next_command(s3: tuple[Store, S3Proxy], monkeypatch: pytest.MonkeyPatch) -> None:
    store, proxy = s3
    before = retries.taken()
    with pytest.raises(StorageError, match=r"cannot write s3a://no-such-bucket/x: .*bucket does not exist") as caught:
        Store("s3a://no-such-bucket").replace("x", b"1")
    assert caught.value.hint and "aws s3 ls" in caught.value.hint
    for code, hint in (
        ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("AccessDenied", "s3:GetObject"),
        ("RequestTimeTooSkewed", "timedatectl"),
    ):
        proxy.fail(lambda request, code=code: request.refuse(403, code))  # type: ignore[misc]
        with pytest.raises(StorageError, match=f"cannot write .*{code}") as caught:
            store.replace("x", b"1")
        assert caught.value.hint and hint in caught.value.hint
    assert retries.taken() == before  # none of this passes by itself
    proxy.fail(Request.cut, wanted=is_skewed)
    store.replace("x", b"1")
    assert not proxy.harmed  # this clock is right

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="Unable to locate credentials") as caught:
        Store("s3a://sparkml").replace("x", b"1")
    assert caught.value.hint and "export AWS_ACCESS_KEY_ID" in caught.value.hint


def test_an_endpoint_that_never_answers_is_an_error_soon(s3: tuple[Store, S3Proxy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:10")
    with pytest.raises(StorageError, match=r"the endpoint does not answer: .*http://127\.0\.0\.1:10") as caught:
        Store("s3a://sparkml").exists("x")
    assert caught.value.hint and "check host and port" in caught.value.hint
