"""What hdfs-native alone does not do: forks that return, errors in words, and patience."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.devcluster.cluster import Cluster
from sparkml.errors import StorageError
from sparkml.storage import Store


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
