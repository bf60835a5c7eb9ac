"""A rendered spark-submit on Spark's Kubernetes backend: real client, driver, executors and entrypoint, pods as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.kubernetes.manifests import problems
from sparkml.lineage.records import all_runs
from sparkml.storage import Store
from tests.cluster.kubernetes_api import FakeKubernetes, Object

BIN = Path(sys.executable).parent
CANARY = "canary-in-the-kubernetes-secret"


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[FakeKubernetes]:
    folder = tmp_path / "pods"
    folder.mkdir()
    made = FakeKubernetes(folder, {"keys": {"AWS_SECRET_ACCESS_KEY": CANARY}})
    yield made
    made.close()


@pytest.mark.timeout(700)  # three JVMs and two ranks, which share their cores with whoever else is there
def test_a_rendered_submission_trains_a_gang_and_registers(kubernetes: FakeKubernetes, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    claim = ", ".join(
        f"spark.kubernetes.{role}.volumes.persistentVolumeClaim.data.{setting}"
        for role in ("driver", "executor")
        for setting in (f"mount.path: {shared}", "options.claimName: sparkml")
    )
    settings = [
        f"store={shared}/store",
        f"spark.conf={{{claim}, spark.driver.memory: 1g}}",
        "train.candidates.net.epochs=1",
        "train.candidates.forest.params.numTrees=5",
        "register.gates=[]",
        "evaluate={metrics: [accuracy], slices: []}",
    ]
    submit = tmp_path / "submit.sh"
    words = [
        *("--target", "k8s-submit", "--image", "team/sparkml:1.0", "--api-server", kubernetes.url, "--out", str(submit)),
        *("--secret", "keys", "--secret-env", "AWS_SECRET_ACCESS_KEY"),
        *(word for setting in settings for word in ("--set", setting)),
    ]
    subprocess.run([str(BIN / "sparkml"), "render", "digits", *words], check=True, timeout=60)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "KUBECONFIG": os.devnull}
    within = ["timeout", "560", "bash", str(submit)]  # which ends spark-submit's JVM too
    done = subprocess.run(within, env=environment, capture_output=True, text=True, check=False)
    printed = kubernetes.output("driver")
    assert done.returncode == 0, done.stderr[-2000:] + printed[-4000:]

    run = next(all_runs(Store(f"{shared}/store")))
    assert (run.status, run.result["version"]) == ("done", "digits@1"), printed[-4000:]
    driver, *executors = kubernetes.pods_asked_for
    assert len(executors) == 2
    for pod in kubernetes.pods_asked_for:
        assert problems({"apiVersion": "v1", "kind": "Pod", **pod}) == []
        assert _variables(pod)["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "keys", "key": "AWS_SECRET_ACCESS_KEY"}}
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["containers"][0]["image"] == "team/sparkml:1.0"
        assert {"name": "data", "mountPath": str(shared)}.items() <= _mount(pod, str(shared)).items()
    assert driver["spec"]["containers"][0]["resources"]["limits"]["memory"] == "2048Mi"
    for executor in executors:
        assert executor["spec"]["containers"][0]["resources"]["limits"]["memory"] == "3072Mi"
        assert _mount(executor, "/dev/shm")["name"] == "sparkml-shm"
    texts = [printed, kubernetes.output("executor"), done.stdout, done.stderr, submit.read_text(), str(kubernetes.pods_asked_for)]
    texts += [path.read_text(errors="replace") for path in shared.rglob("*") if path.is_file()]
    assert not any(CANARY in text for text in texts)


def _variables(pod: Object) -> Object:
    return {item["name"]: item.get("valueFrom") for item in pod["spec"]["containers"][0]["env"]}


def _mount(pod: Object, path: str) -> Object:
    return next(item for item in pod["spec"]["containers"][0]["volumeMounts"] if item["mountPath"] == path)
