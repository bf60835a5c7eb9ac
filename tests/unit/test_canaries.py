"""The look for canaries on a cluster finds them in every form, in archives, on web pages; no place is skipped silently."""

from __future__ import annotations

import base64
import gzip
import io
import json
import lzma
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest

from scripts.devcluster.cluster import Cluster
from tests.cluster.canaries import Watch, forms, unpacked

SECRET = 'c4n4ry/with"odd+signs-91'


def zipped(name: str, body: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, body)
    return file.getvalue()


def zstd(body: bytes) -> bytes:
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, "zstd") as compressing:
        compressing.write(body)
    return bytes(file.getvalue().to_pybytes())


@pytest.mark.parametrize(
    "body",
    [
        SECRET.encode(),
        b"?key=" + quote(SECRET, safe="").encode(),
        json.dumps({"key": SECRET}).encode(),
        gzip.compress(b"x=" + SECRET.encode()),
        zstd(b"x=" * 9 + SECRET.encode() * 3 + os.urandom(1 << 20))[:-9],  # torn: an event log that is being written
        lzma.compress(SECRET.encode()),
        zipped("conf/a.xml", zipped("b", SECRET.encode())),
        *(base64.b64encode(b"user:"[:cut] + SECRET.encode() + b"!") for cut in range(5)),
        SECRET.encode("utf-16-le"),
    ],
)
def test_a_secret_is_found_however_it_is_written(body: bytes) -> None:
    assert any(form in part for part in unpacked(body) for form in forms(SECRET))
    assert not any(form in part for part in unpacked(b"nothing of it, c4n4ry/with") for form in forms(SECRET))


class Pages(BaseHTTPRequestHandler):
    """A history server with one application, whose environment tells too much."""

    def do_GET(self) -> None:
        applications = self.path.endswith("/applications")
        body: Any = [{"id": "app-1", "attempts": [{"attemptId": "1"}]}] if applications else {"path": self.path}
        if self.path == "/api/v1/applications/app-1/1/environment":
            body = {"sparkProperties": [["spark.hadoop.vendor.api_key", SECRET]]}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def history() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_every_place_is_looked_at_and_an_empty_one_is_an_error(tmp_path: Path, history: int) -> None:
    folder, store = tmp_path / "cluster", tmp_path / "store"
    launched = folder / "nm0" / "local" / "usercache" / "me" / "appcache" / "app_1" / "container_1"
    for place in (launched, folder / "nm1" / "logs" / "app_1" / "container_1", store / "runs", tmp_path / "planted"):
        place.mkdir(parents=True)
    (launched / "launch_container.sh").write_text(f"export KEY='{SECRET}'\n")
    (store / "runs" / "run.json").write_bytes(gzip.compress(SECRET.encode()))
    (tmp_path / "planted" / "key").write_text(SECRET)
    (folder / "state.json").write_text(
        json.dumps({"mark": "none-such", "ports": {"history": history, "rm-http": 1}, "services": []})
    )
    with Watch(
        Cluster(folder),
        {"KEY": SECRET},
        service="yarn",
        stores=[f"file://{store}"],
        more_folders=[tmp_path / "planted"],
        allowed=[tmp_path / "planted"],
    ) as watch:
        pass
    with pytest.raises(AssertionError, match=r"nothing was there to look at: container logs, .*Spark's web pages"):
        watch.found()
    (folder / "nm1" / "logs" / "app_1" / "container_1" / "stdout").write_text("fine\n")
    watch._looked |= {"argv": 1, "Spark's web pages": 1}
    found = watch.found()
    assert sorted(line.rpartition("/")[2] for line in found) == ["environment: KEY", "launch_container.sh: KEY", "run.json: KEY"]
    assert all(SECRET not in line for line in found)
