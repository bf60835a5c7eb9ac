"""Sparse columns read as they are stored, in either precision; what is out of place is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparkml.shards.reader import ShardReader, ShardSet
from sparkml.shards.schema import Column, check_finite, columns_of, schema_of, to_arrow, to_csr, to_numpy
from tests.unit.shards.test_shards import compact_url

KIND = pa.struct({"size": pa.int32(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float64())})
COLUMN = Column(name="v", dtype="float64", shape=(1 << 20,), kind="sparse", stored_bytes=24)


def stored(*rows: dict[int, float], size: int = 1 << 20, column: Column = COLUMN) -> pa.Array:
    given = [{"size": size, "indices": list(row), "values": list(row.values())} for row in rows]
    return to_arrow(pa.array(given, KIND), column)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wide_column_is_read_as_a_sparse_matrix(dtype: str) -> None:
    column = COLUMN.model_copy(update={"dtype": dtype})
    array = stored({3: 0.1, 1_048_575: -2.0}, {}, {7: 1.0}, {0: 4.0}, column=column)
    found = to_csr(array, column)
    assert found.shape == (4, 1 << 20) and found.dtype == dtype and found.nnz == 4
    assert (found[0, 3], found[0, 1_048_575], found[3, 0]) == (np.dtype(dtype).type(0.1), -2.0, 4.0)
    part = to_csr(array.slice(2, 2), column)
    assert part.indices.tolist() == [7, 0] and part.indptr.tolist() == [0, 1, 2]
    assert to_csr(array.slice(1, 1), column).nnz == 0
    assert columns_of(schema_of([column])) == [column.model_copy(update={"stored_bytes": 0})]


def test_doubles_keep_their_digits() -> None:
    column = Column(name="v", dtype="float64", shape=(5,), kind="sparse", stored_bytes=12)
    array = stored({1: 0.1, 4: 1e300}, size=5, column=column)
    np.testing.assert_array_equal(to_numpy(array, column), [[0, 0.1, 0, 0, 1e300]])


def test_row_groups_may_stay_sparse(tmp_path: Path) -> None:
    url, _, dense = compact_url(tmp_path)
    shards = ShardSet.open(url)
    parts: list[Any] = []
    for _, batches in ShardReader(shards, shards.groups, ["v", "y"]).by_group(["v"]):
        for batch in batches:
            np.testing.assert_array_equal(batch["v"].toarray(), dense[(batch["y"] / 2).astype(int)])
            parts.append(batch["v"])
    assert sum(part.shape[0] for part in parts) == len(dense)


def test_blocks_that_are_made_dense_are_no_larger_than_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, _, dense = compact_url(tmp_path, 900, 450)
    shards = ShardSet.open(url)
    monkeypatch.setattr("sparkml.shards.reader.BLOCK_BYTES", 70 * dense[0].nbytes)

    def rows(sparse: list[str]) -> list[int]:
        return [
            len(batch["y"]) for _, batches in ShardReader(shards, shards.groups, ["v", "y"]).by_group(sparse) for batch in batches
        ]

    assert max(rows([])) <= 70 < max(rows(["v"])) and sum(rows([])) == 900


def test_what_is_out_of_place_is_refused() -> None:
    for place in (-1, 1 << 20):
        with pytest.raises(ValueError, match=f"'v' has an entry at {place}: there are places 0 to 1048575"):
            stored({place: 1.0})
    with pytest.raises(ValueError, match=r"'v' must hold vectors of size 1048576, it holds \[6\]"):
        stored({1: 1.0}, size=6)
    narrow = COLUMN.model_copy(update={"shape": (8,)})
    with pytest.raises(ValueError, match="'v' has an entry at 9: there are places 0 to 7"):
        to_csr(stored({9: 1.0}), narrow)  # of a file that somebody else wrote


def test_entries_that_are_not_finite_are_refused() -> None:
    array = stored({1: 1.0}, {2: np.nan, 5: np.inf}, {3: 1.0})
    with pytest.raises(ValueError, match="'v' has 2 numbers that are NaN or infinite"):
        check_finite(array, COLUMN)
    check_finite(array.slice(2), COLUMN)
