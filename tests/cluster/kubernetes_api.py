"""A Kubernetes for one machine: enough of the API for Spark's client, and pods as processes that run the image's entrypoint.

Real are Spark's submission client, its driver and executors on Kubernetes, the pods that they ask for, and
`scripts/kubernetes/entrypoint`. Not there are containers, the image, a scheduler, and a network between pods.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).parents[2]
Object = dict[str, Any]


class FakeKubernetes:
    """Objects by (kind, name) in one namespace, watches on them, and processes for the pods.

    Parameters
    ----------
    folder
        Where config maps are mounted and pods write what they print.
    secrets
        Kubernetes secrets: name -> key -> value.
    image
        Folder of an environment made as the Dockerfile says; the tests' own with the checkout when None.
    """

    def __init__(self, folder: Path, secrets: dict[str, dict[str, str]], image: Path | None = None) -> None:
        self.folder, self.secrets, self.image = folder, secrets, image
        self.objects: dict[tuple[str, str], Object] = {}
        self.pods_asked_for: list[Object] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watches: list[tuple[str, dict[str, str], queue.Queue[Object | None]]] = []
        self._lock = threading.RLock()
        self._version = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kubernetes": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End all pods and the server."""
        for process in self.processes.values():
            _end(process)
        with self._lock:
            for _, _, line in self._watches:
                line.put(None)
        self._server.shutdown()
        self._server.server_close()

    def output(self, role: str) -> str:
        """Return what the pods of a role printed."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"*.{role}.log")))

    # --- the API ---

    def put(self, kind: str, body: Object) -> Object:
        """Create or replace an object; a new pod is started."""
        with self._lock:
            self._version += 1
            name = body["metadata"]["name"]
            new = (kind, name) not in self.objects
            body["metadata"] |= {"uid": str(uuid.uuid4()), "resourceVersion": str(self._version), "namespace": "default"}
            if kind == "pods" and new:
                self.pods_asked_for.append(json.loads(json.dumps(body)))
                body["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
                body["status"] = {"phase": "Pending"}
            self.objects[kind, name] = body
            self._tell("ADDED" if new else "MODIFIED", kind, body)
        if kind == "pods" and new:
            threading.Thread(target=self._run, args=(body,), daemon=True).start()
        return body

    def remove(self, kind: str, name: str) -> None:
        with self._lock:
            found = self.objects.pop((kind, name), None)
            if found is not None:
                self._tell("DELETED", kind, found)
        if kind == "pods" and name in self.processes:
            _end(self.processes[name])

    def select(self, kind: str, wanted: dict[str, str]) -> list[Object]:
        with self._lock:
            return [item for (of, _), item in self.objects.items() if of == kind and _matches(item, wanted)]

    def watch(self, kind: str, wanted: dict[str, str]) -> queue.Queue[Object | None]:
        """Return a queue of events from now on, begun with what is there; None ends it."""
        line: queue.Queue[Object | None] = queue.Queue()
        with self._lock:
            for item in self.select(kind, wanted):
                line.put({"type": "ADDED", "object": item})
            self._watches.append((kind, wanted, line))
        return line

    def _tell(self, event: str, kind: str, item: Object) -> None:
        for of, wanted, line in self._watches:
            if of == kind and _matches(item, wanted):
                line.put({"type": event, "object": json.loads(json.dumps(item))})

    # --- the pods ---

    def _run(self, pod: Object) -> None:
        name, spec = pod["metadata"]["name"], pod["spec"]
        role = pod["metadata"]["labels"]["spark-role"]
        (container,) = spec["containers"]
        replaced = self._mounted(spec, container)
        environment = {**self._base(), **{item["name"]: self._value(item, name, replaced) for item in container.get("env", [])}}
        words = [_replace(word, replaced) for word in container["args"]]
        with (self.folder / f"{name}.{role}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(ROOT / "scripts/kubernetes/entrypoint"), *words],
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        self._status(name, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, container)
        code = process.wait()
        ended = {"terminated": {"exitCode": code if code >= 0 else 128 - code, "finishedAt": "2026-01-01T00:00:00Z"}}
        self._status(name, "Failed" if code else "Succeeded", ended, container)

    def _status(self, name: str, phase: str, state: Object, container: Object) -> None:
        with self._lock:
            pod = self.objects.get(("pods", name))
            if pod is not None:
                pod["status"] = {
                    "phase": phase,
                    "podIP": "127.0.0.1",
                    "conditions": [{"type": "Ready", "status": str("running" in state)}],
                    "containerStatuses": [{"name": container["name"], "state": state, "ready": "running" in state}],
                }
                self._version += 1
                pod["metadata"]["resourceVersion"] = str(self._version)
                self._tell("MODIFIED", "pods", pod)

    def _base(self) -> dict[str, str]:
        """What an image gives to its processes."""
        home = self.image or Path(sys.executable).parents[1]
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "JAVA_HOME", "TMPDIR") if name in os.environ}
        python = {"PYSPARK_PYTHON": f"{home}/bin/python", "PYSPARK_DRIVER_PYTHON": f"{home}/bin/python"}
        checkout = {} if self.image else {"PYTHONPATH": str(ROOT), "SPARKML_CONF_DIR": str(ROOT / "conf")}
        return {**kept, **python, **checkout, "PATH": f"{home}/bin:/usr/bin:/bin", "SPARK_LOCAL_IP": "127.0.0.1"}

    def _mounted(self, spec: Object, container: Object) -> dict[str, str]:
        """Write the config maps of a pod into folders; return what stands for what on this machine."""
        jobs = (self.image or ROOT) / "jobs"
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                self._config_map(volume["configMap"]["name"])
        replaced = {"/opt/sparkml/jobs": str(jobs)}
        for service in self.select("services", {}):
            replaced[f"{service['metadata']['name']}.default.svc"] = "127.0.0.1"
        mounts = {item["name"]: item["mountPath"] for item in container.get("volumeMounts", [])}
        held = [item for item in spec.get("volumes", []) if "configMap" in item and item["name"] in mounts]
        folders = {item["name"]: self.folder / f"mount-{uuid.uuid4().hex[:8]}" for item in held}
        replaced |= {mounts[name]: str(folder) for name, folder in folders.items()}
        for item in held:
            data = self._config_map(item["configMap"]["name"])
            named = {entry["key"]: entry["path"] for entry in item["configMap"].get("items", [])} or {key: key for key in data}
            folders[item["name"]].mkdir()
            for key, path in named.items():
                text = _replace(data[key], replaced)
                for port in ("spark.driver.port=7078", "spark.driver.blockManager.port=7079"):  # pods have addresses of their own
                    text = text.replace(port, f"{port.partition('=')[0]}=0")
                if path == "spark.properties":  # the name of the API server is known in a cluster only
                    text += f"\nspark.kubernetes.driver.master={self.url}\n"
                (folders[item["name"]] / path).write_text(text)
        return replaced

    def _config_map(self, name: str) -> dict[str, str]:
        """Return what a config map holds; Spark makes it after the pod that waits for it."""
        deadline = time.monotonic() + 60
        while ("configmaps", name) not in self.objects and time.monotonic() < deadline:
            time.sleep(0.05)
        return dict(self.objects["configmaps", name]["data"])

    def _value(self, item: Object, pod: str, replaced: dict[str, str]) -> str:
        source = item.get("valueFrom")
        if source is None:
            return _replace(item.get("value") or "", replaced)
        if "secretKeyRef" in source:
            return self.secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
        return {"status.podIP": "127.0.0.1", "metadata.name": pod, "metadata.namespace": "default"}[
            source["fieldRef"]["fieldPath"]
        ]


class _Handler(BaseHTTPRequestHandler):
    kubernetes: FakeKubernetes
    protocol_version = "HTTP/1.1"

    def _place(self) -> tuple[str, str, dict[str, str]]:
        """Return kind, name and selectors of the request."""
        parts = urlsplit(self.path)
        words = parts.path.strip("/").split("/")  # api v1 namespaces default pods NAME
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        pairs = [pair for pair in asked.get("labelSelector", "").split(",") if "=" in pair and "!=" not in pair]
        wanted = dict(pair.split("=", 1) for pair in pairs)
        if asked.get("fieldSelector", "").startswith("metadata.name="):
            wanted["metadata.name"] = asked["fieldSelector"].partition("=")[2]
        return words[4] if len(words) > 4 else "", words[5] if len(words) > 5 else "", wanted

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")

    def _answer(self, body: Object, code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        kind, name, wanted = self._place()
        if "watch=true" in self.path and "Upgrade" in self.headers:
            self._answer({"kind": "Status", "code": 200})  # no web sockets: the client then asks for a plain stream
        elif "watch=true" in self.path:
            self._stream(kind, {**wanted, **({"metadata.name": name} if name else {})})
        elif name:
            found = self.kubernetes.select(kind, {"metadata.name": name})
            self._answer(found[0]) if found else self._answer({"kind": "Status", "status": "Failure", "code": 404}, 404)
        else:
            single = {"pods": "Pod", "configmaps": "ConfigMap", "services": "Service"}.get(kind, "PersistentVolumeClaim")
            items = self.kubernetes.select(kind, wanted)
            self._answer({"kind": f"{single}List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})

    def do_POST(self) -> None:
        self._answer(self.kubernetes.put(self._place()[0], self._body()), 201)

    def do_PATCH(self) -> None:
        kind, name, _ = self._place()
        body = self._body()
        if "apply-patch" not in self.headers.get("Content-Type", ""):  # labels of a pod, not of interest here
            found = self.kubernetes.select(kind, {"metadata.name": name})
            self._answer(found[0] if found else body)
            return
        self._answer(self.kubernetes.put(kind, body))

    do_PUT = do_POST

    def do_DELETE(self) -> None:
        kind, name, wanted = self._place()
        self._body()
        for item in self.kubernetes.select(kind, {"metadata.name": name} if name else wanted):
            self.kubernetes.remove(kind, item["metadata"]["name"])
        self._answer({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _stream(self, kind: str, wanted: dict[str, str]) -> None:
        line = self.kubernetes.watch(kind, wanted)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while (event := line.get()) is not None:
                data = json.dumps(event).encode() + b"\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


def _matches(item: Object, wanted: dict[str, str]) -> bool:
    seen = {**item["metadata"].get("labels", {}), "metadata.name": item["metadata"]["name"]}
    return all(seen.get(key) == value for key, value in wanted.items())


def _replace(text: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
