"""Versions have one writer, aliases a history, references good errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparkml.errors import ConfigError, StorageError
from sparkml.registry.bundle import Bundle
from sparkml.registry.registry import ModelVersion, Registry
from sparkml.storage import Store

BUNDLE = Bundle(
    pipeline="p",
    candidate="c",
    task="classification",
    classes=["a", "b"],
    shape=[2],
    feature_names=["x", "y"],
    trainer={"trainer": "mllib"},
    source={},
    contract={},
    target={},
    split={},
    features={},
    signature={},
    test_fingerprint="t",
    model_fingerprint="m",
    seed=7,
)


def publish(registry: Registry, name: str = "m", model: str = "m") -> ModelVersion:
    store = registry.store
    with store.stage() as staging:
        store.replace(f"{staging.path}/bundle.json", BUNDLE.model_copy(update={"model_fingerprint": model}).model_dump())
        return registry.publish(name, staging, fingerprint=model, lineage={}, extra={})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Store(str(tmp_path)))


def test_eight_writers_get_eight_versions(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: publish(registry, model=str(number)), range(8)))
    assert sorted(version.version for version in made) == list(range(1, 9)) == registry.versions("m")
    for version in made:
        assert registry.get("m", version.version).bundle.model_fingerprint == version.bundle.model_fingerprint


def test_references(registry: Registry) -> None:
    publish(registry)
    publish(registry, model="other")
    registry.set_alias("m", "champion", 1, run_id="r", when="now", reason="first")
    registry.set_alias("m", "champion", 2, run_id="r", when="now", reason="better")
    assert registry.resolve("m").version == 2 == registry.resolve("m@champion").version
    assert registry.resolve("m@1").label == "m@1"
    assert [(move["from"], move["version"]) for move in registry.alias_history("m")] == [(None, 1), (1, 2)]
    assert registry.find("m", "other").version == 2  # type: ignore[union-attr]
    assert registry.find("m", "nothing") is None


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("n", "allowed: m"),
        ("m@champoin", "did you mean 'champion'"),
        ("m@9", "has no '9'"),
        ("../x", "not allowed"),
        ("m@../../x", "has no"),
    ],
)
def test_a_wrong_reference_says_what_there_is(registry: Registry, reference: str, expected: str) -> None:
    publish(registry)
    registry.set_alias("m", "champion", 1, run_id="r", when="now", reason="first")
    with pytest.raises(ConfigError, match=expected):
        registry.resolve(reference)


def test_a_strangers_model_folder_is_refused(registry: Registry) -> None:
    registry.store.replace("models/m/1/model.pkl", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(StorageError, match=r"no _MANIFEST\.json"):
        registry.resolve("m@1")
    assert registry.versions("m") == []  # nor is what a killed publisher left on storage without rename
    assert publish(registry).version == 2
