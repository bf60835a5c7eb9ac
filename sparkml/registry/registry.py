"""Versions and aliases of models: ``models/<name>/<version>/`` and ``models/<name>/aliases.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sparkml.config import check_name, suggest
from sparkml.errors import ConfigError, StorageError
from sparkml.registry.bundle import Bundle
from sparkml.storage import Manifest, Staging, Store
from sparkml.storage.lease import lease
from sparkml.storage.manifest import MANIFEST

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")  # other scripts have digits too, and int() takes them


@dataclass(frozen=True)
class ModelVersion:
    """One registered version. `path` is relative to the store."""

    name: str
    version: int
    path: str
    manifest: Manifest
    bundle: Bundle

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class Registry:
    """All models of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def names(self) -> list[str]:
        return [name for name in self.store.list("models") if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """Return the published version numbers, ascending; one that is being copied, or was left half copied, is none."""
        return sorted(version for version in self._folders(name) if self.store.exists(f"models/{name}/{version}/{MANIFEST}"))

    def _folders(self, name: str) -> list[int]:
        return [int(item) for item in self.store.list(f"models/{name}") if _NUMBER.fullmatch(item)]

    def aliases(self, name: str) -> dict[str, int]:
        return {alias: int(version) for alias, version in self._alias_file(name)["aliases"].items()}

    def alias_history(self, name: str) -> list[dict[str, Any]]:
        """Return every move of an alias with time, run and reason, oldest first."""
        return list(self._alias_file(name)["history"])

    def get(self, name: str, version: int) -> ModelVersion:
        """Return a version. Raises `StorageError` when it is torn, altered, or not of this format."""
        path = f"models/{name}/{version}"
        manifest = self.store.manifest(path)
        try:
            bundle = Bundle.model_validate(self.store.read_json(f"{path}/bundle.json"))
        except ValidationError as error:
            problem = error.errors()[0]
            raise StorageError(
                f"{self.store.url(path)}/bundle.json is not a model of this sparkml: {problem['loc']}: {problem['msg']}"
            ) from None
        return ModelVersion(name, version, path, manifest, bundle)

    def resolve(self, reference: str) -> ModelVersion:
        """Return the version that ``NAME``, ``NAME@champion`` or ``NAME@3`` means, or `ConfigError` with what there is."""
        name, _, which = reference.partition("@")
        check_name(name, "model name")
        which = which or "champion"
        if _NUMBER.fullmatch(which) and self.store.exists(f"models/{name}/{which}"):
            return self.get(name, int(which))  # says why it is no version, if it is none
        versions = self.versions(name)
        if not versions:
            known = self.names()
            raise ConfigError(
                f"no model {name!r} in {self.store.root}; {suggest(name, known) if known else 'there are none yet'}",
                hint="sparkml models",
            )
        aliases = self.aliases(name)
        version = int(which) if _NUMBER.fullmatch(which) else aliases.get(which)
        if version is None or version not in versions:
            raise ConfigError(
                f"model {name!r} has no {which!r}; {suggest(which, [*aliases, *map(str, versions)])}", hint="sparkml models"
            )
        return self.get(name, version)

    def publish(
        self, name: str, staging: Staging, *, fingerprint: str, lineage: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> ModelVersion:
        """Publish a staged version under the next free number, which an exclusive create allocates to one writer only."""
        check_name(name, "model name")
        version = max([0, *self._folders(name), *self._claimed(name)])
        while True:
            version += 1
            if self.store.create_exclusive(f"models/{name}/_claims/{version}.json", dict(lineage)):
                break
        manifest, _ = self.store.publish(
            staging,
            f"models/{name}/{version}",
            kind="model",
            fingerprint=fingerprint,
            lineage=lineage,
            extra=extra,
            overwrite_torn=False,
        )
        return ModelVersion(name, version, f"models/{name}/{version}", manifest, self.get(name, version).bundle)

    def set_alias(self, name: str, alias: str, version: int, *, run_id: str, when: str, reason: str) -> None:
        """Point an alias at a version, keeping the history of moves."""
        check_name(name, "model name")
        check_name(alias, "alias")
        if version not in self.versions(name):
            raise ConfigError(f"model {name!r} has no version {version}")
        with lease(self.store, f"_leases/model-{name}.json", {"run_id": run_id}, what=f"the registration of {name}"):
            known = self._alias_file(name)
            move = {
                "alias": alias,
                "version": version,
                "from": known["aliases"].get(alias),
                "run_id": run_id,
                "when": when,
                "reason": reason,
            }
            self.store.replace(
                f"models/{name}/aliases.json",
                {"aliases": {**known["aliases"], alias: version}, "history": [*known["history"], move]},
            )

    def find(self, name: str, model_fingerprint: str) -> ModelVersion | None:
        """Return the version that holds the model with this fingerprint, if it was registered before."""
        for version in reversed(self.versions(name)):
            found = self.get(name, version)
            if found.bundle.model_fingerprint == model_fingerprint:
                return found
        return None

    def _claimed(self, name: str) -> list[int]:
        claims = (item.removesuffix(".json") for item in self.store.list(f"models/{name}/_claims"))
        return [int(item) for item in claims if _NUMBER.fullmatch(item)]

    def _alias_file(self, name: str) -> dict[str, Any]:
        path = f"models/{name}/aliases.json"
        return dict(self.store.read_json(path)) if self.store.exists(path) else {"aliases": {}, "history": []}
