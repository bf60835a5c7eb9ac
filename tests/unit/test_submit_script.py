"""`scripts/submit`: the command and the properties that it makes of settings and options; nothing is sent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from scripts.shipping import command, environment
from scripts.shipping.command import ROOT, Plan, Submission, properties_file, read_properties
from sparkml.errors import ConfigError, StorageError


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKML_CONF_DIR", str(ROOT / "conf"))
    for name in (*command.FORWARDED, "HADOOP_CONF_DIR", "SPARK_SUBMIT_OPTS"):
        monkeypatch.delenv(name, raising=False)


def plan(*words: str, env: str = "yarn", **options: object) -> Plan:
    made = Plan(Submission("digits", env, list(words), **options))  # type: ignore[arg-type]
    made.wheel, made.spark_archive = Path("sparkml.whl"), "hdfs:///spark.zip"
    made.archives = ["hdfs:///e.tar.gz#environment"]
    return made


@pytest.mark.parametrize("env", ["yarn", "standalone"])
def test_conf_spark_and_conf_env_say_the_same(env: str) -> None:
    for_spark = read_properties(ROOT / "conf" / "spark" / f"{env}.conf")
    for_us = yaml.safe_load((ROOT / "conf" / "env" / f"{env}.yaml").read_text())["spark"]["conf"]
    shared = for_spark.keys() & for_us.keys()
    assert {key: for_spark[key] for key in shared} == {key: str(for_us[key]) for key in shared}
    assert {"spark.authenticate", "spark.network.crypto.enabled", "spark.io.encryption.enabled"} <= shared
    assert for_us.keys() - for_spark.keys() == set()


def test_later_settings_win() -> None:
    found = plan("--set", "spark.conf.spark.executor.cores=3", conf=["spark.executor.memory=7g"]).properties()
    assert found["spark.executor.cores"] == "3" and found["spark.executor.memory"] == "7g"
    assert found["spark.executor.instances"] == "2" and found["spark.driver.memory"] == "2g"  # of the YAML file, of the conf file


def test_what_is_asked_goes_to_the_job_and_what_travels_to_spark() -> None:
    words = plan("--date", "2026-11-20", "--force", job="train").command("P")
    assert words[-7:] == [str(ROOT / "jobs" / "train.py"), "digits", "--env", "yarn", "--date", "2026-11-20", "--force"]
    assert words[words.index("--archives") + 1] == "hdfs:///e.tar.gz#environment"
    assert words[words.index("--py-files") + 1] == "sparkml.whl"


def test_executors_find_their_python_and_hadoop_and_so_does_a_driver_on_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    found = plan().properties()
    assert found["spark.executorEnv.PYSPARK_PYTHON"] == "./environment/bin/python"
    assert found["spark.executorEnv.AWS_REGION"] == "eu-west-1"
    assert not [key for key in found if "appMasterEnv" in key]
    found = plan(deploy_mode="cluster").properties()
    for name in ("PYSPARK_PYTHON", "AWS_REGION", "HADOOP_CONF_DIR"):
        assert found[f"spark.yarn.appMasterEnv.{name}"] == found[f"spark.executorEnv.{name}"]
    assert found["spark.yarn.appMasterEnv.SPARKML_PROGRAM"] == "scripts/submit --deploy-mode cluster"


def test_a_driver_on_the_cluster_gets_nothing_of_this_host_s_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert plan().variables()["PYSPARK_DRIVER_PYTHON"] == sys.executable
    sent = plan(deploy_mode="cluster").variables()
    assert {"PYSPARK_DRIVER_PYTHON", "PYTHONPATH"} & sent.keys() == set()
    assert sent["PYSPARK_PYTHON"] == "./environment/bin/python"


def test_secrets_are_in_memory_for_as_long_as_it_takes(tmp_path: Path) -> None:
    secret, credentials = tmp_path / "secret", tmp_path / "credentials"
    for file in (secret, credentials):
        file.touch(mode=0o600)
    secret.write_text("=c4n4ry\\with-a-backslash\n")
    made = plan(
        "--set", "spark.master=spark://h:7077", "--set", "store=s3a://b/s",
        env="standalone", secret_file=secret, credentials=credentials,
    )  # fmt: skip
    values = made.properties()
    assert "c4n4ry" not in str([*made.command("P"), values, made.variables()])
    assert values["spark.executorEnv.AWS_SHARED_CREDENTIALS_FILE"] == "./credentials"
    with properties_file(values) as descriptor:
        given = subprocess.run(
            ["cat", f"/proc/self/fd/{descriptor}"], pass_fds=[descriptor], capture_output=True, text=True, check=True
        )
        assert "spark.authenticate.secret==c4n4ry\\\\with-a-backslash\n" in given.stdout  # Java unescapes it
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        (["--set", "spark.master=local[2]"], {}, "knows yarn and spark://host:port"),
        (["--set", "spark.master=null"], {"env": "standalone"}, "its spark.master is None"),
        (["--set", "store=.sparkml"], {}, "is on this host"),
        (["--set", "spark.master=spark://h:1"], {"env": "standalone", "deploy_mode": "cluster"}, "Spark has none"),
        (["--set", "spark.master=spark://h:1"], {"env": "standalone"}, "spark.authenticate is on, and there is no secret"),
        ([], {"secret_file": Path("missing")}, "--secret-file missing: no such file"),
        ([], {"conf": ["spark.executor.cores"]}, "is not of the form key.path=value"),
        ([], {"env": "yarm"}, "did you mean 'yarn'"),
        ([], {"conf": ["spark.authenticate.secret=plain"]}, "a secret stands in the settings"),
        ([], {"conf": ["spark.some.key=${env:SPARKML_TEST_NOT_SET}"]}, "SPARKML_TEST_NOT_SET"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_before_anything_is_packed(words: list[str], options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        plan(*words, **options)  # type: ignore[arg-type]


def test_an_input_on_s3_beside_a_store_on_hdfs_is_read_with_the_same_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example:9000")
    found = plan("--set", "store=hdfs://h/s", "--data", "s3a://bucket/raw").properties()
    assert found["spark.hadoop.fs.s3a.endpoint"] == "http://s3.example:9000"
    assert found["spark.hadoop.fs.s3a.aws.credentials.provider"].endswith("DefaultCredentialsProvider")
    assert not [key for key in plan("--set", "store=hdfs://h/s").properties() if "s3a" in key]


def test_credentials_that_others_may_read_are_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "credentials"
    open_to_all.touch()
    open_to_all.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read it"):
        plan(credentials=open_to_all)


def test_the_command_line_ends_with_its_exit_code() -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "submit"), "digits", "--env", "yarn", "--set", "store=x"],
        capture_output=True, text=True, check=False, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 2 and "the store 'x' is on this host" in done.stderr


def test_a_package_that_lies_in_a_checkout_cannot_be_shipped() -> None:
    with pytest.raises(ConfigError, match="its files lie in a checkout"):
        environment.distributions(["sparkml"])


def test_variables_of_settings_reach_a_driver_on_the_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARKML__STORE", "hdfs:///team")
    made = plan(deploy_mode="cluster")
    assert made.settings.store == "hdfs:///team"
    assert made.properties()["spark.yarn.appMasterEnv.SPARKML__STORE"] == "hdfs:///team"
    monkeypatch.setenv("SPARKML_CONF_DIR", str(shutil.copytree(ROOT / "conf", tmp_path / "conf")))
    with pytest.raises(ConfigError, match="the driver gets the settings of"):
        plan(deploy_mode="cluster")


def test_what_applications_still_read_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = command._kept(b"1", tmp_path, "a.zip")
    second = command._kept(b"2", tmp_path, "a.zip")
    assert (first.read_bytes(), second.read_bytes(), first.name) == (b"1", b"2", second.name)
    assert command._kept(b"1", tmp_path, "a.zip") == first and first.stat().st_mode & 0o777 == 0o600


def test_what_is_shipped_is_what_the_package_requires_and_not_what_tests_do() -> None:
    found = environment.distributions()
    assert {"numpy", "pyspark", "tensorflow-cpu", "horovod", "hdfs-native", "s3fs"} <= found.keys()
    assert {"sparkml", "pytest", "moto", "mypy", "ruff"} & found.keys() == set()
    assert "pytest" in environment.distributions(["pytest"])
    with pytest.raises(ConfigError, match="no-such-package"):
        environment.distributions(["no-such-package"])
    assert environment.key(found) != environment.key(environment.distributions(["pytest"]))


def test_a_packed_environment_runs_where_it_is_unpacked(tmp_path: Path) -> None:
    wanted = {name: item for name, item in environment.distributions().items() if name in {"pyyaml", "tenacity", "numpy"}}
    archive = tmp_path / "e.tar.gz"
    environment.pack(wanted, archive)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "there", filter="fully_trusted")
    look = "import sys, ssl, ctypes, numpy, tenacity, yaml; print(sys.prefix, yaml.__file__, numpy.ones(3).sum())"
    done = subprocess.run(
        [str(tmp_path / "there/bin/python"), "-c", look], capture_output=True, text=True, env={"PATH": "/usr/bin"}, check=False
    )
    assert done.returncode == 0, done.stderr
    prefix, module, three = done.stdout.split()
    assert Path(prefix).is_relative_to(tmp_path) and Path(module).is_relative_to(tmp_path) and three == "3.0"
    missing = subprocess.run(
        [str(tmp_path / "there/bin/python"), "-c", "import pandas"], capture_output=True, env={"PATH": "/usr/bin"}, check=False
    )
    assert missing.returncode == 1


def test_a_file_is_uploaded_once(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"1")
    url = environment.uploaded(tmp_path / "a.zip", f"file://{tmp_path}/there")
    made = (tmp_path / "there" / "a.zip").stat()
    assert environment.uploaded(tmp_path / "a.zip", f"file://{tmp_path}/there") == url
    (tmp_path / "a.zip").write_bytes(b"packed anew, with other times in it")
    assert environment.uploaded(tmp_path / "a.zip", f"file://{tmp_path}/there") == url
    assert (tmp_path / "there" / "a.zip").stat().st_mtime_ns == made.st_mtime_ns
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a.zip"]
    with pytest.raises(StorageError, match="cannot be written"):
        environment.uploaded(tmp_path / "a.zip", "nosuch://x")
