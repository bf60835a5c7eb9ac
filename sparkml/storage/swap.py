"""Putting a folder in another's place where the storage cannot exchange two names: a kill in between loses nothing.

The old folder waits under ``_staging/<id>.old``. Before it is moved there ``_staging/<id>.swap`` says whose place it had, so that
`finish` can put it back, or remove it when its successor stands there.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from sparkml.errors import StorageError
from sparkml.storage.owner import owner_alive, this_process

if TYPE_CHECKING:
    from sparkml.storage.store import Store

MARK = ".swap"
_SECONDS = 600.0  # a swap takes two renames: one of another host that is older will not go on


def swap(store: Store, source: str, target: str) -> None:
    """Put the folder `source` at `target`, and what stood there at `source`. Only where folders can be renamed.

    Where the storage cannot exchange names a reader may find nothing at `target` for a moment, never a mixture.
    """
    backend = store.backend
    if backend.rename_folder(store.at(source), store.at(target)) or backend.exchange_folders(store.at(source), store.at(target)):
        return
    name = f"_staging/{uuid.uuid4().hex[:16]}"
    aside = store.at(f"{name}.old")
    store.replace(f"{name}{MARK}", {**this_process(), "target": target, "at": time.time()})
    backend.rename_folder(store.at(target), aside)
    try:
        if not backend.rename_folder(store.at(source), store.at(target)):
            raise StorageError(f"{store.url(target)} was put there by another process in this moment")
    except BaseException:
        backend.rename_folder(aside, store.at(target))
        store.remove(f"{name}{MARK}")
        raise
    backend.rename_folder(aside, store.at(source))
    store.remove(f"{name}{MARK}")


def finish(store: Store, mark: str) -> bool:
    """Clear up after the swap of a process that is gone; return whether there was something to do.

    Parameters
    ----------
    mark
        The name of a file under ``_staging/``.
    """
    path = f"_staging/{mark}"
    try:
        told = store.read_json(path)
    except StorageError:
        return False  # done meanwhile
    if owner_alive(told) and time.time() - float(told["at"]) < _SECONDS:
        return False
    aside = f"{path.removesuffix(MARK)}.old"
    if store.exists(aside) and not store.backend.rename_folder(store.at(aside), store.at(str(told["target"]))):
        store.remove(aside)  # the new one stands in its place
    store.remove(path)
    return True
