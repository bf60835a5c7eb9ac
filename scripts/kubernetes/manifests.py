"""Check manifests against the published schemas: ``.venv/bin/python -m scripts.kubernetes.manifests FILE...``

Kubernetes' own kinds by the schemas that the package ``kubernetes-validate`` ships; Kubeflow's operator by the custom resource
definitions in its Go module, fetched and verified by ``go mod download``. Those of Apache's operator are in no package registry:
``APACHE_SPARK_CRD`` names the file ``sparkapplications.spark.apache.org-v1.yaml`` of its Helm chart, release 1.0.0.

A cluster drops fields that a schema does not know; here they are errors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.33"  # timeZone of CronJobs is in all supported versions
KUBEFLOW = "github.com/kubeflow/spark-operator/v2@v2.4.0"
_KUBEFLOW_SUM = "h1:Bo5rz5dlhqYEa7e/TLtUEVXDMNRotnVaQ4VLCyeLeOc="  # Go's checksum of the module
_APACHE_SHA256 = "f13f108b473bd843cdccc35405927c4684cd1edc4325fb77869fec54af215a25"  # release 1.0.0


class SchemaMissing(Exception):  # noqa: N818
    """A schema cannot be had on this machine; the message says what is missing."""


def problems(document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a manifest, each as ``path: reason``. Raises `SchemaMissing`."""
    kind = (document["apiVersion"], document["kind"])
    if kind in {
        ("sparkoperator.k8s.io/v1beta2", "SparkApplication"),
        ("sparkoperator.k8s.io/v1beta2", "ScheduledSparkApplication"),
    }:
        return [*_by_definition(document, kubeflow_definition(kind[1]), "v1beta2"), *_templates(document)]
    if kind == ("spark.apache.org/v1", "SparkApplication"):
        return _by_definition(document, apache_definition(), "v1")
    return [*_by_kubernetes(document), *_embedded(document)]


def _by_kubernetes(document: Mapping[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(dict(document), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}"]
    return []


def _by_definition(document: Mapping[str, Any], definition: Mapping[str, Any], version: str) -> list[str]:
    (schema,) = [item["schema"]["openAPIV3Schema"] for item in definition["spec"]["versions"] if item["name"] == version]
    checked = strict(schema)
    checked["properties"] = {"apiVersion": {}, "kind": {}, "metadata": {}, **checked["properties"]}  # every object has them
    found = jsonschema.Draft202012Validator(checked).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def strict(schema: Any) -> Any:
    """Return an OpenAPI schema of a custom resource as a JSON schema to which an unknown field is an error."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key not in {"properties", "default", "enum"}}
    made |= {key: schema[key] for key in ("default", "enum") if key in schema}
    if "properties" in schema:
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    return made


def _templates(document: Mapping[str, Any]) -> Iterator[str]:
    """Kubeflow's definition leaves pod templates open: they are pods."""
    spec = document["spec"] if document["kind"] == "SparkApplication" else document["spec"]["template"]
    for role in ("driver", "executor"):
        if "template" in spec[role]:
            pod = {"apiVersion": "v1", "kind": "Pod", **spec[role]["template"]}
            yield from (f"spec.{role}.template.{problem}" for problem in _by_kubernetes(pod))


def _embedded(document: Mapping[str, Any]) -> Iterator[str]:
    """Manifests within a ConfigMap."""
    if document["kind"] == "ConfigMap":
        for name, text in document["data"].items():
            if name.endswith(".yaml"):
                yield from (f"data.{name}: {problem}" for problem in problems(yaml.safe_load(text)))


@cache
def kubeflow_definition(kind: str) -> Any:
    """Return the definition of a kind of Kubeflow's operator. Raises `SchemaMissing`."""
    if shutil.which("go") is None:
        raise SchemaMissing(f"go is missing, which fetches {KUBEFLOW}")
    fetch = ["timeout", "60", "go", "mod", "download", "-json", KUBEFLOW]  # a network that swallows packets is none
    done = subprocess.run(fetch, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    if done.returncode or "Dir" not in found:
        raise SchemaMissing(f"{KUBEFLOW} cannot be fetched: {found.get('Error', done.stderr.strip())}")
    if found["Sum"] != _KUBEFLOW_SUM:
        raise ValueError(f"{KUBEFLOW} has the checksum {found['Sum']}, expected {_KUBEFLOW_SUM}")
    return _read(Path(found["Dir"], "config", "crd", "bases", f"sparkoperator.k8s.io_{kind.lower()}s.yaml"))


@cache
def apache_definition() -> Any:
    """Return the definition of SparkApplication of Apache's operator. Raises `SchemaMissing`."""
    path = os.environ.get("APACHE_SPARK_CRD")
    if path is None:
        raise SchemaMissing("APACHE_SPARK_CRD does not name the file of Apache's operator, which is in no package registry")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if digest != _APACHE_SHA256:
        raise ValueError(f"{path} has the checksum {digest}, expected {_APACHE_SHA256}")
    return _read(Path(path))


def _read(path: Path) -> Any:
    with path.open(encoding="utf-8") as file:
        return yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def main() -> int:
    """Check the files of the command line; 1 if one is wrong."""
    wrong = 0
    for name in sys.argv[1:]:
        for document in yaml.safe_load_all(Path(name).read_text(encoding="utf-8")):
            found = problems(document)
            wrong += len(found)
            print("\n".join(found) or f"{name}: {document['kind']} {document['metadata']['name']} is valid")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
