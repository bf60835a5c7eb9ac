"""An S3 endpoint: moto's server, which keeps its objects in memory."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from scripts.devcluster.daemon import HOST, Daemon, listens

BUCKET = "sparkml"
# moto takes any
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "devcluster", "AWS_SECRET_ACCESS_KEY": "devcluster", "AWS_DEFAULT_REGION": "us-east-1"}


class ObjectStore:
    """One endpoint with one bucket."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self.port = ports["s3"]

    @staticmethod
    def purposes() -> list[str]:
        """Return the ports that the endpoint needs."""
        return ["s3"]

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Return what clients need to reach it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}

    def daemon(self) -> Daemon:
        """Return the server; ready once its bucket is there."""
        command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]
        return Daemon("s3", command, {}, {"s3": self.port}, self._has_bucket)

    def _has_bucket(self) -> bool:
        if not listens(self.port):
            return False
        import boto3

        client = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **_keys())
        client.create_bucket(Bucket=BUCKET)  # the owner's second call is no error
        return True


def _keys() -> dict[str, str]:
    return {name.lower(): value for name, value in CREDENTIALS.items() if "KEY" in name}
