"""Names that come from people or are read back from files never lead out of the folder they belong in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from sparkml.config import check_name
from sparkml.errors import ConfigError, StorageError
from sparkml.lineage.records import load_run, save_run, start_run
from sparkml.registry.registry import Registry
from sparkml.score.output import output_store
from sparkml.storage import FileEntry, Staging, Store

OUTWARD = [
    "..",
    "../loot",
    "a/../../loot",
    "a/..",
    "./../loot",
    "/../loot",
    "a//../../loot",
    "a\0b",
    "datasets/./x",
    ".",
    "a\n/../b",
]
# looks like it, and is a plain name on every storage
PLAIN = ["%2e%2e/loot", "..\\loot", "．．/loot", "…/loot", "/etc/loot", "~/loot", "k=../loot", "...", "..%2floot", "$HOME/loot"]
FILE = {"path": "a", "size": 4, "sha256": "0" * 64}


def publish(store: Store, target: str, kind: str = "table") -> None:
    with store.stage() as staging:
        store.replace(f"{staging.path}/a", b"data")
        store.publish(staging, target, kind=kind, fingerprint="f")


def swap_in(store: Store, target: str) -> None:
    with store.stage() as staging:
        store.replace(f"{staging.path}/a", b"data")
        store.replace_artifact(staging, target, kind="predictions", fingerprint="f")


USES: dict[str, Callable[[Store, str], Any]] = {
    "open": lambda store, name: store.open(name, "wb").close(),
    "replace": lambda store, name: store.replace(name, b"data"),
    "create": lambda store, name: store.create_exclusive(name, b"data"),
    "read": lambda store, name: store.read(name),
    "exists": lambda store, name: store.exists(name),
    "list": lambda store, name: store.list(name),
    "files": lambda store, name: store.files(name),
    "remove": lambda store, name: store.remove(name),
    "copy from": lambda store, name: store.copy(name, "b"),
    "copy to": lambda store, name: store.copy("datasets", name),
    "publish": publish,
    "replace_artifact": swap_in,
    "url": lambda store, name: store.url(name),
    "staging": lambda store, name: Staging(store, name).url,
}


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store with something in it, and beside it what nobody may touch."""
    root = str(tmp_path) if request.param == "file" else f"memory://{uuid4().hex}"
    Store(root).replace("loot", b"not ours")
    made = Store(f"{root}/store")
    made.replace("datasets/x", b"ours")
    return made


def beside(store: Store) -> dict[str, bytes]:
    """Everything around the store, by path."""
    around = Store(store.root.rpartition("/")[0])
    return {path: around.read(path) for path in around.files("") if not path.startswith("store/")}


@pytest.mark.parametrize("use", USES)
def test_no_path_leads_out_of_a_store(store: Store, use: str) -> None:
    for name in OUTWARD:
        with pytest.raises(StorageError, match="is no path of a store"):
            USES[use](store, name)
    assert beside(store) == {"loot": b"not ours"}
    assert store.read("datasets/x") == b"ours"


@pytest.mark.parametrize("name", PLAIN, ids=ascii)
def test_what_only_looks_like_it_is_a_plain_name(store: Store, name: str) -> None:
    store.replace(name, b"data")
    assert store.read(name) == b"data"
    publish(store, f"out/{name}")
    assert beside(store) == {"loot": b"not ours"}
    store.remove(name)
    assert not store.exists(name)


def test_a_name_that_is_too_long_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"):
        Store(str(tmp_path)).replace("x" * 300, b"data")


def test_links_inside_a_store_are_removed_not_followed(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis").write_text("years of work")
    store = Store(str(tmp_path / "store"))
    publish(store, "datasets/a/b")
    (tmp_path / "store" / "datasets" / "a" / "link").symlink_to(tmp_path / "others")
    store.remove("datasets/a")
    assert not store.exists("datasets/a")
    assert (tmp_path / "others" / "thesis").read_text() == "years of work"


@pytest.mark.parametrize("path", ["../../loot", "/etc/passwd", "a/../../b", "", ".", "a\0", "//x"], ids=ascii)
def test_a_manifest_names_only_files_of_its_artifact(store: Store, path: str) -> None:
    with pytest.raises(ValidationError):
        FileEntry.model_validate({**FILE, "path": path})
    publish(store, "out", "predictions")
    body = store.read_json("out/_MANIFEST.json")
    store.replace("out/_MANIFEST.json", {**body, "files": [{**FILE, "path": path}]})
    for use in (store.manifest, store.verify):
        with pytest.raises(StorageError, match="torn or was altered"):
            use("out")
    with store.stage() as staging, pytest.raises(StorageError, match="torn or was altered"):
        store.replace(f"{staging.path}/day=1/a", b"data")
        store.replace_artifact(staging, "out", kind="predictions", fingerprint="f", partitions=True)
    assert beside(store) == {"loot": b"not ours"}


@pytest.mark.parametrize("run_id", ["..", "../../loot", "", "a/b", "x\0y", "./x", "%2e%2e/.."], ids=ascii)
def test_no_run_is_found_or_written_elsewhere(store: Store, run_id: str) -> None:
    with pytest.raises(ConfigError):
        load_run(store, run_id)
    run = start_run("digits", None, {}, {})
    save_run(store, run)
    altered = {**store.read_json(f"runs/{run.run_id}/run.json"), "run_id": run_id}
    store.replace(f"runs/{run.run_id}/run.json", altered)
    with pytest.raises(StorageError, match="torn or was altered"):
        load_run(store, run.run_id)
    assert beside(store) == {"loot": b"not ours"}


def bundle(pipeline: str) -> dict[str, Any]:
    mappings = ("trainer", "source", "contract", "target", "split", "features", "signature")
    lists = ("classes", "shape", "feature_names")
    texts = {"candidate": "net", "task": "regression", "test_fingerprint": "t", "model_fingerprint": "m"}
    return {**{name: {} for name in mappings}, **{name: [] for name in lists}, **texts, "pipeline": pipeline, "seed": 1}


def register(store: Store, pipeline: str) -> None:
    with store.stage() as staging:
        store.replace(f"{staging.path}/bundle.json", json.dumps(bundle(pipeline)).encode())
        store.publish(staging, "models/digits/1", kind="model", fingerprint="f")


@pytest.mark.parametrize("name", ["..", "../digits", "digits/..", "dig\0its", "digits/1", "", "．．", "x" * 81], ids=ascii)
def test_models_aliases_and_what_a_bundle_says_are_names(store: Store, name: str) -> None:
    registry = Registry(store)
    register(store, "digits")
    assert registry.resolve("digits@1").bundle.pipeline == "digits"
    with pytest.raises(ConfigError):
        registry.resolve(name)
    with pytest.raises(ConfigError):
        registry.set_alias("digits", name, 1, run_id="r", when="now", reason="")
    with pytest.raises(ConfigError):
        registry.set_alias(name, "champion", 1, run_id="r", when="now", reason="")
    with store.stage() as staging, pytest.raises(ConfigError):
        registry.publish(name, staging, fingerprint="f", lineage={}, extra={})
    store.remove("models/digits")
    register(store, name)
    with pytest.raises(StorageError, match="not a model of this sparkml"):
        registry.resolve("digits@1")
    assert beside(store) == {"loot": b"not ours"}


def test_a_folder_of_versions_may_hold_strange_names(store: Store) -> None:
    register(store, "digits")
    for name in ("²", "٣", "01", "-1", "1.0", "_claims", "1 "):
        store.replace(f"models/digits/{name}/x", b"")
    assert Registry(store).versions("digits") == [1]


@pytest.mark.parametrize("output", ["out/..", "..", ".", "a/b/%2e%2e", "out/．．", "a/\0", "", "/", "x" * 300], ids=ascii)
def test_the_output_of_score_is_a_folder_with_a_name(output: str) -> None:
    with pytest.raises(ConfigError, match="output folder"):
        output_store(output)


@pytest.mark.parametrize(
    "name", ["a..b", "a/b", "a\\b", "a b", "é", "‥", "a\n", "-a", ".a", "a.", "a\0", "%61", "A" * 81], ids=ascii
)
def test_names_are_short_plain_ascii(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)
