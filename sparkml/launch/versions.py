"""What is installed here, and whether it is what the driver has: ranks of one gang must compute alike."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata

# a package under any of its names; the first that is installed counts
_ALL = {"sparkml": ("sparkml",), "numpy": ("numpy",), "pyarrow": ("pyarrow",)}
KERAS = {
    **_ALL,
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-cpu-aws"),
    "keras": ("keras",),
    "horovod": ("horovod",),
}
TORCH = {**_ALL, "torch": ("torch",)}
ONE_ENVIRONMENT = (
    "give executors the driver's environment: pack it (scripts/build_dist) and pass it as spark.archives, "
    "with spark.pyspark.python inside"
)


def installed(packages: Mapping[str, tuple[str, ...]] = KERAS) -> dict[str, str]:
    """Return the versions of Python and of the packages that ranks compute with, read from metadata: nothing is imported.

    A build's own mark (``2.9.0+cpu``) is left out.
    """
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for package, names in packages.items():
        for name in names:
            try:
                found[package] = metadata.version(name).partition("+")[0]
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def differences(driver: dict[str, str], here: dict[str, str]) -> list[str]:
    """Return in words what is missing `here` or has another version than on the driver. More than the driver has is fine."""
    words = []
    for package, version in driver.items():
        if package not in here and package == "sparkml":
            continue  # source files without metadata (--py-files); it runs, or it could not have told us
        if here.get(package) != version:
            words.append(f"{package} {here.get(package, 'is missing')} (the driver has {version})")
    return words
