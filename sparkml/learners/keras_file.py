"""``.keras`` files: models as data. Anything that could run code of the file's author is refused."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from typing import TYPE_CHECKING, Any

from sparkml.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import keras

# pickled Python, free functions, or another framework's saved program
_RUNS_CODE = frozenset({"Lambda", "__lambda__", "function", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})


def dump(model: keras.Model) -> bytes:
    """Return the model as the bytes of a ``.keras`` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.keras"
        model.save(path)
        with open(path, "rb") as file:
            return file.read()


def check(body: bytes, where: str) -> None:
    """Look into the bytes of a model file without loading it, and without TensorFlow.

    Raises
    ------
    StorageError
        It is no ``.keras`` file (``.h5`` is refused), it is torn, or it holds layers that run code (Lambda) or that are not
        Keras's own. `where` names it in the message.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise StorageError(f"{where} is not a .keras file ({error}); .h5 and pickled models are refused") from None
    foreign = foreign_layers(config)
    if foreign:
        raise StorageError(f"{where} holds {', '.join(foreign)}: loading it could run code of the file's author; refused")


def load(body: bytes, where: str) -> keras.Model:
    """Return the model in the bytes of a ``.keras`` file. Raises `StorageError` like `check`, or when Keras cannot build it."""
    check(body, where)
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.keras"
        with open(path, "wb") as file:
            file.write(body)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise StorageError(f"{where} cannot be loaded as a Keras model: {str(error).splitlines()[0]}") from None


def check_savable(model: keras.Model) -> None:
    """Raise `ConfigError` when the model, once saved, would be refused by `load`: better before training than after."""
    import keras

    foreign = foreign_layers(keras.saving.serialize_keras_object(model))
    if foreign:
        raise ConfigError(
            f"the model holds {', '.join(foreign)}: a saved model may hold Keras's own layers only, without Lambda",
            hint="write it with layers of keras.layers",
        )


def foreign_layers(config: Any) -> list[str]:
    """Return the names of classes in a serialised model that are not Keras's own, or that carry code."""
    found: dict[str, None] = {}

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            name, module = value.get("class_name"), value.get("module")
            if isinstance(name, str) and (name in _RUNS_CODE or (module is not None and str(module).split(".")[0] != "keras")):
                found[f"{module}.{name}" if module else name] = None
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(config)
    return list(found)
