"""Raw files on HDFS: listed, hashed, and seen to have changed."""

from __future__ import annotations

import time

import hdfs_native
import pytest

from scripts.devcluster.cluster import Cluster
from sparkml.ingest import files
from sparkml.storage import Store


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    cluster.up(["hdfs"])
    return cluster.environment()["SPARKML_HDFS"]


def write(url: str, path: str, data: bytes) -> None:
    file = hdfs_native.Client(url).create(path, hdfs_native.WriteOptions(overwrite=True))
    file.write(data)
    file.close()


def test_a_folder_a_glob_and_a_file_are_found(url: str) -> None:
    for name in ("a.csv", "deep/b.csv", "_SUCCESS", "c.txt"):
        write(url, f"/raw/{name}", b"1")
    assert files.expand([f"{url}/raw"]) == [f"{url}/raw/a.csv", f"{url}/raw/c.txt", f"{url}/raw/deep/b.csv"]
    assert files.expand([f"{url}/raw/*.csv"]) == [f"{url}/raw/a.csv"]
    assert files.expand([f"{url}/raw/c.txt"]) == [f"{url}/raw/c.txt"]


def test_other_content_of_the_same_size_is_seen(url: str) -> None:
    write(url, "/raw2/a.csv", b"old")
    (first,) = files.scan([f"{url}/raw2/a.csv"], {})
    assert files.scan([f"{url}/raw2/a.csv"], {first.path: first}) == [first]
    time.sleep(0.01)  # the time of a file counts milliseconds
    write(url, "/raw2/a.csv", b"new")
    (second,) = files.scan([f"{url}/raw2/a.csv"], {first.path: first})
    assert second.sha256 != first.sha256


def test_ranges_are_cut_at_the_end_like_any_file_s(url: str) -> None:
    write(url, "/ranges/a", b"0123456789")
    store = Store(f"{url}/ranges")
    assert [store.read("a", *span) for span in ((None, None), (2, 4), (8, 50), (4, 4))] == [b"0123456789", b"23", b"89", b""]
    assert store.read("a", 20, 30) == b"", "hdfs-native panics beyond the end"
    assert store.fs.cat_file(store.at("a"), start=-3) == b"789"
    with store.open("a") as file:
        assert (file.seek(20), file.read()) == (10, b"")
