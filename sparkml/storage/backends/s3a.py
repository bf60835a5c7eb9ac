"""S3 and compatible object stores: ``s3a://`` in Spark, s3fs in ranks and on the driver."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from sparkml.storage.backend import Backend


class S3a(Backend):
    """No rename: files are copied and a conditional put (``If-None-Match: *``) of the manifest commits.

    Credentials and endpoint come from the usual AWS environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ...).
    """

    requires = {"s3fs": "s3"}

    def filesystem(self) -> AbstractFileSystem:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return fsspec.filesystem("s3", endpoint_url=endpoint, use_listings_cache=False)

    def path(self, url: str) -> str:
        return url.removeprefix("s3a://").removeprefix("s3://")

    def create_exclusive(self, path: str, data: bytes) -> bool:
        from sparkml.storage.s3_client import code

        writer = uuid.uuid4().hex
        try:
            self.filesystem().pipe_file(path, data, mode="create", Metadata={"writer": writer})
        except OSError as error:
            if not isinstance(error, FileExistsError) and code(error) not in ("PreconditionFailed", "412"):
                raise
            # the put was made again because an answer was lost: then the object may be ours
            with contextlib.suppress(FileNotFoundError):
                return bool(self.filesystem().metadata(path, refresh=True).get("writer") == writer)
            return False
        return True

    def replace(self, path: str, data: bytes) -> None:
        self.filesystem().pipe_file(path, data)

    def spark_conf(self) -> dict[str, Any]:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        conf = {
            "spark.hadoop.fs.s3a.aws.credentials.provider": "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
        }
        if endpoint:
            conf |= {"spark.hadoop.fs.s3a.endpoint": endpoint, "spark.hadoop.fs.s3a.path.style.access": "true"}
        if found := jars():
            conf |= {"spark.jars": ",".join(map(str, found)), **committer_conf()}
        elif _among_sparks_own():
            conf |= committer_conf()
        return conf


def jars() -> list[Path]:
    """Return the jars that ``scripts/s3a-jars`` fetched; none where the cluster brings its own."""
    return sorted(Path(sys.prefix, "share", "sparkml", "s3a-jars").glob("*.jar"))


def _among_sparks_own() -> bool:
    """Whether Spark brings the committers' classes itself, as in our image."""
    spark = find_spec("pyspark")
    return any(
        list(Path(at, "jars").glob("spark-hadoop-cloud*.jar")) for at in (spark and spark.submodule_search_locations) or ()
    )


def committer_conf() -> dict[str, str]:
    """Return the settings by which Spark commits to S3A without a rename (Hadoop's "magic" committer).

    Tasks upload their files in parts to where they belong; the job completes the uploads, and until then there is nothing to see.
    The two classes of Spark's come with `jars`.
    """
    cloud = "org.apache.spark.internal.io.cloud"
    return {
        "spark.hadoop.fs.s3a.committer.name": "magic",
        "spark.hadoop.mapreduce.outputcommitter.factory.scheme.s3a": "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory",
        "spark.sql.sources.commitProtocolClass": f"{cloud}.PathOutputCommitProtocol",
        "spark.sql.parquet.output.committer.class": f"{cloud}.BindingParquetOutputCommitter",
    }
