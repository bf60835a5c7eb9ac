"""Every storage backend keeps the same promises; a new backend file without a root here fails the suite."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from scripts.devcluster.cluster import Cluster
from sparkml import plugins
from sparkml.errors import StorageError
from sparkml.storage import Store
from sparkml.storage.manifest import MANIFEST
from sparkml.storage.owner import process_tag
from tests.unit.shards import test_plain as plain


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """A real S3 endpoint on loopback (moto's server in this process), with one bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    environment = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in (*environment, "AWS_ENDPOINT_URL")}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(environment, AWS_ENDPOINT_URL=f"http://{host}:{port}")
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
    yield f"http://{host}:{port}"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="module")
def namenode(cluster: Cluster) -> str:
    """The URL of a real HDFS."""
    cluster.up(["hdfs"])
    return cluster.environment()["SPARKML_HDFS"]


@pytest.fixture(params=plugins.names("storage.backends"))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    name = uuid.uuid4().hex
    if request.param == "s3a":
        request.getfixturevalue("s3_endpoint")
        return Store(f"s3a://bucket/{name}")
    if request.param == "hdfs":
        return Store(f"{request.getfixturevalue('namenode')}/{name}")
    return Store({"file": str(tmp_path / "root"), "memory": f"memory://{name}"}[request.param])


def publish(store: Store, target: str, files: dict[str, bytes], **extra: object) -> bool:
    with store.stage() as staging:
        for path, body in files.items():
            store.replace(f"{staging.path}/{path}", body)
        return store.publish(staging, target, kind="table", fingerprint="f", extra=extra)[1]


def test_what_a_killed_publish_left_is_in_no_artifact(store: Store) -> None:
    """Where there is no rename files are copied one by one, and readers of a table list its folder."""
    store.replace("datasets/a/rows/part-of-the-killed.bin", b"9")
    assert publish(store, "datasets/a", {"rows/part.bin": b"12345"})
    assert {path for path in store.files("datasets/a") if "MANIFEST" not in path} == {"rows/part.bin"}
    store.verify("datasets/a")


def test_publish_then_read_verify_and_list(store: Store) -> None:
    assert publish(store, "datasets/a", {"x.bin": b"12345", "deep/y.bin": b"6", "_SUCCESS": b""}, rows=6)
    manifest = store.verify("datasets/a")
    assert {file.path: file.size for file in manifest.files} == {"x.bin": 5, "deep/y.bin": 1}
    assert manifest.extra == {"rows": 6}
    assert store.read("datasets/a/deep/y.bin") == b"6"
    assert "a" in store.list("datasets")
    assert store.list("_staging") == []


def test_a_file_s_state_tells_its_contents_apart(store: Store) -> None:
    store.replace("a.bin", b"12345")
    first = store.state("a.bin")
    assert first[0] == 5 and first == store.state("a.bin")
    time.sleep(0.05)
    store.replace("a.bin", b"12346")
    assert store.state("a.bin")[0] == 5 and store.state("a.bin") != first
    with pytest.raises(StorageError, match=r"b\.bin"):
        store.state("b.bin")


def test_plain_parquet_is_read_from_every_storage(store: Store, tmp_path: Path) -> None:
    url = plain.publish(str(tmp_path), store.url("raw"), plain.COLUMNS, plain.table())
    found, wanted = plain.read(url), plain.table()
    np.testing.assert_array_equal(np.sort(found["x"][:, 0]), np.sort(wanted["a"]))


def test_the_second_publisher_gets_the_first_ones_artifact(store: Store) -> None:
    assert publish(store, "datasets/a", {"x": b"first"})
    assert not publish(store, "datasets/a", {"x": b"second!", "y": b"more"})
    assert store.read("datasets/a/x") == b"first"
    assert [file.path for file in store.verify("datasets/a").files] == ["x"]


def test_exclusive_create_has_one_winner_of_eight(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.create_exclusive("claims/1.json", {"writer": number}), range(8)))
    assert won.count(True) == 1
    assert store.read_json("claims/1.json") == {"writer": won.index(True)}


def test_a_folder_without_manifest_does_not_exist_and_is_replaced(store: Store) -> None:
    store.replace("datasets/torn/x", b"half")
    with pytest.raises(StorageError, match="never published, or only half written"):
        store.manifest("datasets/torn")
    assert publish(store, "datasets/torn", {"z": b"whole"})
    assert [file.path for file in store.verify("datasets/torn").files] == ["z"]


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (lambda store: store.replace("datasets/a/x", b"longer than before"), "has 18 bytes instead of 5"),
        (lambda store: store.remove("datasets/a/x"), "x is missing"),
        (lambda store: store.replace(f"datasets/a/{MANIFEST}", b'{"kind": "ta'), "torn or was altered"),
        (lambda store: store.replace(f"datasets/a/{MANIFEST}", b'{"files": 3}'), "torn or was altered"),
    ],
)
def test_an_altered_artifact_is_refused(store: Store, tamper, expected: str) -> None:  # type: ignore[no-untyped-def]
    publish(store, "datasets/a", {"x": b"12345", "y": b"1"})
    tamper(store)
    with pytest.raises(StorageError, match=expected):
        store.manifest("datasets/a")


def test_verify_sees_content_of_the_same_length(store: Store) -> None:
    publish(store, "datasets/a", {"x": b"12345"})
    store.replace("datasets/a/x", b"54321")
    store.manifest("datasets/a")
    with pytest.raises(StorageError, match="SHA-256 differs"):
        store.verify("datasets/a")


def test_staging_is_removed_when_the_block_fails(store: Store) -> None:
    with pytest.raises(RuntimeError), store.stage() as staging:
        store.replace(f"{staging.path}/x", b"1")
        raise RuntimeError
    assert store.list("_staging") == []


def test_sweep_removes_only_what_dead_processes_left(store: Store) -> None:
    host, pid, started = process_tag().split("-")
    dead, reused, far = f"a.{host}-{2**22 + 1}-{started}", f"b.{host}-{pid}-00000000", f"c.00000000-{2**22 + 1}-{started}"
    for name in (dead, reused, far, "of-somebody-else"):
        store.replace(f"_staging/{name}/x", b"1")
    with store.stage() as staging:
        store.replace(f"{staging.path}/x", b"1")
        assert store.sweep() == [dead, reused]
        assert len(store.list("_staging")) == 3


def test_a_store_travels_to_executors(store: Store) -> None:
    import pickle

    store.replace("x", b"1")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


def replace(store: Store, files: dict[str, bytes], *, partitions: bool) -> None:
    with store.stage() as staging:
        for path, body in files.items():
            store.replace(f"{staging.path}/{path}", body)
        store.replace_artifact(staging, "out", kind="predictions", fingerprint="f", partitions=partitions)


def test_replacing_leaves_only_the_new_files(store: Store) -> None:
    replace(store, {"old-1": b"1", "old-2": b"2"}, partitions=False)
    replace(store, {"new-1": b"3"}, partitions=False)
    assert [file.path for file in store.verify("out").files] == ["new-1"]
    assert set(store.files("out")) == {"new-1", MANIFEST}
    assert store.list("_staging") == []


def test_replacing_partitions_keeps_the_others(store: Store) -> None:
    replace(store, {"day=1/a": b"1", "day=2/a": b"2"}, partitions=True)
    replace(store, {"day=2/b": b"new", "day=3/b": b"3"}, partitions=True)
    assert [file.path for file in store.verify("out").files] == ["day=1/a", "day=2/b", "day=3/b"]
    assert set(store.files("out")) == {"day=1/a", "day=2/b", "day=3/b", MANIFEST}


def put(store: Store, target: str, files: dict[str, bytes], *, kind: str = "predictions", partitions: bool = False) -> None:
    with store.stage() as staging:
        for path, body in files.items():
            store.replace(f"{staging.path}/{path}", body)
        store.replace_artifact(staging, target, kind=kind, fingerprint="f", partitions=partitions)


@pytest.mark.parametrize("partitions", [False, True])
def test_what_is_not_an_output_is_never_replaced(store: Store, partitions: bool) -> None:
    store.replace("mine/thesis.txt", b"years of work")
    store.replace("rows.csv", b"raw data")
    publish(store, "table", {"a": b"1"})
    for target, reason in (("mine", "not written by sparkml"), ("rows.csv", "not written by"), ("table", "holds 'table'")):
        with pytest.raises(StorageError, match=reason):
            put(store, target, {"day=1/a": b"new"}, partitions=partitions)
    assert store.read("mine/thesis.txt") == b"years of work"
    assert store.read("rows.csv") == b"raw data"
    store.verify("table")


def test_partitions_go_on_after_a_kill_between_their_swap_and_the_manifest(store: Store) -> None:
    put(store, "out", {"day=1/a": b"1", "day=2/b": b"2"}, partitions=True)
    store.remove("out/day=2/b")
    store.replace("out/day=2/c", b"22")  # as swapped by a run that did not come to its manifest
    put(store, "out", {"day=1/d": b"111"}, partitions=True)
    assert [file.path for file in store.verify("out").files] == ["day=1/d", "day=2/c"]


def test_partitions_are_not_added_beside_rows_without(store: Store) -> None:
    put(store, "out", {"a": b"1"})
    with pytest.raises(StorageError, match="written without partitions"):
        put(store, "out", {"day=1/a": b"2"}, partitions=True)
    assert [file.path for file in store.verify("out").files] == ["a"]
