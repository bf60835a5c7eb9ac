"""The pods of a run: what Spark's own settings cannot say of them, as the templates that every target takes."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from sparkml.render.plan import Plan

HOME = "/opt/sparkml"  # where scripts/kubernetes/Dockerfile puts the environment and jobs/
MAIN = f"local://{HOME}/jobs/pipeline.py"
CONTAINERS = {"driver": "spark-kubernetes-driver", "executor": "spark-kubernetes-executor"}  # Spark's own names of them
_USER = 185  # Spark's images use it, and the Dockerfile makes it


def labels(plan: Plan) -> dict[str, str]:
    """Return what everything of this run is found by."""
    return {"app.kubernetes.io/name": "sparkml", "app.kubernetes.io/instance": plan.name}


def pod_template(plan: Plan, role: str) -> dict[str, Any]:
    """Return metadata and spec of the pods of a role, ``driver`` or ``executor``."""
    container: dict[str, Any] = {"name": CONTAINERS[role], "securityContext": container_security()}
    variables = [{"name": name, "valueFrom": _from_secret(plan, name)} for name in plan.variables]
    if variables:
        container["env"] = variables
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    if role == "executor":
        # ranks of one pod sum in shared memory (ADR 0007), of which a container has 64 MB unless it is given more
        volumes.append({"name": "sparkml-shm", "emptyDir": {"medium": "Memory", "sizeLimit": plan.place.shared_memory}})
        mounts.append({"name": "sparkml-shm", "mountPath": "/dev/shm"})
    if plan.files:
        keys = [{"key": PurePosixPath(path).name, "path": PurePosixPath(path).name} for path in plan.files]
        # readable by the group, which fsGroup makes ours
        secret = {"secretName": plan.place.secret, "items": keys, "defaultMode": 0o440}
        volumes.append({"name": "sparkml-secret", "secret": secret})
        for path in plan.files:
            mounts.append({"name": "sparkml-secret", "mountPath": path, "subPath": PurePosixPath(path).name, "readOnly": True})
    if mounts:
        container["volumeMounts"] = mounts
    spec: dict[str, Any] = {"securityContext": pod_security(), "containers": [container]}
    if volumes:
        spec["volumes"] = volumes
    return {"metadata": {"labels": labels(plan)}, "spec": spec}


def _from_secret(plan: Plan, name: str) -> dict[str, Any]:
    return {"secretKeyRef": {"name": plan.place.secret, "key": name}}


def pod_security() -> dict[str, Any]:
    """Return what Kubernetes' restricted standard asks of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Return what Kubernetes' restricted standard asks of a container."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
