"""A lease: who is running what, so that the same thing is not started twice at once."""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from sparkml.errors import BusyError, StorageError
from sparkml.storage.owner import owner_alive, this_process
from sparkml.storage.store import Store

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0  # several missed beats: the holder's host is gone


@contextmanager
def lease(store: Store, path: str, holder: Mapping[str, Any], *, what: str) -> Iterator[None]:
    """Hold `path` exclusively while the block runs.

    A lease whose process died on this host, or that another host has not renewed for a minute by its clock and for 25 s while we
    watched, is taken over.

    Raises
    ------
    BusyError
        Another living process holds it; the message names it.
    """
    token = uuid.uuid4().hex
    body = {**holder, **this_process(), "token": token, "since": time.time()}
    _acquire(store, path, body, what)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            try:
                if _token(store, path) == token:
                    store.replace(path, {**body, "beat": time.time()})
            except StorageError as error:  # the next beat may go through
                log.warning("the lease %s could not be renewed: %s", store.url(path), error)

    thread = threading.Thread(target=beat, name="sparkml-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()  # a beat that is being tried again must not bring the lease back
        if _token(store, path) == token:  # else it was taken over, and is another's
            store.remove(path)


def _acquire(store: Store, path: str, body: dict[str, Any], what: str) -> None:
    for _ in range(5):
        if store.create_exclusive(path, {**body, "beat": time.time()}):
            return
        try:
            held = store.read_json(path)
        except StorageError:  # released between the two calls
            continue
        if _held(held) or _renewed(store, path, held):
            since = time.strftime("%H:%M:%S", time.localtime(float(held.get("since", 0))))
            raise BusyError(
                f"{what} is already running: run {held.get('run_id', '?')}, "
                f"pid {held.get('pid')} on {held.get('host')}, since {since}",
                hint="wait for it to end (sparkml runs), or stop that process",
            )
        _take_away(store, path, str(held.get("token")))
    raise BusyError(f"{what}: the lease {store.url(path)} changes hands too quickly", hint="try again in a minute")


def _renewed(store: Store, path: str, held: Mapping[str, Any]) -> bool:
    """Whether the lease of another host is renewed while we watch: it may only look stale because one of the clocks is wrong."""
    if held.get("host") == socket.gethostname():
        return False
    deadline = time.monotonic() + 2.5 * BEAT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 10)
        try:
            now = store.read_json(path)
        except StorageError:
            with suppress(StorageError):
                if not store.exists(path):
                    return False  # released, or taken over and released
            continue
        if (now.get("token"), now.get("beat")) != (held.get("token"), held.get("beat")):
            return True
    return False


def _take_away(store: Store, path: str, dead: str) -> None:
    """Remove a dead lease. Of several that want it only the one that creates a mark of its own may, and looks again before."""
    mark = f"{path}.{dead}.takeover"
    if not store.create_exclusive(mark, {"at": time.time()}):
        try:
            if time.time() - float(store.read_json(mark)["at"]) > STALE_SECONDS:  # that one died too
                store.remove(mark)
        except StorageError:
            pass  # gone again
        time.sleep(0.1)
        return
    try:
        if _token(store, path) == dead:
            store.remove(path)
    finally:
        store.remove(mark)


def _token(store: Store, path: str) -> str | None:
    try:
        return str(store.read_json(path).get("token"))
    except StorageError:
        return None


def _held(held: Mapping[str, Any]) -> bool:
    if held.get("host") == socket.gethostname():
        return owner_alive(held)
    return abs(time.time() - float(held.get("beat", 0))) < STALE_SECONDS  # of a clock that is wrong in either direction
