"""`scripts/submit` on a real YARN with HDFS and a real standalone cluster with S3: gangs run, secrets stay, files are whole."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.devcluster.cluster import ROOT, Cluster
from scripts.devcluster.hadoop import whole
from sparkml.lineage.records import RunRecord, all_runs
from sparkml.storage import Store
from sparkml.storage.urls import opened
from tests.cluster.canaries import Watch
from tests.spark.tiny import NET, TINY, people

CANARY = "c4n4ry+of/the=cluster-5d1e"


@pytest.fixture(scope="module")
def everything(cluster: Cluster) -> Cluster:
    cluster.up()
    return cluster


@pytest.fixture
def variables(everything: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of clients of the cluster, here and in what is started."""
    found = everything.environment() | {"XDG_STATE_HOME": str(tmp_path / "state"), "CANARY": CANARY}
    found["SPARKML_DEVCLUSTER"] = everything.state()["mark"]  # what is started goes with the cluster
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def pipeline(folder: Path, data: str) -> Path:
    """The tiny pipeline with a net, its input at a URL."""
    fs, path = opened(f"{data}/people.csv")
    fs.makedirs(fs._parent(path), exist_ok=True)
    fs.pipe_file(path, people(400).encode())
    file = folder / "tiny.yaml"
    file.write_text(TINY.format(data=data).replace("    linear:", NET.strip("\n") + "\n    linear:"))
    return file


def submit(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the script; a run ends within minutes or never."""
    command = [str(ROOT / "scripts" / "submit"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=ROOT)


def record(store: str) -> RunRecord:
    return next(all_runs(Store(store)))


def logs(cluster: Cluster) -> Iterator[str]:
    for path in sorted([*cluster.folder.glob("nm*/logs/*/*/std*"), *cluster.folder.glob("worker*/*/*/std*")]):
        yield f"--- {path}\n{path.read_text(errors='replace')[-3000:]}"


@pytest.mark.timeout(1200)
def test_yarn_runs_driver_and_ranks_from_the_packed_environment(
    everything: Cluster, variables: dict[str, str], tmp_path: Path
) -> None:
    """In cluster mode, all on HDFS below its default file system; nothing that the containers run comes from this checkout."""
    hdfs = variables["SPARKML_HDFS"]
    file = pipeline(tmp_path, f"{hdfs}/data")
    words = [str(file), "--env", "yarn", "--deploy-mode", "cluster", "--set", "store=hdfs:///yarn"]
    events = ["--conf", "spark.eventLog.enabled=true", "--conf", f"spark.eventLog.dir={hdfs}/spark-events"]
    watch = Watch(
        everything,
        {"the cluster's": CANARY},
        service="yarn",
        stores=[f"{hdfs}/yarn", f"{hdfs}/spark-events"],
        allowed=[everything.folder / "nn"],  # what HDFS keeps is read as HDFS gives it
    )
    with watch:
        done = submit(*words, *events, "--conf", "spark.hadoop.vendor.api_key=${env:CANARY}")
    assert done.returncode == 0, done.stderr[-3000:] + "\n".join(logs(everything))
    run = record(f"{hdfs}/yarn")
    assert (run.status, run.result["version"]) == ("done", "tiny@1")
    assert {stage.status for stage in run.stages} == {"ran"}, "\n".join(logs(everything))
    assert run.resume.startswith("scripts/submit --deploy-mode cluster tiny.yaml --env yarn")
    assert watch.pythons and all(python.is_relative_to(everything.folder) for python in watch.pythons), watch.pythons
    assert whole(report := everything.fsck("/yarn")), report
    assert watch.found() == []


@pytest.mark.timeout(1200)
def test_a_standalone_cluster_on_s3_with_its_own_secret(
    everything: Cluster, variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executors get S3's credentials as a file that Spark hands out: the canary, which the endpoint takes as any other."""
    credentials = tmp_path / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text(f"[default]\naws_access_key_id = devcluster\naws_secret_access_key = {CANARY}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    store = f"{variables['SPARKML_S3']}/standalone"
    file = pipeline(tmp_path, f"{variables['SPARKML_S3']}/data")
    words = [str(file), "--env", "standalone", "--environment", "none", "--credentials", str(credentials)]
    words += ["--set", f"spark.master={variables['SPARKML_STANDALONE']}", "--set", f"store={store}"]
    events = f"{variables['SPARKML_HDFS']}/spark-events"
    words += ["--conf", "spark.eventLog.enabled=true", "--conf", f"spark.eventLog.dir={events}"]

    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("not-the-cluster-s-secret")
    refused = submit(*words, "--secret-file", str(wrong), "--only", "ingest")
    assert refused.returncode == 4, refused.stderr[-3000:]
    assert "Spark did not start" in refused.stdout + refused.stderr

    watch = Watch(everything, {"S3's": CANARY}, service="standalone", stores=[store, events], allowed=[credentials])
    with watch:
        done = submit(*words, "--secret-file", variables["SPARKML_SECRET_FILE"])
    assert done.returncode == 0, done.stderr[-3000:] + "\n".join(logs(everything))
    run = record(store)
    assert (run.status, run.result["version"]) == ("done", "tiny@1")
    sent = list(everything.folder.glob("worker*/*/*/credentials"))
    assert sent, "no executor was given the credentials"
    for path in sent:
        path.unlink()  # the one place where they belong
    for stage in ("ingest", "features", "train.net"):
        found = next(item for item in run.stages if item.stage == stage)
        Store(store).verify(f"datasets/tiny/{stage.replace('.', '/')}/{found.fingerprint}")
    assert [path for path in Store(store).files("") if "__magic" in path] == []
    assert watch.found() == []
    shutil.rmtree(tmp_path / "state")
