import os
import sys
from pathlib import Path

import pytest

from sparkml import class_archive
from sparkml.errors import LaunchError, StorageError


@pytest.fixture
def java_home(tmp_path, monkeypatch):
    """A Java whose one program prints what it prints below."""
    java = tmp_path / "jvm" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'Unrecognized VM option' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jvm"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    return java


def test_the_place_is_in_the_environment_and_another_java_has_another(java_home, tmp_path):
    first = class_archive.folder()
    assert first.is_relative_to(tmp_path / "environment") and first == class_archive.folder()
    os.utime(java_home, ns=(1, 1))  # replaced by an update
    assert class_archive.folder() != first


def test_an_archive_is_used_while_a_jvm_starts_and_the_user_s_options_win(java_home, monkeypatch):
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", "-Xshare:off")
    with class_archive.used():
        assert os.environ["SPARK_SUBMIT_OPTS"] == "-Xshare:off"  # there is none yet
    archive = class_archive.folder() / "7.jsa"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"cut")
    with class_archive.used():
        assert os.environ["SPARK_SUBMIT_OPTS"] == "-Xshare:off"
    archive.write_bytes(b"classes")
    with class_archive.used():
        ours, _, theirs = os.environ["SPARK_SUBMIT_OPTS"].rpartition(" ")
        assert f"-XX:SharedArchiveFile={archive}" in ours and theirs == "-Xshare:off"
    assert os.environ["SPARK_SUBMIT_OPTS"] == "-Xshare:off"
    monkeypatch.delenv("SPARK_SUBMIT_OPTS")
    with class_archive.used():
        assert "SPARK_SUBMIT_OPTS" in os.environ
    assert "SPARK_SUBMIT_OPTS" not in os.environ


def test_without_java_spark_s_own_error_is_the_one_to_see(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with class_archive.used():
        assert "SPARK_SUBMIT_OPTS" not in os.environ
    with pytest.raises(LaunchError, match="no java in JAVA_HOME"):
        class_archive.make()


def test_a_java_that_makes_no_archive_is_an_error_and_leaves_the_old_one(java_home):
    archive = class_archive.folder() / "11.jsa"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"the old one")
    with pytest.raises(LaunchError, match="made no class-data archive"):
        class_archive.make()
    assert archive.read_bytes() == b"the old one"
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


def test_an_environment_that_cannot_be_written_to_is_an_error(java_home, tmp_path):
    Path(sys.prefix).write_bytes(b"")  # no folder can be made below a file
    with pytest.raises(StorageError, match="is not writable"):
        class_archive.make()
