"""The tree from a prediction or a model back to the raw files, and which of them changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sparkml.errors import StorageError
from sparkml.storage import Manifest, Store


@dataclass
class Node:
    """An artifact or a raw file. `state` is ``ok``, ``changed``, ``missing`` or ``altered``, with `detail` in words."""

    name: str
    url: str
    state: str = "ok"
    detail: str = ""
    fingerprint: str = ""
    made_by: str = ""
    inputs: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """Yield this node and everything below it."""
        yield self
        for item in self.inputs:
            yield from item.walk()

    def as_dict(self) -> dict[str, Any]:
        """Return the tree as plain data for ``--json``."""
        return {**vars(self), "inputs": [item.as_dict() for item in self.inputs]}


FileState = Callable[[dict[str, Any]], tuple[str, str]]


def trace(store: Store, path: str, name: str, file_state: FileState) -> Node:
    """Return the tree of an artifact.

    Parameters
    ----------
    path
        The artifact's path in the store.
    file_state
        Says how a raw file (path, size, modified, sha256 as recorded) stands today: (state, detail).
    """
    try:
        manifest: Manifest = store.verify(path)
    except StorageError as error:
        missing = not store.exists(path)
        return Node(name, store.url(path), "missing" if missing else "altered", error.message)
    lineage = manifest.lineage
    node = Node(name, store.url(path), fingerprint=manifest.fingerprint, made_by=str(lineage.get("run_id", "")))
    for item in lineage.get("inputs", []):
        if item.get("files"):
            node.inputs += [_raw(file, file_state) for file in item["files"]]
        elif item["url"].startswith(f"{store.root}/"):
            node.inputs.append(trace(store, item["url"].removeprefix(f"{store.root}/"), item["name"], file_state))
        else:
            node.inputs.append(Node(item["name"], item["url"], fingerprint=item["fingerprint"]))
    return node


def _raw(file: dict[str, Any], file_state: FileState) -> Node:
    state, detail = file_state(file)
    return Node("raw file", str(file["path"]), state, detail, fingerprint=str(file.get("sha256", ""))[:16])
