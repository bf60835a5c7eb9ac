"""One `spark-submit` command of a pipeline: where it runs, what travels with it, and which settings both sides need."""

from __future__ import annotations

import getpass
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from scripts.shipping import environment
from sparkml.config import ENV_PREFIX, conf_dir, find_pipeline, resolve_reference
from sparkml.errors import ConfigError
from sparkml.settings import Settings, load_settings
from sparkml.storage.backends.s3a import S3a, jars
from sparkml.storage.urls import opened

ROOT = Path(__file__).resolve().parents[2]
#: how executors find things when the driver's own place means nothing to them; never a secret
FORWARDED = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
_PYTHON = "./environment/bin/python"
_SHARED = ("hdfs://", "s3a://")


@dataclass
class Submission:
    """What the user asked for.

    Attributes
    ----------
    environment
        ``auto``: packed from this one; a URL or path: an archive made before; ``none``: every host has it already.
    upload_to
        A folder that all hosts reach; by default ``_environments`` of a store on HDFS.
    secret_file
        Holds ``spark.authenticate.secret`` of a standalone cluster. YARN makes its own for each application.
    credentials
        An AWS credentials file; it goes to the executors by Spark's own file distribution, to nobody else.
    """

    pipeline: str
    env: str
    words: list[str]
    deploy_mode: str = "client"
    job: str = "pipeline"
    conf: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    environment: str = "auto"
    upload_to: str | None = None
    secret_file: Path | None = None
    credentials: Path | None = None


class Plan:
    """The command, and the properties that must not stand on a command line."""

    def __init__(self, wanted: Submission) -> None:
        self.wanted = wanted
        self.words = [*wanted.words, *(word for text in wanted.conf for word in ("--set", f"spark.conf.{text}"))]
        self.settings = self._settings()
        self.master = self.settings.spark.master or self._file_conf().get("spark.master")
        self._check()
        self.kind = "yarn" if self.master == "yarn" else "standalone"
        self.cluster_mode = wanted.deploy_mode == "cluster"
        self.archives: list[str] = []
        self.files: list[str] = []
        self.jars: list[str] = []

    def _settings(self) -> Settings:
        given = [word for at, word in enumerate(self.words) if at and self.words[at - 1] == "--set"]
        given += [word.removeprefix("--set=") for word in self.words if word.startswith("--set=")]
        return load_settings(find_pipeline(self.wanted.pipeline), self.wanted.env, given)[0]

    def _check(self) -> None:
        if self.master is None or not (self.master == "yarn" or self.master.startswith(("spark://", "local-cluster"))):
            raise ConfigError(
                f"--env {self.wanted.env}: its spark.master is {self.master!r}; scripts/submit knows yarn and spark://host:port",
                hint="--set spark.master=spark://host:7077, or `sparkml run` for local[*], `sparkml render` for Kubernetes",
            )
        if self.wanted.deploy_mode == "cluster" and self.master != "yarn":
            raise ConfigError(
                "--deploy-mode cluster: Spark has none for Python applications on a standalone cluster",
                hint="--deploy-mode client, from a host of the cluster's network",
            )
        asked = self._asked()
        for value in asked.values():
            resolve_reference(value)  # one that is not there is told before anything is packed
        secret = self.wanted.secret_file or asked.get("spark.authenticate.secret")
        if self.master.startswith("spark://") and asked.get("spark.authenticate") == "true" and not secret:
            raise ConfigError(
                f"--env {self.wanted.env}: spark.authenticate is on, and there is no secret",
                hint="--secret-file FILE; or, for a cluster without one, --conf spark.authenticate=false "
                "--conf spark.network.crypto.enabled=false",
            )
        if not self.settings.store.startswith(_SHARED):
            raise ConfigError(
                f"the store {self.settings.store!r} is on this host; the executors of {self.master} are on others",
                hint="--set store=hdfs:///sparkml or store=s3a://BUCKET/sparkml",
            )
        if self.wanted.deploy_mode == "cluster" and conf_dir().resolve() != ROOT / "conf":
            raise ConfigError(
                f"--deploy-mode cluster: the driver gets the settings of {ROOT / 'conf'}, not those of {conf_dir().resolve()}",
                hint="--deploy-mode client, or give the pipeline as a file and the rest by --set",
            )
        for name, path in (("--secret-file", self.wanted.secret_file), ("--credentials", self.wanted.credentials)):
            if path is None:
                continue
            if not path.is_file():
                raise ConfigError(f"{name} {path}: no such file")
            if path.stat().st_mode & 0o077:
                raise ConfigError(f"{name} {path}: others may read it", hint=f"chmod 600 {path}")

    # --- what travels ---

    def ship(self, *, send: bool = True) -> None:
        """Build the wheel, pack and upload what the hosts do not have yet; without `send` only find out how it will be named."""
        cache = Path(sys.prefix, "share", "sparkml", "shipped")
        self.wheel = build_wheel(cache)
        folder = self._upload_folder()
        if self.wanted.environment == "auto":
            packages = environment.distributions(self.wanted.packages)
            archive = cache / f"environment-{environment.key(packages)}.tar.gz"
            if send and not archive.exists():
                _say(f"packing the Python environment ({len(packages)} packages), once until a version changes ...")
                environment.pack(packages, archive)
            self.archives.append(f"{self._sent(archive, folder, send)}#environment")
        elif self.wanted.environment != "none":
            self.archives.append(f"{self._found(self.wanted.environment)}#environment")
        if self.kind == "yarn" and not ({"spark.yarn.archive", "spark.yarn.jars"} & {*self._asked()}):
            from pyspark import __version__ as version

            spark = cache / f"spark-{version}-jars.zip"
            if send and not spark.exists():
                environment.pack_jars(spark)
            self.spark_archive: str | None = self._sent(spark, folder, send)
        else:
            self.spark_archive = None
        if self.needs_s3a():
            self.jars += [str(jar) for jar in jars()]
        if self.kind == "standalone" and (hadoop := os.environ.get("HADOOP_CONF_DIR")):
            self.archives.append(f"{self._zipped(Path(hadoop), cache)}#hadoop-conf")
        if self.wanted.credentials:
            self.files.append(str(self.wanted.credentials.resolve()))
        if self.cluster_mode and Path(self.wanted.pipeline).is_file():
            self.files.append(str(Path(self.wanted.pipeline).resolve()))

    @staticmethod
    def _sent(file: Path, folder: str | None, send: bool) -> str:
        if folder is None:
            return str(file)
        return environment.uploaded(file, folder) if send else f"{folder.rstrip('/')}/{file.name}"

    def _upload_folder(self) -> str | None:
        """Return where archives go; None where Spark's driver hands them out itself, as it can on a standalone cluster.

        Never to S3 unasked: ``spark-submit`` and YARN look at archives before the jars that read ``s3a://`` are there.
        """
        if self.wanted.upload_to or self.settings.store.startswith("hdfs://"):
            return self.wanted.upload_to or f"{self.settings.store.rstrip('/')}/_environments"
        return f"hdfs:///user/{getpass.getuser()}/.sparkml" if self.kind == "yarn" else None

    def needs_s3a(self) -> bool:
        """Whether the store, or something that the source reads, lies on S3."""
        named = json.dumps(self.settings.model_dump(mode="json", by_alias=True))
        return "s3a://" in named or any("s3a://" in word for word in self.words)

    @staticmethod
    def _found(archive: str) -> str:
        fs, path = opened(archive)
        if not fs.exists(path):
            raise ConfigError(f"--environment {archive}: no such file")
        return archive

    @staticmethod
    def _zipped(folder: Path, cache: Path) -> Path:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(folder.glob("*.xml")):
                archive.write(file, file.name)
        return _kept(packed.getvalue(), cache, "hadoop-conf.zip")

    # --- the command ---

    def properties(self) -> dict[str, str]:
        """Return all of Spark's settings; later ones win: conf/spark/ENV.conf, what is shipped, the YAML layers, ``--conf``."""
        found = self._file_conf()
        if self.archives and self.wanted.environment != "none":
            found |= self._everywhere("PYSPARK_PYTHON", _PYTHON)
        for name in FORWARDED:
            if given := os.environ.get(name):
                found |= self._everywhere(name, given)
        if self.wanted.credentials:
            found |= self._everywhere("AWS_SHARED_CREDENTIALS_FILE", f"./{self.wanted.credentials.name}")
        if self.kind == "yarn":
            found |= self._everywhere("HADOOP_CONF_DIR", "./__spark_conf__/__hadoop_conf__")
            if self.spark_archive:
                found["spark.yarn.archive"] = self.spark_archive
        elif "HADOOP_CONF_DIR" in os.environ:
            found |= self._everywhere("HADOOP_CONF_DIR", "./hadoop-conf")
        if self.cluster_mode:
            found |= {
                f"spark.yarn.appMasterEnv.{name}": value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)
            }
            found |= {
                "spark.yarn.appMasterEnv.XDG_STATE_HOME": "./state",
                "spark.yarn.appMasterEnv.SPARKML_PROGRAM": self._typed(),
            }
        if self.needs_s3a():  # the store's own settings say this only where the store lies there
            found |= {key: str(value) for key, value in S3a("s3a://any").spark_conf().items() if key != "spark.jars"}
        if self.wanted.secret_file:
            found["spark.authenticate.secret"] = f"${{file:{self.wanted.secret_file.resolve()}}}"
        return found | self.settings.spark.conf

    def _typed(self) -> str:
        """This command as a person types it, up to the pipeline; for the resume command."""
        wanted, default = self.wanted, Submission("", "", [])
        words = ["scripts/submit"]
        for name in ("deploy_mode", "job", "environment", "upload_to", "secret_file", "credentials"):
            if (value := getattr(wanted, name)) != getattr(default, name):
                words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join([*words, *(word for name in wanted.packages for word in ("--package", name))])

    def _everywhere(self, name: str, value: str) -> dict[str, str]:
        """Return the settings that give executors, and the driver if it runs on the cluster, a variable."""
        found = {f"spark.executorEnv.{name}": value}
        if self.cluster_mode:
            found[f"spark.yarn.appMasterEnv.{name}"] = value
        return found

    def command(self, properties_file: str) -> list[str]:
        """Return the ``spark-submit`` command; nothing of it is secret."""
        words = [str(Path(sys.executable).with_name("spark-submit")), "--master", str(self.master)]
        words += ["--deploy-mode", self.wanted.deploy_mode, "--properties-file", properties_file]
        words += ["--name", f"sparkml {self.wanted.pipeline}", "--py-files", str(self.wheel)]
        for flag, values in (("--archives", self.archives), ("--files", self.files), ("--jars", self.jars)):
            if values:
                words += [flag, ",".join(values)]
        pipeline = Path(self.wanted.pipeline).name if self.cluster_mode else self.wanted.pipeline
        return [*words, str(ROOT / "jobs" / f"{self.wanted.job}.py"), pipeline, "--env", self.wanted.env, *self.words]

    def variables(self) -> dict[str, str]:
        """Return the environment of ``spark-submit``: in client mode the driver runs in this very environment."""
        spark = Path(str(find_spec("pyspark").submodule_search_locations[0]))  # type: ignore[union-attr,index]
        found = {
            **os.environ,
            "SPARKML_PROGRAM": self._typed(),
            "SPARK_HOME": str(spark),
        }  # else spark-submit asks the shipped Python
        if self.cluster_mode:  # YARN would hand this host's Python and its paths to a driver elsewhere
            found.pop("PYSPARK_DRIVER_PYTHON", None)
            found.pop("PYTHONPATH", None)
        else:
            found["PYSPARK_DRIVER_PYTHON"] = sys.executable
        if self.wanted.environment == "none":
            found.setdefault("PYSPARK_PYTHON", sys.executable)
        else:
            found["PYSPARK_PYTHON"] = _PYTHON
        if self.wanted.credentials and not self.cluster_mode:
            found["AWS_SHARED_CREDENTIALS_FILE"] = str(self.wanted.credentials.resolve())
        level = "info" if self.cluster_mode else "warn"
        quiet = f"-Dlog4j2.configurationFile={conf_dir() / 'spark' / 'log4j2.properties'} -Dsparkml.yarn.client={level}"
        found["SPARK_SUBMIT_OPTS"] = f"{quiet} {os.environ.get('SPARK_SUBMIT_OPTS', '')}".strip()
        return found

    def _asked(self) -> dict[str, str]:
        """Return the settings of Spark that were asked for, by files and by words."""
        return {**self._file_conf(), **self.settings.spark.conf}

    def _file_conf(self) -> dict[str, str]:
        path = conf_dir() / "spark" / f"{self.wanted.env}.conf"
        return read_properties(path) if path.exists() else {}


def read_properties(path: Path) -> dict[str, str]:
    """Read a file of ``key value`` lines, as ``spark-submit --properties-file`` does."""
    pairs = (line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip() and not line.startswith("#"))
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}


@contextmanager
def properties_file(values: Mapping[str, str]) -> Iterator[int]:
    """Write the properties, with secrets resolved, to a file in memory and yield its descriptor; no disk ever holds them."""
    descriptor = os.memfd_create("spark.conf")
    try:
        os.write(descriptor, "".join(f"{key}={_escaped(resolve_reference(value))}\n" for key, value in values.items()).encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _escaped(value: str) -> str:
    """Return a value as a file of Java's properties spells it."""
    found = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"\\{found}" if found[:1].isspace() else found


def build_wheel(cache: Path) -> Path:
    """Return the wheel of this checkout. Raises `ConfigError` when it cannot be built."""
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)]
        done = subprocess.run(build, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(
                f"the wheel was not built: {(done.stderr or done.stdout).strip().splitlines()[-1]}", hint="make dist"
            )
        (wheel,) = Path(folder).glob("sparkml-*.whl")
        return _kept(wheel.read_bytes(), cache, wheel.name)


def _kept(content: bytes, cache: Path, name: str) -> Path:
    """Return a file of this content in a folder of its own: applications that run still read those of earlier submissions."""
    target = cache / hashlib.sha256(content).hexdigest()[:16] / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f"{name}.{uuid.uuid4().hex}")
        scratch.touch(mode=0o600)
        scratch.write_bytes(content)
        scratch.replace(target)
    return target


def run(plan: Plan) -> int:
    """Submit, and return the exit code of ``spark-submit``."""
    with properties_file(plan.properties()) as descriptor:
        command = plan.command(f"/proc/self/fd/{descriptor}")
        process, stopped = subprocess.Popen(command, env=plan.variables(), pass_fds=[descriptor]), False
        while (code := process.poll()) is None:
            try:
                process.wait()
            except KeyboardInterrupt:  # the driver has got it, too, and takes its time to end in order
                stopped = True
    if stopped and plan.cluster_mode:
        _say("the application goes on without being watched; yarn application -kill ID ends it")
    elif code and plan.cluster_mode:
        where = f"--env {plan.wanted.env} --set store={plan.settings.store}"
        _say(f"it failed on the cluster; sparkml runs {where} says where and how to go on, yarn logs has the driver's output")
    return code


def _say(text: str) -> None:
    print(f"scripts/submit: {text}", file=sys.stderr, flush=True)
