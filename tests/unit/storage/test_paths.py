"""A root is the folder that was named, whatever stands in its name, and stays it when a store is rebuilt from its root."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sparkml.storage import Store


@pytest.mark.parametrize("name", ["my project", "josé", "100%", "a%20b", "plus+and#hash"])
def test_the_folder_is_the_one_that_was_named(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path / name))
    for same in (store, Store(store.root), Store(Store(store.root).root), pickle.loads(pickle.dumps(store))):
        same.replace("a/b.json", b"{}")
        assert same.root == store.root
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "a" / "b.json").read_bytes() == b"{}"
