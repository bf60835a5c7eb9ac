"""Names on HDFS and S3: none leads out of a store, and what only looks as if it did is a name there as well."""

from __future__ import annotations

import pytest

from scripts.devcluster.cluster import Cluster
from sparkml.errors import StorageError
from sparkml.storage import Store
from tests.unit.storage.test_names import OUTWARD, USES, publish

PLAIN = ["%2e%2e/loot", "..\\loot", "．．/loot", "k=../loot", "...", "..%2floot"]


@pytest.mark.parametrize("service", ["SPARKML_HDFS", "SPARKML_S3"])
def test_no_name_leads_out_of_a_store(cluster: Cluster, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.up(["hdfs", "s3"])
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    around = Store(f"{cluster.environment()[service]}/names")
    around.replace("loot", b"not ours")
    store = Store(f"{around.root}/store")
    store.replace("datasets/x", b"ours")
    for use in USES.values():
        for name in OUTWARD:
            with pytest.raises(StorageError, match="is no path of a store"):
                use(store, name)
    for name in PLAIN:
        store.replace(name, b"data")
        assert store.read(name) == b"data"
        publish(store, f"out/{name}")
        store.verify(f"out/{name}")
    found = around.files("")
    assert {path for path in found if not path.startswith("store/")} == {"loot"}
    assert {path.removeprefix("store/") for path in found} >= set(PLAIN)
    store.remove("")
    assert around.read("loot") == b"not ours"
