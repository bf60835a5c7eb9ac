from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkml.errors import StorageError
from sparkml.learners import keras_file
from sparkml.learners.checkpoint import Checkpoint, CheckpointFolder
from sparkml.storage import Store


def a_checkpoint() -> Checkpoint:
    arrays = {"model/0000": np.arange(6, dtype=np.float32).reshape(2, 3), "best/0000": np.array(3, np.int64)}
    return Checkpoint("f", 2, 7, 5, arrays, {"history": [{"loss": 0.1}]})


def test_a_checkpoint_comes_back_bit_by_bit() -> None:
    back = Checkpoint.decode(a_checkpoint().encode())
    assert (back.fingerprint, back.size, back.epoch, back.step, back.notes) == ("f", 2, 7, 5, {"history": [{"loss": 0.1}]})
    for name, value in a_checkpoint().arrays.items():
        assert back.arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(back.arrays[name], value)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_torn_checkpoint_is_refused(keep: int) -> None:
    with pytest.raises(StorageError, match="torn"):
        Checkpoint.decode(a_checkpoint().encode()[:keep])


def test_an_altered_checkpoint_is_refused() -> None:
    with np.load(io.BytesIO(a_checkpoint().encode())) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["model/0000"] = arrays["model/0000"] + 1
    altered = io.BytesIO()
    np.savez(altered, **arrays)
    with pytest.raises(StorageError, match="altered"):
        Checkpoint.decode(altered.getvalue())


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("something was unpickled",))


def test_every_checkpoint_that_could_not_be_written_is_told(tmp_path: Path) -> None:
    folder = CheckpointFolder(Store(str(tmp_path)), "checkpoints", "mark", keep=3)
    where = tmp_path / folder.path
    where.parent.mkdir(parents=True)
    where.write_text("a file where the folder should be")
    for epoch in (1, 2):
        folder.save(replace(a_checkpoint(), epoch=epoch))
        folder.wait()
    where.unlink()
    folder.save(replace(a_checkpoint(), epoch=3))
    folder.close()
    assert [told.partition(" could not")[0] for told in folder.failures] == [
        "the checkpoint e000001-s000000005.npz",
        "the checkpoint e000002-s000000005.npz",
    ]
    assert folder.names() == ["e000003-s000000005.npz"]


def test_nothing_is_unpickled() -> None:
    trap = io.BytesIO()
    np.savez(trap, _head=np.array([Trap()], dtype=object))
    for body in (trap.getvalue(), pickle.dumps(Trap())):
        with pytest.raises(StorageError):
            Checkpoint.decode(body)
        with pytest.raises(StorageError):
            keras_file.check(body, "it")


def keras_zip(layer: dict[str, Any]) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        config = {"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]}}
        archive.writestr("config.json", json.dumps(config))
    return body.getvalue()


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        ({"module": "keras.layers", "class_name": "Lambda"}, "keras.layers.Lambda"),
        ({"module": "os", "class_name": "system", "config": "true"}, "os.system"),
        ({"module": "kerasx.layers", "class_name": "Dense"}, "kerasx.layers.Dense"),
        ({"module": "keras.layers", "class_name": "Dense", "config": {"activation": {"class_name": "__lambda__"}}}, "__lambda__"),
        ({"module": "builtins", "class_name": "function", "config": "exec"}, "builtins.function"),
    ],
)
def test_files_that_could_run_code_are_refused_without_loading_them(layer: dict[str, Any], named: str) -> None:
    with pytest.raises(StorageError, match=f"a.keras holds {named}: "):
        keras_file.check(keras_zip(layer), "a.keras")
    keras_file.check(keras_zip({"module": "keras.layers", "class_name": "Dense"}), "a.keras")
