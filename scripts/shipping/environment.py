"""The Python environment as one archive that runs on any host of the same system, and Spark's jars as another.

An archive holds the interpreter, its standard library, and the packages that ``sparkml`` and its extras require: nothing of
what only development needs. It is self-contained (no venv that points to somebody's home), and named by what is in it: so it is
made once, uploaded once, and fetched once by each host that caches archives (YARN does).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import sys
import sysconfig
import tarfile
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement

from sparkml.errors import ConfigError, StorageError
from sparkml.storage.urls import opened

EXTRAS = ("deep", "sklearn", "s3", "hdfs")
_PACKAGE = "sparkml"
_STDLIB_LEFT_OUT = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip", "turtledemo"}
# Spark's jars come with Spark; nobody compiles against TensorFlow on an executor; tests of others are a tenth of all files
_LEFT_OUT = re.compile(r"pyspark/jars/|tensorflow/include/|(numpy|pandas|pyarrow|scipy|sklearn)/(.+/)?tests/")
# where a Python looks for packages differs from system to system; this one makes it look where they are
_SITE = """import os, site
site.addsitedir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "site-packages"))
"""


def distributions(extra_packages: Sequence[str] = ()) -> dict[str, Distribution]:
    """Return what ``sparkml``, its extras and `extra_packages` need, by name; not ``sparkml``, which travels as a wheel.

    Raises
    ------
    ConfigError
        A package of `extra_packages` is not installed here.
    """
    found: dict[str, Distribution] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(_PACKAGE, frozenset(EXTRAS))]
    for name in extra_packages:
        try:
            distribution(name)
        except PackageNotFoundError:
            raise ConfigError(f"--package {name}: it is not installed here, so it cannot be shipped") from None
        origin = json.loads(distribution(name).read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable") or not distribution(name).files:
            raise ConfigError(
                f"--package {name}: its files lie in a checkout, not in this environment", hint=f"pip install {name}"
            )
        waiting.append((name, frozenset()))
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        key = name.lower().replace("_", "-").replace(".", "-")
        if (key, extras) in seen:
            continue
        seen.add((key, extras))
        try:
            item = distribution(name)
        except PackageNotFoundError:  # an extra that this environment goes without
            continue
        found[key] = item
        for text in item.requires or ():
            wanted = Requirement(text)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                waiting.append((wanted.name, frozenset(wanted.extras)))
    found.pop(_PACKAGE)
    return dict(sorted(found.items()))


def key(packages: dict[str, Distribution]) -> str:
    """Return the name of an environment: a hash of the interpreter and of all packages' versions."""
    named = [sys.version, sysconfig.get_platform()]
    for name, item in packages.items():  # a package of your own may change without a new version
        listed = hashlib.sha256((item.read_text("RECORD") or "").encode()).hexdigest()
        named.append(f"{name}=={item.version} {listed}")
    layout = Path(__file__).read_bytes()
    return hashlib.sha256("\n".join(named).encode() + layout).hexdigest()[:16]


def pack(packages: dict[str, Distribution], target: Path) -> None:
    """Write the archive (``.tar.gz``) with ``bin/python``, the standard library and the packages."""
    library = Path(sysconfig.get_path("stdlib"))
    inside = f"lib/{library.name}"
    scratch = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with gzip.open(scratch, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
            tar.add(os.path.realpath(sys.executable), "bin/python")
            for shared in _shared_library():
                tar.add(shared, f"lib/{shared.name}")
            for file in sorted(_standard_library(library)):
                _add(tar, file, f"{inside}/{file.relative_to(library)}")
            site = tarfile.TarInfo(f"{inside}/sitecustomize.py")
            site.size = len(_SITE)
            tar.addfile(site, io.BytesIO(_SITE.encode()))
            for item in packages.values():
                for source, name in _files(item):
                    _add(tar, source, f"{inside}/site-packages/{name}")
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, file: Path, name: str) -> None:
    """Add a file, and what Python compiled of it: otherwise every process on every host would compile TensorFlow's sources."""
    tar.add(file, name, recursive=False)
    if file.suffix == ".py":
        compiled = Path(cache_from_source(str(file)))
        if compiled.exists():
            tar.add(compiled, cache_from_source(name), recursive=False)


def _standard_library(library: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(library):
        names[:] = [name for name in names if name not in _STDLIB_LEFT_OUT and not name.startswith("config-")]
        yield from (Path(folder, name) for name in files if name != "sitecustomize.py")


def _shared_library() -> list[Path]:
    """Return libpython, when this interpreter is not linked statically."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return []
    found = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
    return [found] if found.exists() else []


def _files(item: Distribution) -> Iterator[tuple[Path, str]]:
    """Yield the files of a package below site-packages; scripts lie elsewhere and stay behind."""
    for file in item.files or ():
        name, source = file.as_posix(), Path(str(item.locate_file(file)))
        if ".." not in file.parts and not name.endswith(".pyc") and not _LEFT_OUT.match(name) and source.is_file():
            yield source, name


def pack_jars(target: Path) -> None:
    """Write all of pyspark's jars into one archive, for ``spark.yarn.archive``: stored, because jars are compressed."""
    from pyspark.find_spark_home import _find_spark_home

    jars = Path(_find_spark_home(), "jars")  # type: ignore[no-untyped-call]
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
        for jar in sorted(jars.glob("*.jar")):
            archive.write(jar, jar.name)
    scratch.replace(target)


def uploaded(file: Path, folder: str) -> str:
    """Return the URL of a file in a folder that the cluster's hosts reach; it is uploaded when it is not there yet.

    What has the name got it by a rename, so it is whole. It is never replaced: YARN would refuse it to applications that run.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    url = f"{folder.rstrip('/')}/{file.name}"
    try:
        fs, path = opened(url)
        if not fs.exists(path):
            fs.makedirs(fs._parent(path), exist_ok=True)
            scratch = f"{path}.{uuid.uuid4().hex}"
            try:
                fs.put_file(str(file), scratch)
                with contextlib.suppress(FileExistsError):  # somebody else's came first
                    fs.mv(scratch, path)
            finally:
                if fs.exists(scratch):
                    fs.rm_file(scratch)
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(f"{url} cannot be written: {error}", hint="say where to with --upload-to URL") from error
    return url
