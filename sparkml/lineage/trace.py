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
    return _Tracer(store, file_state).trace(path, name)


class _Tracer:
    """Walks manifests; an artifact that several others were made from is verified and spread out once."""

    def __init__(self, store: Store, file_state: FileState) -> None:
        self.store, self.file_state = store, file_state
        self.seen: dict[str, Node] = {}

    def trace(self, path: str, name: str) -> Node:
        if path in self.seen:
            first = self.seen[path]
            return Node(name, first.url, first.state, "as above", first.fingerprint, first.made_by)
        self.seen[path] = node = Node(name, self.store.url(path))
        try:
            manifest: Manifest = self.store.verify(path)
        except StorageError as error:
            node.state, node.detail = ("altered" if self.store.exists(path) else "missing"), error.message
            return node
        node.fingerprint, node.made_by = manifest.fingerprint, str(manifest.lineage.get("run_id", ""))
        node.inputs = inputs_of(manifest, self)
        return node


def inputs_of(manifest: Manifest, tracer: _Tracer) -> list[Node]:
    """Return the nodes of what an artifact was made from: raw files, artifacts of the store, or neither."""
    nodes: list[Node] = []
    root = tracer.store.root
    for item in manifest.lineage.get("inputs", []):
        if item.get("files"):
            nodes += [_raw(file, tracer.file_state) for file in item["files"]]
        elif item["url"].startswith(f"{root}/"):
            nodes.append(tracer.trace(item["url"].removeprefix(f"{root}/"), item["name"]))
        elif "://" in item["url"]:
            nodes.append(Node(item["name"], item["url"], "missing", f"not in the store {root}: choose it with --set store=URL"))
        else:
            nodes.append(Node(item["name"], item["url"], fingerprint=item["fingerprint"]))
    return nodes


def trace_output(output: Store, store: Store, file_state: FileState) -> Node:
    """Return the tree of predictions outside the store: their own files are checked, their model is traced in `store`."""
    node = Node("predictions", output.root)
    try:
        manifest = output.verify("")
    except StorageError as error:
        node.state, node.detail = "altered", error.message
        return node
    node.fingerprint, node.made_by = manifest.fingerprint, str(manifest.lineage.get("run_id", ""))
    node.inputs = inputs_of(manifest, _Tracer(store, file_state))
    return node


def _raw(file: dict[str, Any], file_state: FileState) -> Node:
    state, detail = file_state(file)
    return Node("raw file", str(file["path"]), state, detail, fingerprint=str(file.get("sha256", ""))[:16])
