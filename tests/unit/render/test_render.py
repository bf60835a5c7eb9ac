"""`sparkml render`: every pipeline and target is valid by the published schemas, and says what `run` would do."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.kubernetes import manifests
from sparkml import cli

ROOT = Path(__file__).parents[3]
PIPELINES = sorted(path.stem for path in (ROOT / "conf" / "pipelines").glob("*.yaml"))
STORE = ("--set", "store=s3a://bucket/sparkml")
TARGETS = {
    "k8s-submit": ("--api-server", "https://127.0.0.1:1"),
    "spark-operator": (),
    "spark-kubernetes-operator": (),
    "cronjob": ("--schedule", "0 2 * * *"),
}


@pytest.fixture(autouse=True)
def _our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARKML_CONF_DIR", str(ROOT / "conf"))
    for name in [name for name in os.environ if name.startswith("SPARKML__")]:
        monkeypatch.delenv(name)


class Render:
    """`sparkml render` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, target: str, *words: str, pipeline: str = "digits", expect: int = 0) -> str:
        given = ["render", pipeline, "--target", target, "--image", "team/sparkml:1.0", *TARGETS.get(target, ()), *words]
        self.monkeypatch.setattr(sys, "argv", ["sparkml", *given])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = self.capsys.readouterr()
        assert int(ended.value.code or 0) == expect, err
        return err if expect else out


@pytest.fixture
def render(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Render:
    return Render(monkeypatch, capsys)


def documents(target: str, text: str) -> list[dict[str, Any]]:
    """Return the manifests in a text; of a script its pod templates."""
    if target == "k8s-submit":
        texts = [part.split("END_OF_POD\n")[0] for part in text.split("<<'END_OF_POD'\n")[1:]]
        return [yaml.safe_load(part) for part in texts]
    return list(yaml.safe_load_all(text))


def problems(document: dict[str, Any]) -> list[str]:
    try:
        return manifests.problems(document)
    except manifests.SchemaMissing as missing:
        pytest.skip(str(missing))


def leaves(value: Any) -> list[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if items is None else [leaf for item in items for leaf in leaves(item)]


@pytest.mark.parametrize("target", [*TARGETS, "scheduled"])
def test_every_pipeline_is_valid_by_the_published_schemas(target: str, render: Render) -> None:
    words = (*STORE, "--secret", "keys", "--secret-env", "AWS_SECRET_ACCESS_KEY", "--set", "description='${file:/etc/key.pem}'")
    if target == "scheduled":
        target, words = "spark-operator", (*words, "--schedule", "@daily", "--scheduler", "volcano")
    if target != "k8s-submit":
        words = (*words, "--retries", "2")
    for pipeline in PIPELINES:
        made = documents(target, render(target, *words, pipeline=pipeline))
        assert len(made) == {"k8s-submit": 2, "cronjob": 2}.get(target, 1)
        for document in made:
            assert problems(document) == []


@pytest.mark.parametrize(
    ("target", "path", "wrong"),
    [
        ("spark-operator", "spec.executor.instanecs", 2),  # unknown field: a cluster would drop it without a word
        ("spark-operator", "spec.driver.cores", "one"),
        ("spark-operator", "spec.executor.template.spec.volumes.0.emptydir", {}),
        ("spark-kubernetes-operator", "spec.driverArguments", ["digits"]),
        ("spark-kubernetes-operator", "spec.executorSpec.podTemplateSpec.spec.containers.0.volumeMounts.0.path", "/dev/shm"),
        ("cronjob", "spec.schedule", 2),
        ("cronjob", "spec.jobTemplate.spec.template.spec.containers.0.arguments", []),
        ("k8s-submit", "spec.containers.0.env", {"A": "b"}),
    ],
)
def test_a_wrong_manifest_fails(target: str, path: str, wrong: Any, render: Render) -> None:
    document = documents(target, render(target, *STORE))[-1]
    assert problems(document) == []
    *parents, last = path.split(".")
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[last] = wrong
    assert problems(document)


def test_a_wrong_pod_template_inside_of_a_config_map_fails(render: Render) -> None:
    config_map = documents("cronjob", render("cronjob", *STORE))[0]
    config_map["data"]["driver.yaml"] = config_map["data"]["driver.yaml"].replace("runAsNonRoot", "runAsNoRoot")
    assert "runAsNoRoot" in problems(config_map)[0]


def test_a_manifest_says_what_the_settings_and_the_command_line_say(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKML__SEED", "11")
    words = (
        *(
            *STORE,
            "--set",
            "spark.conf={spark.executor.instances: 3, spark.executor.memory: 5g, spark.kubernetes.executor.label.a: b}",
        ),
        *("--data", "s3a://bucket/raw one", "--namespace", "science", "--name", "nightly", "--service-account", "robot"),
        *("--date", "yesterday", "--schedule", "0 2 * * *", "--retries", "3", "--scheduler", "volcano", "--shm", "2Gi"),
    )
    (made,) = documents("spark-operator", render("spark-operator", *words, pipeline="adult"))
    assert (made["kind"], made["metadata"]["name"], made["metadata"]["namespace"]) == (
        "ScheduledSparkApplication",
        "nightly",
        "science",
    )
    assert (made["spec"]["schedule"], made["spec"]["timeZone"], made["spec"]["concurrencyPolicy"]) == (
        "0 2 * * *",
        "Etc/UTC",
        "Forbid",
    )
    spec = made["spec"]["template"]
    assert spec["arguments"] == [
        *("adult", "--env", "kubernetes", "--set", "seed=11", "--set", "store=s3a://bucket/sparkml", "--set", words[3]),
        *("--data", "s3a://bucket/raw one", "--date", "yesterday"),
    ]
    assert (spec["mode"], spec["image"], spec["mainApplicationFile"]) == (
        "cluster",
        "team/sparkml:1.0",
        "local:///opt/sparkml/jobs/pipeline.py",
    )
    assert {key: spec["executor"][key] for key in ("instances", "cores", "memory", "memoryOverhead")} == {
        "instances": 3,
        "cores": 1,
        "memory": "5g",
        "memoryOverhead": "2g",
    }
    assert (spec["driver"]["memory"], spec["driver"]["serviceAccount"]) == ("3g", "robot")
    conf = spec["sparkConf"]
    assert conf["spark.dynamicAllocation.enabled"] == "false"
    assert conf["spark.authenticate"] == conf["spark.network.crypto.enabled"] == "true"
    assert conf["spark.kubernetes.executor.label.a"] == "b"
    assert spec["batchScheduler"] == conf["spark.kubernetes.scheduler.name"] == "volcano"
    assert spec["restartPolicy"] == {"type": "OnFailure", "onFailureRetries": 3, "onFailureRetryInterval": 120}
    (volume,) = spec["executor"]["template"]["spec"]["volumes"]
    assert volume == {"name": "sparkml-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}
    assert spec["executor"]["template"]["spec"]["containers"][0]["volumeMounts"] == [
        {"name": "sparkml-shm", "mountPath": "/dev/shm"}
    ]


def test_the_other_targets_say_the_same(render: Render) -> None:
    words = (*STORE, "--data", "s3a://bucket/it's $HOME", "--date", "2026-11-20")
    run = ["adult", "--env", "kubernetes", "--set", STORE[1], "--data", "s3a://bucket/it's $HOME", "--date"]
    (apache,) = documents("", render("spark-kubernetes-operator", *words, "--retries", "1", pipeline="adult"))
    assert apache["spec"]["driverArgs"] == [*run, "2026-11-20"]
    assert apache["spec"]["pyFiles"] == "local:///opt/sparkml/jobs/pipeline.py"
    assert apache["spec"]["sparkConf"]["spark.kubernetes.container.image"] == "team/sparkml:1.0"
    assert apache["spec"]["applicationTolerations"]["restartConfig"]["maxRestartAttempts"] == 1

    config_map, job = documents("", render("cronjob", *words[:4], "--date", "today", "--retries", "1", pipeline="adult"))
    container = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][-len(run) - 2 :] == ["local:///opt/sparkml/jobs/pipeline.py", *run, "today"]
    assert "spark.kubernetes.driver.podTemplateFile=/etc/sparkml/pods/driver.yaml" in container["args"]
    assert container["volumeMounts"][0]["mountPath"] == "/etc/sparkml/pods"
    assert (
        config_map["metadata"]["name"]
        == job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
    )
    assert job["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 1


def test_secrets_are_references(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_SECRET", "canary-of-the-environment")
    words = (
        *(
            "--set",
            "spark.conf={spark.hadoop.fs.s3a.secret.key: '${env:S3_SECRET}', spark.ssl.keyPassword: '${file:/etc/keys/pass}'}",
        ),
        *(*STORE, "--secret", "keys", "--secret-env", "AWS_ACCESS_KEY_ID"),
    )
    for target in TARGETS:
        text = render(target, *words)
        assert "canary" not in text
        pods = documents(target, text)
        if target == "cronjob":
            pods = [yaml.safe_load(item) for item in pods[0]["data"].values()]
        elif target == "spark-operator":
            pods = [pods[0]["spec"][role]["template"] for role in ("driver", "executor")]
            assert not {key for key in documents(target, text)[0]["spec"]["sparkConf"] if "secret" in key or "ssl" in key}
        elif target == "spark-kubernetes-operator":
            pods = [pods[0]["spec"][f"{role}Spec"]["podTemplateSpec"] for role in ("driver", "executor")]
        assert len(pods) == 2
        for pod in pods:
            (container,) = pod["spec"]["containers"]
            assert container["env"] == [
                {"name": name, "valueFrom": {"secretKeyRef": {"name": "keys", "key": name}}}
                for name in ("AWS_ACCESS_KEY_ID", "S3_SECRET")
            ]
            assert {"name": "sparkml-secret", "mountPath": "/etc/keys/pass", "subPath": "pass", "readOnly": True} in container[
                "volumeMounts"
            ]
            volume = next(item for item in pod["spec"]["volumes"] if item["name"] == "sparkml-secret")
            assert volume["secret"] == {"secretName": "keys", "items": [{"key": "pass", "path": "pass"}], "defaultMode": 0o440}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "store = '.sparkml' is a folder inside of a pod"),
        (("--set", "store=memory://x"), "is a folder inside of a pod"),
        ((*STORE, "--target", "helm"), "--target 'helm': no such target; allowed: cronjob, k8s-submit"),
        ((*STORE, "--image", "sparkml"), "has no fixed tag"),
        ((*STORE, "--image", "team/sparkml:latest"), "has no fixed tag"),
        ((*STORE, "--image", "Team/sparkml 1"), "is not the name of an image"),
        ((*STORE, "--name", "My_App"), "--name 'My_App' is not a name in Kubernetes"),
        ((*STORE, "--namespace", "a.b"), "--namespace 'a.b' is not a name"),
        ((*STORE, "--schedule", "at two"), "is not a cron expression"),
        ((*STORE, "--schedule", "0 2 * * *", "--date", "2026-11-20"), "every run of the schedule would be for 2026-11-20"),
        ((*STORE, "--scheduler", "slurm"), "--scheduler 'slurm': no such scheduler"),
        ((*STORE, "--date", "20.11.2026"), "--date '20.11.2026' is no date"),
        ((*STORE, "--secret-env", "A=b"), "give the name, not the value"),
        ((*STORE, "--secret-env", "TOKEN"), "TOKEN: secrets of the settings, but no Kubernetes secret is named"),
        ((*STORE, "--set", "spark.conf={spark.ssl.keyPassword: canary}"), "a secret stands in the settings (not shown)"),
        (("--set", "store=s3a://id:canary@bucket/x"), "store: a URL with a login (not shown)"),
        ((*STORE, "--data", "hdfs://me:canary@host/x"), "a URL with a login (not shown)"),
        ((*STORE, "--set", "description='${file:keys/pass}'", "--secret", "s"), "is a relative path"),
        (
            (*STORE, "--set", "spark.conf={spark.kubernetes.namespace: '${env:N}'}", "--secret", "s"),
            "needed before the driver starts",
        ),
        ((*STORE, "--set", "spark.conf={spark.kubernetes.namespace: other}"), "but the command line says 'default'"),
        ((*STORE, "--set", "spark.master=yarn"), "spark.master = 'yarn'"),
        ((*STORE, "--set", "spark.conf={spark.dynamicAllocation.enabled: true}"), "net trains on ranks"),
        ((*STORE, "--set", "train.candidates.net.num_proc=3"), "net needs 3 slots at once, 2 executors of 1 cores have 2"),
        ((*STORE, "--api-server", "https://me:canary@host"), "--api-server is not an https:// address"),
        ((*STORE, "--env", "local"), "spark.master = 'local[*]'"),
    ],
)
def test_what_cannot_work_is_refused(words: tuple[str, ...], expected: str, render: Render) -> None:
    pipeline = "adult" if "--data" in words else "digits"
    told = render("spark-operator", *words, pipeline=pipeline, expect=2)
    assert expected in told
    assert "canary" not in told


@pytest.mark.parametrize(
    ("target", "words", "expected"),
    [
        ("k8s-submit", ("--schedule", "@daily"), "knows no --schedule"),
        ("k8s-submit", ("--retries", "1"), "takes no --retries"),
        ("cronjob", ("--scheduler", "volcano"), "takes no --scheduler"),
        ("spark-operator", ("--api-server", "https://host"), "takes no --api-server"),
    ],
)
def test_what_a_target_cannot_do_is_refused(target: str, words: tuple[str, ...], expected: str, render: Render) -> None:
    assert expected in render(target, *STORE, *words, expect=2)


def test_a_pipeline_that_the_image_lacks_is_refused(render: Render, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text((ROOT / "conf" / "pipelines" / "digits.yaml").read_text())
    assert "the image would not have it" in render("spark-operator", *STORE, pipeline=str(own), expect=2)


def test_a_volume_claim_in_driver_and_executors_is_a_store(render: Render) -> None:
    mounted = [
        f"spark.kubernetes.{role}.volumes.persistentVolumeClaim.data.{item}"
        for role in ("driver", "executor")
        for item in ("mount.path: /data", "options.claimName: sparkml")
    ]
    both, one = (f"spark.conf={{{', '.join(lines)}}}" for lines in (mounted, mounted[:2]))
    render("spark-operator", "--set", "store=/data/sparkml", "--set", both)
    assert "inside of a pod" in render("spark-operator", "--set", "store=/data/sparkml", "--set", one, expect=2)


def test_out_and_json(render: Render, tmp_path: Path) -> None:
    text = render("spark-operator", *STORE)
    assert render("spark-operator", *STORE, "--out", "digits.yaml") == ""
    assert (tmp_path / "digits.yaml").read_text() == text
    found = json.loads(render("spark-operator", *STORE, "--json"))
    assert found == {"target": "spark-operator", "name": "sparkml-digits", "text": text}
    assert "cannot write" in render("spark-operator", *STORE, "--out", "none/x.yaml", expect=6)
