"""Columns of Arrow from NumPy and back, without pandas."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from spfl.errors import RunFolderError
from spfl.runs.parquet import TYPES, column, lists, read_table, values, write_table


@pytest.mark.parametrize("kind", [*TYPES, "bool"])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_a_column_is_what_arrow_makes_of_the_array_and_comes_back(kind, count):
    numbers = np.random.default_rng(0).integers(0, 2, count).astype(kind)
    made = column(numbers)
    assert made.equals(pa.array(numbers))
    for table in (pa.chunked_array([made]), pa.chunked_array([made, made]), pa.chunked_array([made]).slice(count // 3)):
        again = values(table)
        assert np.array_equal(again, table.to_numpy())
        assert again.dtype == kind


def test_an_array_that_is_not_contiguous_is_copied():
    numbers = np.arange(20.0)[::3]
    assert column(numbers).equals(pa.array(numbers))


def test_lists_and_nulls():
    rows = [np.array([1, 2]), np.array([], np.int64), np.array([3])]
    assert lists(rows).equals(pa.array([r.tolist() for r in rows], pa.list_(pa.int64())))
    assert values(pa.chunked_array([pa.array([1.0, None])])).tolist()[0] == 1.0
    assert [list(x) for x in values(pa.chunked_array([lists(rows)]))] == [[1, 2], [], [3]]


def test_a_missing_column_is_told(tmp_path):
    write_table(tmp_path / "t.parquet", pa.Table.from_arrays([column(np.arange(3))], ["a"]))
    assert read_table(tmp_path / "t.parquet", ["a"])["a"].to_pylist() == [0, 1, 2]
    with pytest.raises(RunFolderError, match="has no column b, c"):
        read_table(tmp_path / "t.parquet", ["a", "c", "b"])


@pytest.mark.parametrize(
    "spoil", [lambda raw: b"", lambda raw: raw[:-9], lambda raw: raw[:60] + b"\xff" * 40 + raw[100:]]
)
def test_a_damaged_table_is_told_in_one_line(spoil, tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, pa.Table.from_arrays([column(np.arange(300))], ["a"]))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(RunFolderError, match=r"t\.parquet cannot be read: [^\n]+$"):
        read_table(path)
