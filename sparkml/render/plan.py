"""`Plan`: what is to run on Kubernetes, by the same settings as ``sparkml run``, checked before anything is rendered."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparkml.config import Layered, conf_dir, find_pipeline, references
from sparkml.errors import ConfigError
from sparkml.launch.options import RankOptions
from sparkml.settings import Settings, load_settings

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._:/-]*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?")
_CRON = re.compile(r"@(hourly|daily|weekly|monthly|yearly)|[0-9A-Za-z*/,?-]+( [0-9A-Za-z*/,?-]+){4}")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOGIN_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/@\s]*:[^/@\s]*@", re.IGNORECASE)
_NAME_LENGTH = 40  # operators append attempt numbers and times; the longest of these names may have 63 characters
# read before the driver's Python starts: a reference, which is resolved there, would be too late
_AT_SUBMISSION = ("spark.kubernetes.", "spark.driver.", "spark.executor.", "spark.submit.", "spark.jars", "spark.files")


@dataclass(frozen=True)
class Place:
    """Where a pipeline runs: what the command line says beside the settings.

    Attributes
    ----------
    name
        Of the application; made from the pipeline's when None.
    secret
        The Kubernetes secret that holds every value that the settings refer to: environment variables under their names, files
        under the last part of their paths.
    secret_variables
        Environment variables from that secret beside those of the settings (``AWS_SECRET_ACCESS_KEY``).
    schedule
        A cron expression in UTC.
    retries
        How often the cluster starts a driver again that failed; it goes on with the stages that are finished.
    """

    image: str
    namespace: str = "default"
    name: str | None = None
    service_account: str = "spark"
    secret: str | None = None
    secret_variables: tuple[str, ...] = ()
    schedule: str | None = None
    scheduler: str | None = None
    api_server: str | None = None
    retries: int = 0
    shared_memory: str = "1Gi"


@dataclass(frozen=True)
class Plan:
    """One run on Kubernetes.

    Attributes
    ----------
    arguments
        Of ``sparkml run``.
    conf
        Spark settings that are needed before the driver's Python starts, and all others but those that hold references.
    variables, files
        What comes from the secret: environment variables, and paths at which its keys are mounted.
    """

    place: Place
    name: str
    arguments: tuple[str, ...]
    conf: Mapping[str, str]
    variables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def make_plan(pipeline: str, env: str, assignments: list[str], data: list[str], run_options: Iterable[str], place: Place) -> Plan:
    """Check and gather everything that is rendered.

    Parameters
    ----------
    run_options
        Further arguments of ``sparkml run``, as they are (``--date``, ``2026-11-20``).

    Raises
    ------
    ConfigError
        The settings are wrong, cannot work on Kubernetes, or hold something that must not stand in a manifest.
    """
    path = find_pipeline(pipeline)
    if path.resolve().parent != (conf_dir() / "pipelines").resolve():
        raise ConfigError(
            f"{pipeline} is not in {conf_dir() / 'pipelines'}: the image would not have it",
            hint="move it there and build the image again; it ships the conf folder",
        )
    given = [*assignments, *([f"source.path={json.dumps(data)}"] if data else [])]
    settings, layered = load_settings(path, env, given)
    _refuse_logins(layered)
    _check_place(place)
    _check_master(settings, layered)
    conf = {**properties(env), **settings.spark.conf}
    _check_store(settings.store, conf, layered)
    _check_gangs(settings, conf)
    variables, files = _from_secret(layered, place)
    return Plan(
        place=place,
        name=_label(place.name, "--name") if place.name else _name_of(settings.pipeline),
        arguments=(
            path.stem,
            "--env",
            env,
            *_set_by_variables(layered),
            *pairs("--set", assignments),
            *pairs("--data", data),
            *run_options,
        ),
        conf=_conf(conf, layered, place),
        variables=variables,
        files=files,
    )


def properties(env: str) -> dict[str, str]:
    """Return what conf/spark/ENV.conf says, the file that spark-submit takes as ``--properties-file``; nothing without one."""
    path = conf_dir() / "spark" / f"{env}.conf"
    if not path.is_file():
        return {}
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    words = [re.split(r"\s*=\s*|\s+", line, maxsplit=1) for line in lines if line and not line.startswith("#")]
    return {word[0]: word[1] if len(word) > 1 else "" for word in words}


def pairs(flag: str, values: Iterable[str]) -> list[str]:
    """Return an option that may be repeated, as words of a command line."""
    return [word for value in values for word in (flag, value)]


def _name_of(pipeline: str) -> str:
    name = "sparkml-" + re.sub(r"[^a-z0-9]+", "-", pipeline.lower()).strip("-")
    if len(name) > _NAME_LENGTH:
        name = f"{name[: _NAME_LENGTH - 9].rstrip('-')}-{hashlib.sha256(pipeline.encode()).hexdigest()[:8]}"
    return name


def _label(value: str, what: str, longest: int = _NAME_LENGTH) -> str:
    if not _LABEL.fullmatch(value) or len(value) > longest:
        raise ConfigError(
            f"{what} {value!r} is not a name in Kubernetes: use up to {longest} lower-case letters, digits and '-', "
            "starting and ending with a letter or digit"
        )
    return value


def _check_place(place: Place) -> None:
    if not _IMAGE.fullmatch(place.image):
        raise ConfigError(f"--image {place.image!r} is not the name of an image", hint="--image team/sparkml:1.0")
    if place.image.endswith(":latest") or (":" not in place.image.rpartition("/")[2] and "@" not in place.image):
        raise ConfigError(
            f"--image {place.image!r} has no fixed tag: executors that start later could run another version",
            hint=f"--image {place.image.removesuffix(':latest')}:1.0, or a digest",
        )
    for value, what in (
        (place.namespace, "--namespace"),
        (place.service_account, "--service-account"),
        (place.secret, "--secret"),
    ):
        if value is not None:
            _label(value, what, 63)
    for name in place.secret_variables:
        if not _KEY.fullmatch(name):
            raise ConfigError(
                f"--secret-env {name!r} is not the name of an environment variable", hint="give the name, not the value"
            )
    if place.schedule is not None and not _CRON.fullmatch(place.schedule):
        raise ConfigError(f"--schedule {place.schedule!r} is not a cron expression of five fields", hint="--schedule '0 2 * * *'")
    if place.api_server is not None and not re.fullmatch(r"https?://[^\s@/]+(/\S*)?", place.api_server):
        raise ConfigError("--api-server is not an https:// address without a login", hint="kubectl cluster-info prints it")


def _refuse_logins(layered: Layered) -> None:
    """A secret is known by its setting's name; one in a URL is known by its form."""
    for path, value in layered.leaves():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _LOGIN_IN_URL.search(text):
                raise ConfigError(
                    f"{layered.origin(path) or 'settings'}: {path}: a URL with a login (not shown)",
                    hint="leave the login out of the URL and give it by --secret NAME --secret-env VARIABLE",
                )


def _check_master(settings: Settings, layered: Layered) -> None:
    master = settings.spark.master
    if master is not None:
        raise ConfigError(
            f"{layered.origin('spark.master')}: spark.master = {master!r}: on Kubernetes the submission says what the master is",
            hint="render with --env kubernetes, which leaves spark.master alone",
        )


def _check_store(store: str, conf: Mapping[str, str], layered: Layered) -> None:
    """What a pod writes to its own disk is gone with it."""
    scheme, separator, rest = store.partition("://")
    if separator and scheme not in {"file", "memory"}:
        return
    mounts = {
        role: [
            value
            for key, value in conf.items()
            if key.startswith(f"spark.kubernetes.{role}.volumes.persistentVolumeClaim.") and key.endswith(".mount.path")
        ]
        for role in ("driver", "executor")
    }
    folder = Path(rest if separator else store)
    if scheme != "memory" and all(any(folder.is_relative_to(mount) for mount in found) for found in mounts.values()):
        return
    raise ConfigError(
        f"{layered.origin('store')}: store = {store!r} is a folder inside of a pod: gone with the pod, not seen by others",
        hint="--set store=s3a://BUCKET/PATH or hdfs://HOST:PORT/PATH; or mount one volume claim there in driver and executors "
        "(spark.kubernetes.{driver,executor}.volumes.persistentVolumeClaim.NAME.mount.path)",
    )


def _check_gangs(settings: Settings, conf: Mapping[str, str]) -> None:
    """A gang's ranks run all at once or not at all: what cannot be placed is better told now than by a run that waits."""
    for key in ("spark.task.cpus", "spark.executor.instances", "spark.executor.cores", "spark.driver.cores"):
        if not conf.get(key, "1").strip().isdecimal():
            raise ConfigError(f"{key} = {conf[key]!r}: a whole number was expected")
    dynamic = conf.get("spark.dynamicAllocation.enabled", "false").strip().lower() == "true"
    usual = int(conf.get("spark.task.cpus", "1"))
    instances, cores = int(conf.get("spark.executor.instances", "2")), int(conf.get("spark.executor.cores", "1"))
    for name, candidate in settings.train.candidates.items():
        options = candidate.options
        if not isinstance(options, RankOptions):
            continue
        if dynamic:
            raise ConfigError(
                f"spark.dynamicAllocation.enabled is true, and {name} trains on ranks: Spark refuses barrier stages then",
                hint="set spark.dynamicAllocation.enabled to false and spark.executor.instances to a fixed number",
            )
        wanted = options.min_proc or options.num_proc
        each = getattr(options, "cpus_per_rank", None) or usual
        slots = instances * (cores // each)
        if wanted is not None and wanted > slots:
            raise ConfigError(
                f"{name} needs {wanted} slots at once, {instances} executors of {cores} cores have {slots} "
                f"({each} cores for each rank)",
                hint=f"--set 'spark.conf={{spark.executor.instances: {-(-wanted // max(1, cores // each))}}}', or lower num_proc",
            )


def _set_by_variables(layered: Layered) -> list[str]:
    """Return ``--set`` for what was set by an environment variable of this machine, which the driver does not have."""
    ours = [path for path, origin in layered.origins.items() if origin.layer.startswith("environment variable ")]
    given = []
    for path, value in layered.leaves():
        if any(path == one or path.startswith(f"{one}.") for one in ours):
            given += ["--set", f"{path}={json.dumps(value, ensure_ascii=False)}"]
    return given


def _from_secret(layered: Layered, place: Place) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = {reference for _, value in layered.leaves() for reference in references(value)}
    variables = sorted({name for kind, name in found if kind == "env"} | set(place.secret_variables))
    files = sorted(name for kind, name in found if kind == "file")
    if (variables or files) and place.secret is None:
        named = ", ".join([*variables, *files])
        raise ConfigError(
            f"{named}: secrets of the settings, but no Kubernetes secret is named that holds them",
            hint="--secret NAME; kubectl create secret generic NAME "
            + " ".join([f"--from-literal={name}=..." for name in variables] + [f"--from-file={name}" for name in files]),
        )
    for name in files:
        if not name.startswith("/"):
            raise ConfigError(f"${{file:{name}}} is a relative path: in a pod it means another file", hint="write the whole path")
    keys = [*variables, *(Path(name).name for name in files)]
    if len(keys) != len(set(keys)):
        raise ConfigError(
            f"two files of the settings have the same name ({', '.join(files)}): a secret can hold one of them",
            hint="give the files different names",
        )
    return tuple(variables), tuple(files)


def _conf(given: Mapping[str, str], layered: Layered, place: Place) -> dict[str, str]:
    conf = {
        "spark.kubernetes.namespace": place.namespace,
        "spark.kubernetes.container.image": place.image,
        "spark.kubernetes.authenticate.driver.serviceAccountName": place.service_account,
    }
    if place.scheduler is not None:
        conf["spark.kubernetes.scheduler.name"] = place.scheduler
    for key, value in given.items():
        if list(references(value)):
            if key.startswith(_AT_SUBMISSION):
                raise ConfigError(
                    f"{layered.origin(f'spark.conf.{key}')}: {key} = {value}: it is needed before the driver starts, "
                    "and references are resolved in the driver",
                    hint="spark.kubernetes.driver.secretKeyRef.NAME=SECRET:KEY and spark.kubernetes.driver.secrets.SECRET=PATH "
                    "are Spark's own references",
                )
        elif conf.setdefault(key, value) != value:
            raise ConfigError(
                f"{layered.origin(f'spark.conf.{key}')}: {key} = {value!r}, but the command line says {conf[key]!r}"
            )
    return conf
