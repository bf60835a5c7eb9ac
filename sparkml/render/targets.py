"""One function for each target: a `Plan` as a script or as manifests."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import yaml

from sparkml.errors import ConfigError
from sparkml.render.plan import Plan
from sparkml.render.pods import HOME, MAIN, container_security, labels, pod_security, pod_template

_IN_CLUSTER = "https://kubernetes.default.svc"
_TEMPLATES = "/etc/sparkml/pods/"  # where a CronJob's pod finds the pod templates
_RETRY_SECONDS = 120  # longer than it takes until the lease of a driver that is gone is given to another


def render(plan: Plan, target: str) -> str:
    """Return the text of a target: ``k8s-submit`` is a shell script, all others are YAML.

    Raises
    ------
    ConfigError
        The target cannot do what the plan asks for.
    """
    place = plan.place
    if place.schedule is not None and target in {"k8s-submit", "spark-kubernetes-operator"}:
        raise ConfigError(f"--target {target} runs once, it knows no --schedule", hint="--target cronjob, or spark-operator")
    if place.schedule is None and target == "cronjob":
        raise ConfigError("--target cronjob needs a --schedule", hint="--schedule '0 2 * * *' is every night at two, UTC")
    if place.api_server is not None and target in {"spark-operator", "spark-kubernetes-operator"}:
        raise ConfigError(f"--target {target} takes no --api-server: the operator submits from inside of the cluster")
    if place.scheduler is not None and target != "spark-operator":
        raise ConfigError(
            f"--target {target} takes no --scheduler: only Kubeflow's operator makes a group whose pods start at once",
            hint="--target spark-operator",
        )
    if place.retries and target == "k8s-submit":
        raise ConfigError(
            "--target k8s-submit takes no --retries: nobody is there to start the driver again", hint="--target cronjob"
        )
    return TARGETS[target](plan)


def k8s_submit(plan: Plan) -> str:
    """A script that runs spark-submit with pod templates of its own."""
    if plan.place.api_server is None:
        raise ConfigError("--target k8s-submit needs --api-server", hint="kubectl cluster-info prints it")
    files = "".join(
        f"cat > {role}.yaml <<'END_OF_POD'\n{_yaml(_template_file(plan, role))}END_OF_POD\n" for role in ("driver", "executor")
    )
    words = [shlex.quote(word) for word in _spark_submit(plan, plan.place.api_server, "")]
    return (
        f"#!/usr/bin/env bash\n# {_about(plan)}\nset -euo pipefail\n"
        f'pods=$(mktemp -d)\ntrap \'rm -rf "$pods"\' EXIT\ncd "$pods"\n{files}{_on_lines(words)}\n'
    )


def spark_operator(plan: Plan) -> str:
    """SparkApplication, or with a schedule ScheduledSparkApplication, of Kubeflow's Spark operator."""
    conf = dict(plan.conf)
    driver: dict[str, Any] = {"serviceAccount": conf.pop("spark.kubernetes.authenticate.driver.serviceAccountName")}
    executor: dict[str, Any] = {}
    conf.pop("spark.kubernetes.namespace")  # both have fields of their own
    for role, fields in (("driver", driver), ("executor", executor)):
        for name in ("cores", "memory", "memoryOverhead", "instances"):
            if (value := conf.pop(f"spark.{role}.{name}", None)) is not None:
                fields[name] = int(value) if name in {"cores", "instances"} else value
        fields["template"] = pod_template(plan, role)
    retries = plan.place.retries
    spec: dict[str, Any] = {
        "type": "Python",
        "pythonVersion": "3",
        "mode": "cluster",
        "sparkVersion": version("pyspark"),
        "image": conf.pop("spark.kubernetes.container.image"),
        "mainApplicationFile": MAIN,
        "arguments": list(plan.arguments),
        "sparkConf": conf,
        "restartPolicy": {"type": "OnFailure", "onFailureRetries": retries, "onFailureRetryInterval": _RETRY_SECONDS}
        if retries
        else {"type": "Never"},
        "driver": driver,
        "executor": executor,
    }
    if plan.place.scheduler is not None:
        spec["batchScheduler"] = plan.place.scheduler
    kind = "SparkApplication"
    if plan.place.schedule is not None:
        kind = "ScheduledSparkApplication"
        spec = {
            "schedule": plan.place.schedule,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "successfulRunHistoryLimit": 3,
            "failedRunHistoryLimit": 3,
            "template": spec,
        }
    return _manifests(
        plan, {"apiVersion": "sparkoperator.k8s.io/v1beta2", "kind": kind, "metadata": _metadata(plan), "spec": spec}
    )


def spark_kubernetes_operator(plan: Plan) -> str:
    """SparkApplication of Apache Spark's own operator."""
    spec: dict[str, Any] = {
        "mainClass": "org.apache.spark.deploy.PythonRunner",
        "pyFiles": MAIN,
        "driverArgs": list(plan.arguments),
        "runtimeVersions": {"sparkVersion": version("pyspark")},
        "sparkConf": {key: value for key, value in plan.conf.items() if key != "spark.kubernetes.namespace"},
        "driverSpec": {"podTemplateSpec": pod_template(plan, "driver")},
        "executorSpec": {"podTemplateSpec": pod_template(plan, "executor")},
    }
    if plan.place.retries:
        restart = {
            "restartPolicy": "OnFailure",
            "maxRestartAttempts": plan.place.retries,
            "restartBackoffMillis": _RETRY_SECONDS * 1000,
        }
        spec["applicationTolerations"] = {"restartConfig": restart}
    return _manifests(
        plan, {"apiVersion": "spark.apache.org/v1", "kind": "SparkApplication", "metadata": _metadata(plan), "spec": spec}
    )


def cronjob(plan: Plan) -> str:
    """A CronJob that runs spark-submit, and the ConfigMap with its pod templates; no operator is needed."""
    templates = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**_metadata(plan), "name": f"{plan.name}-pods"},
        "data": {f"{role}.yaml": _yaml(_template_file(plan, role)) for role in ("driver", "executor")},
    }
    command, *arguments = _spark_submit(plan, plan.place.api_server or _IN_CLUSTER, _TEMPLATES)
    container = {
        "name": "submit",
        "image": plan.place.image,
        "command": [f"{HOME}/bin/{command}"],
        "args": arguments,
        "securityContext": container_security(),
        "volumeMounts": [{"name": "pods", "mountPath": _TEMPLATES.rstrip("/"), "readOnly": True}],
    }
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": plan.place.service_account,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [{"name": "pods", "configMap": {"name": f"{plan.name}-pods"}}],
    }
    job = {
        "schedule": plan.place.schedule,
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {
            "spec": {
                "backoffLimit": plan.place.retries,
                "template": {"metadata": {"labels": labels(plan)}, "spec": pod},
            }
        },
    }
    return _manifests(plan, templates, {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": _metadata(plan), "spec": job})


TARGETS: dict[str, Callable[[Plan], str]] = {
    "k8s-submit": k8s_submit,
    "spark-operator": spark_operator,
    "spark-kubernetes-operator": spark_kubernetes_operator,
    "cronjob": cronjob,
}


def _spark_submit(plan: Plan, api_server: str, templates: str) -> list[str]:
    conf = {
        **plan.conf,
        **{f"spark.kubernetes.{role}.podTemplateFile": f"{templates}{role}.yaml" for role in ("driver", "executor")},
    }
    words = ["spark-submit", "--master", f"k8s://{api_server}", "--deploy-mode", "cluster", "--name", plan.name]
    for key, value in conf.items():
        words += ["--conf", f"{key}={value}"]
    return [*words, MAIN, *plan.arguments]


def _on_lines(words: list[str]) -> str:
    """Return a command with one option on each line."""
    lines = [words[0]]
    for before, word in itertools.pairwise(words):
        if word.startswith("--") or not before.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n  ".join(lines)


def _template_file(plan: Plan, role: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", **pod_template(plan, role)}


def _metadata(plan: Plan) -> dict[str, Any]:
    return {"name": plan.name, "namespace": plan.place.namespace, "labels": labels(plan)}


def _about(plan: Plan) -> str:
    return f"made by `sparkml render {plan.arguments[0]}`, sparkml {version('sparkml')}: render it anew rather than edit it"


class _Dumper(yaml.SafeDumper):
    """No anchors, which nobody reads, and texts of several lines as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _yaml(document: Mapping[str, Any]) -> str:
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=200, allow_unicode=True))


def _manifests(plan: Plan, *documents: Mapping[str, Any]) -> str:
    return f"# {_about(plan)}\n" + "---\n".join(_yaml(document) for document in documents)
