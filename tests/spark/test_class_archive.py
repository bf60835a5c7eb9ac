"""The class-data archive that `make setup` made: a JVM of ours maps it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.find_spark_home import _find_spark_home

from sparkml import class_archive

STARTED = """
from pathlib import Path
from sparkml.spark_session import session
spark = session("local[1]", conf={"spark.ui.enabled": "false"})
assert spark.range(3).count() == 3
print(Path(f"/proc/{spark.sparkContext._gateway.proc.pid}/maps").read_text())
spark.stop()
"""


@pytest.fixture(scope="module")
def archive():
    """What set-up made; made here if it could not then."""
    return class_archive.found() or class_archive.make()


def test_a_session_s_jvm_maps_the_archive(archive):
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, timeout=120, check=True)
    assert str(archive) in done.stdout


def test_a_torn_archive_is_passed_over_in_silence(archive, tmp_path, monkeypatch):
    environment = tmp_path / "environment"
    code = f"import sys; sys.prefix = {str(environment)!r}\n{STARTED}"
    torn = environment / "share" / "sparkml" / archive.parent.name / archive.name
    torn.parent.mkdir(parents=True)
    torn.write_bytes(archive.read_bytes()[: 1 << 20])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert str(torn) not in done.stdout
    assert "archive" not in done.stderr


def test_an_archive_of_other_jars_is_passed_over_in_silence(archive, tmp_path):
    """Spark of another place, with jars of another time."""
    home = tmp_path / "spark"
    home.mkdir()
    for item in Path(_find_spark_home()).iterdir():
        if item.name != "jars":
            (home / item.name).symlink_to(item)
    shutil.copytree(Path(_find_spark_home()) / "jars", home / "jars", copy_function=shutil.copyfile)  # of another time
    options = f"-XX:SharedArchiveFile={archive} -Xlog:disable -Xlog:all=error:stderr"
    environment = {**os.environ, "SPARK_HOME": str(home), "SPARK_SUBMIT_OPTS": options}
    done = subprocess.run(
        [sys.executable, "-c", STARTED], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert str(archive) not in done.stdout
    assert "archive" not in done.stderr
