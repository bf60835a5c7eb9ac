"""Layers, origins, advice and secrets of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from sparkml.config import (
    Layered,
    Options,
    Origin,
    check_name,
    load_layers,
    parse_assignment,
    read_yaml,
    redact,
    resolve_reference,
    validate,
)
from sparkml.errors import ConfigError
from sparkml.plugins import Plugin, load, names, plugged


class Inner(Options):
    epochs: int = 1
    mode: Literal["fast", "exact"] = "fast"


class Outer(Options):
    train: Inner = Inner()
    store: str = "x"
    where: plugged("storage.backends") = None  # type: ignore[valid-type]


def layered(values: dict[str, Any], **origins: Origin) -> Layered:
    return Layered(values, {path.replace("__", "."): origin for path, origin in origins.items()})


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "conf"
    (folder / "env").mkdir(parents=True)
    (folder / "base.yaml").write_text("store: base\ntrain:\n  epochs: 1\n  mode: fast\n")
    (folder / "env" / "yarn.yaml").write_text("store: hdfs\n")
    (folder / "p.yaml").write_text("train:\n  epochs: 2\n")
    monkeypatch.setenv("SPARKML_CONF_DIR", str(folder))
    return folder


def test_later_layers_win_and_every_value_knows_its_origin(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKML__TRAIN__MODE", "exact")
    merged = load_layers(conf / "p.yaml", "yarn", ["train.epochs=5"])
    assert merged.values == {"store": "hdfs", "train": {"epochs": 5, "mode": "exact"}}
    assert str(merged.origin("store")) == f"{conf}/env/yarn.yaml:1"
    assert str(merged.origin("train.epochs")) == "--set"
    assert str(merged.origin("train.mode")) == "environment variable SPARKML__TRAIN__MODE"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train": {"epochz": 3}}, "train.epochz = 3: unknown key; did you mean 'epochs'?"),
        ({"train": {"epochs": "many"}}, "train.epochs = 'many'"),
        ({"train": {"mode": "exakt"}}, "did you mean 'exact'? allowed: exact, fast"),
        ({"where": {"type": "flie"}}, "did you mean 'file'? allowed: file, hdfs, memory, s3a"),
        ({"where": {"type": "file", "colour": 1}}, "where.colour = 1: unknown key"),
        ({"where": {}}, "must be a mapping with the key 'type'"),
    ],
)
def test_a_wrong_setting_is_shown_with_its_path_value_and_advice(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Outer, layered(values))
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_problems_are_listed_at_once_with_file_and_line(conf: Path) -> None:
    (conf / "p.yaml").write_text("train:\n  epochs: many\n  speed: 3\n")
    with pytest.raises(ConfigError) as caught:
        validate(Outer, load_layers(conf / "p.yaml", None))
    (conf / "p.yaml").write_text("train:\n  epochs: many\nstor: 3\n")
    assert f"{conf}/p.yaml:3: train.speed" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        validate(Outer, load_layers(conf / "p.yaml", None))
    assert f"{conf}/p.yaml:3: stor = 3: unknown key; did you mean 'store'?" in str(caught.value)


def test_a_setting_of_sparks_is_one_key_with_dots_in_it(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (conf / "env" / "far.yaml").write_text("spark: {conf: {spark.executor.cores: 1, spark.executor.memoryOverhead: 2g}}\n")
    monkeypatch.setenv("SPARKML__SPARK__CONF__SPARK__EXECUTOR__MEMORYOVERHEAD", "3g")
    layered = load_layers(None, "far", ["spark.conf.spark.executor.cores=4"])
    assert layered.values["spark"]["conf"] == {"spark.executor.cores": 4, "spark.executor.memoryOverhead": "3g"}


def test_unknown_env_names_what_there_is(conf: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'yarn'"):
        load_layers(None, "yran")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("a: 1\nb: 2\na: 3\n")
    with pytest.raises(ConfigError, match=r"twice.yaml:3: key 'a' stands twice"):
        read_yaml(tmp_path / "twice.yaml")


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\xff"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad.yaml"):
        read_yaml(tmp_path / "bad.yaml")


def test_changing_a_plugin_starts_its_options_anew() -> None:
    merged = Layered()
    merged.add({"source": {"type": "csv", "delimiter": ";"}}, {})
    merged.add({"source": {"type": "parquet", "path": "x"}}, {})
    assert merged.values == {"source": {"type": "parquet", "path": "x"}}


def test_set_needs_a_key_and_takes_yaml_values() -> None:
    assert parse_assignment("a.b=[1, 2]") == ("a.b", [1, 2])
    with pytest.raises(ConfigError, match=r"key\.path=value"):
        parse_assignment("a.b")


@pytest.mark.parametrize("name", ["..", "a..b", "a/b", "a b", "", "é", "-a", "a.", "a" * 81, "con\n"])
def test_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "a", "v1.2-rc", "A" * 80])
def test_ordinary_names_are_taken(name: str) -> None:
    assert check_name(name) == name


def test_a_literal_secret_is_refused_and_not_shown(conf: Path) -> None:
    (conf / "p.yaml").write_text("spark:\n  conf:\n    spark.hadoop.fs.s3a.secret.key: hunter2\n")
    with pytest.raises(ConfigError) as caught:
        load_layers(conf / "p.yaml", None)
    assert "hunter2" not in str(caught.value)
    assert "p.yaml:3" in str(caught.value)


def test_a_reference_is_resolved_at_use_and_redacted_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DB_PASS", "s3cr3t-value")
    (tmp_path / "key").write_text("file-secret\n")
    assert resolve_reference("x-${env:DB_PASS}-${file:" + str(tmp_path / "key") + "}") == "x-s3cr3t-value-file-secret"
    assert redact("it is s3cr3t-value, file-secret") == "it is ***, ***"
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        resolve_reference("${env:NOT_SET}")


def test_plugin_names_are_file_names_and_loading_gives_the_class() -> None:
    assert names("storage.backends") == ("file", "hdfs", "memory", "s3a")
    plugin = load("storage.backends", "file")
    assert issubclass(plugin, Plugin)
    assert plugin.plugin_name() == "file"


def test_a_missing_optional_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "s3fs" else real(name, *rest))
    load.cache_clear()
    with pytest.raises(ConfigError) as caught:
        load("storage.backends", "s3a")
    assert "pip install 'sparkml[s3]'" in str(caught.value)
    load.cache_clear()
