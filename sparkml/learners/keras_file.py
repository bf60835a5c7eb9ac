"""``.keras`` files: models as data. Anything that could run code of the file's author is refused."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sparkml.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import keras

# pickled Python, free functions, or another framework's saved program
_RUNS_CODE = frozenset({"Lambda", "__lambda__", "function", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})

_LAMBDA = frozenset({"Lambda", "keras.layers.Lambda"})


def dump(model: keras.Model, *, compiled: bool = False) -> bytes:
    """Return the model as the bytes of a ``.keras`` file, without optimizer, loss and metrics unless `compiled`."""
    was = model.compiled
    model.compiled = was and compiled
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/model.keras"
            model.save(path)
            with open(path, "rb") as file:
                return file.read()
    finally:
        model.compiled = was


def mark(body: bytes) -> str:
    """Return a hash of the model and its weights; the file itself also holds the time at which it was saved."""
    total = hashlib.sha256()
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        for name in sorted(set(archive.namelist()) - {"metadata.json"}):
            total.update(name.encode() + b"\0" + archive.read(name))
    return total.hexdigest()


def check(body: bytes, where: str, allow: Collection[str] = ()) -> None:
    """Look into the bytes of a model file without loading it, and without TensorFlow.

    Raises
    ------
    StorageError
        It is no ``.keras`` file (``.h5`` is refused), it is torn, or it holds layers that run code (Lambda) or that are not
        Keras's own, and that are not in `allow`. `where` names it in the message.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise StorageError(f"{where} is not a .keras file ({error}); .h5 and pickled models are refused") from None
    foreign = foreign_layers(config, allow)
    if foreign:
        raise StorageError(
            f"{where} holds {', '.join(foreign)}: loading it could run code of the file's author; refused",
            hint=f"if you trust its author, allow by name: allow={foreign!r}",
        )


def load(body: bytes, where: str, *, allow: Collection[str] = (), compile: bool = False) -> keras.Model:
    """Return the model in the bytes of a ``.keras`` file. Raises `StorageError` like `check`, or when Keras cannot build it."""
    check(body, where, allow)
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.keras"
        with open(path, "wb") as file:
            file.write(body)
        try:
            return keras.saving.load_model(path, compile=compile, safe_mode=not allow)
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise StorageError(f"{where} cannot be loaded as a Keras model: {str(error).splitlines()[0]}") from None


def check_savable(model: keras.Model, allow: Collection[str] = ()) -> None:
    """Raise `ConfigError` when the model, once saved, would be refused by `load`: better before training than after."""
    import keras

    was = model.compiled
    model.compiled = False  # what it was compiled with is not saved with a fitted model
    try:
        foreign = foreign_layers(keras.saving.serialize_keras_object(model), allow)
    finally:
        model.compiled = was
    if foreign:
        raise ConfigError(
            f"the model holds {', '.join(foreign)}: a saved model may hold Keras's own layers only, without Lambda",
            hint=f"write it with layers of keras.layers, or allow them by name: allow={foreign!r}",
        )


def foreign_layers(config: Any, allow: Collection[str] = ()) -> list[str]:
    """Return the names of classes in a serialised model that are not Keras's own, or that carry code, and are not allowed.

    With ``Lambda`` the function inside it is allowed, too.
    """
    found: dict[str, None] = {}
    allowed = {*allow, *(("__lambda__", "function", "builtins.function") if _LAMBDA & {*allow} else ())}

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            name, module = value.get("class_name"), value.get("module")
            if isinstance(name, str) and (name in _RUNS_CODE or (module is not None and str(module).split(".")[0] != "keras")):
                full = f"{module}.{name}" if module else name
                if full not in allowed and name not in allowed:
                    found[full] = None
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(config)
    return list(found)
