"""Raw files on another host: asked for by folder, read once, and only what changed is read again."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sparkml.errors import DataError
from sparkml.ingest.files import expand, scan


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a storage was asked what."""
    found: Counter[str] = Counter()
    for name in ("info", "ls", "cat_file"):
        whole = getattr(MemoryFileSystem, name)

        def counted(self: Any, path: str, *arguments: Any, _name: str = name, _whole: Any = whole, **named: Any) -> Any:
            found[_name] += 1
            return _whole(self, path, *arguments, **named)

        monkeypatch.setattr(MemoryFileSystem, name, counted)
    return found


def test_thousands_of_files_are_a_question_for_each_folder(requests: Counter[str]) -> None:
    fs, root = fsspec.filesystem("memory"), f"memory://{uuid4().hex}"
    for number in range(300):
        fs.pipe_file(f"{root}/day={number // 100}/{number:03d}.csv", b"a\n%d\n" % number)
    fs.pipe_file(f"{root}/alone/x.csv", b"a\n1\n")
    paths = expand([root])
    assert len(paths) == 301
    assert expand([f"{root}/day=*/*.csv", f"{root}/day=1"]) == [path for path in paths if "alone" not in path]
    requests.clear()
    first = scan(paths, {})
    assert (requests["ls"], requests["cat_file"]) == (3, 301)
    assert requests["info"] < 10, "the file that is alone, and what fsspec asks about the folders"
    requests.clear()
    assert scan(paths, {file.path: file for file in first}) == first
    assert requests["cat_file"] == 0, "nothing changed, nothing is read"
    fs.pipe_file(f"{root}/day=1/150.csv", b"a\nnew\n")
    changed = scan(paths, {file.path: file for file in first})
    assert [old.path for old, new in zip(first, changed, strict=True) if old != new] == [f"{root}/day=1/150.csv"]


def test_an_empty_or_lost_file_among_many_is_named() -> None:
    fs, root = fsspec.filesystem("memory"), f"memory://{uuid4().hex}"
    for number in range(20):
        fs.pipe_file(f"{root}/{number}.csv", b"a\n1\n")
    paths = expand([root])
    fs.rm_file(f"{root}/7.csv")
    with pytest.raises(DataError, match=r"cannot read the input file .*/7\.csv"):
        scan(paths, {})
    fs.pipe_file(f"{root}/7.csv", b"")
    with pytest.raises(DataError, match=r"/7\.csv is empty"):
        scan(paths, {})
