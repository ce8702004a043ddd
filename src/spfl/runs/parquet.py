"""Parquet files of a run folder, and Arrow columns of NumPy arrays.

`pa.array` imports pandas wherever it is installed, half a second and 40 MiB; columns are made of buffers instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spfl.errors import RunFolderError, reason
from spfl.files import stream
from spfl.runs.folders import write_atomically

TYPES = {
    "float64": pa.float64(), "float32": pa.float32(), "int64": pa.int64(), "int32": pa.int32(), "uint8": pa.uint8(),
}  # fmt: skip


def column(values: NDArray[Any]) -> pa.Array:
    """An array (n,) of numbers or truth values, without nulls."""
    if values.dtype == np.bool_:
        return pa.Array.from_buffers(
            pa.bool_(), values.size, [None, pa.py_buffer(np.packbits(values, bitorder="little"))]
        )
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(TYPES[values.dtype.name], values.size, [None, buffer])


def lists(rows: Sequence[NDArray[Any]]) -> pa.Array:
    """A list in every row: integers."""
    ends = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    values = column(np.concatenate([*rows, np.empty(0)]).astype(np.int64))
    return pa.ListArray.from_arrays(column(ends), values, type=pa.list_(pa.int64()))


def values(column: pa.ChunkedArray) -> NDArray[Any]:
    """The inverse of `column`; what that cannot make (nulls, lists, text) as Arrow turns it into NumPy."""
    chunk = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    kind = next((name for name, arrow in TYPES.items() if arrow == chunk.type), None)
    if chunk.null_count or len(chunk) == 0 or (kind is None and chunk.type != pa.bool_()):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    start, end, content = chunk.offset, chunk.offset + len(chunk), chunk.buffers()[1]
    if kind is None:
        bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little", count=end)
        return bits[start:].astype(np.bool_)
    return np.frombuffer(content, kind, count=end)[start:]


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    """A parquet file, written whole or not at all."""
    content = pa.BufferOutputStream()
    pq.write_table(table, content, **options)
    write_atomically(path, content.getvalue())


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file of a run folder, or some columns of it. Raises RunFolderError for damage, and as `open_file`."""
    content = stream(path)
    try:
        with pq.ParquetFile(content) as file:
            table = file.read(columns=[name for name in file.schema_arrow.names if columns is None or name in columns])
    except (OSError, pa.ArrowException) as error:
        raise RunFolderError(f"{path} cannot be read: {reason(error)}") from None
    if missing := set(columns or ()) - set(table.column_names):
        raise RunFolderError(f"{path} has no column {', '.join(sorted(missing))}")
    return table
