"""One Spark session for the whole run, every scratch folder of it in pytest's own temporary folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.devcluster.cluster import Cluster

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data sets beside the checkout."""
    folder = Path(os.environ.get("SPARKML_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real data sets (../shared/data) are not on this machine; see README, 'Data'")
    return folder


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of real services on loopback; a test starts those that it needs (``cluster.up``), and they stay to the end."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), tied=True)
    yield made
    made.down()


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    scratch = tmp_path_factory.mktemp("spark")
    session = (
        SparkSession.builder.master("local[2]")
        .appName("sparkml-tests")
        .config("spark.driver.bindAddress", "127.0.0.1")  # tests never listen on the network
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.memory", "2g")
        .config("spark.ui.enabled", "false")  # starts faster, and no port to collide on
        .config("spark.sql.shuffle.partitions", "2")  # test data is small: 200 empty tasks would dominate
        .config("spark.sql.session.timeZone", "UTC")  # the same instants on every machine
        .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
        .config("spark.local.dir", str(scratch / "local"))
        .config("spark.driver.extraJavaOptions", f"-Dderby.system.home={scratch}")
        .config("spark.barrier.sync.timeout", "120")  # the default is a year
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()
