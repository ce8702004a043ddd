"""Tables (parquet, Arrow, CSV) to float32 rows, or to sequences of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spfl.arrays import Indices
from spfl.config.data import DataConfig
from spfl.data.categories import Words, encoded, is_words, known_words, listed, read_words
from spfl.data.dataset import Dataset, training_rows
from spfl.data.image_files import Source, check_memory, read_table
from spfl.data.labels import Part, encode_labels, find_column, label_columns, number_clients, read_clients, read_part
from spfl.errors import DataError, reason


class TableRows(NamedTuple):
    """Inputs of both parts, (n, ...), and what the files say of them."""

    train: torch.Tensor
    test: torch.Tensor
    told: list[Part]
    shown: list[Part]


def read_tables(source: Source, data: DataConfig) -> Dataset:
    """Rows of tables and their labels; or tokens and the tokens that follow them. Raises DataError."""
    rows, task = read_rows(source, data), data.task or "classification"
    clients = number_clients(rows.told, data.partition == "files")
    if task == "next_token":
        return sequences(source.name, rows.train, rows.test, clients)
    labels = encode_labels(rows.told, rows.shown, task, numbered=False)
    return Dataset(source.name, rows.train, labels.train, rows.test, labels.test, labels.classes, task, clients)


def read_rows(source: Source, data: DataConfig) -> TableRows:
    """Inputs as float32 rows or int64 tokens, and labels as they are. Raises DataError."""
    tables = [[(file, table) for file in files if (table := _read(file)).num_rows] for files in source[2:]]
    for files, found in zip(source[2:], tables, strict=True):
        if files and not found:
            raise DataError(f"{files[0]}: holds no rows")
    train, test = tables
    columns = _input_columns(*train[0], data)
    words = _word_columns(train, columns, data)
    read = [[_inputs(file, table, columns, words, data) for file, table in part] for part in tables]
    if words:
        samples = sum(table.num_rows for _, table in train)
        kept = np.arange(samples) if test or data.source == "node" else training_rows(samples, data.test_fraction)
        read = _encode(columns, read, kept, data)
    _check_widths(read[0] + read[1], [file for file, _ in train + test])
    inputs = torch.from_numpy(np.concatenate(read[0]))
    shown = torch.from_numpy(np.concatenate(read[1])) if test else inputs[:0]
    return TableRows(inputs, shown, *([_told(file, table, data) for file, table in part] for part in tables))


def _told(file: Path, table: Any, data: DataConfig) -> Part:
    if data.task == "next_token":
        return Part(file, np.zeros(table.num_rows), read_clients(file, table, data))
    return read_part(file, table, data)


def sequences(name: str, train: torch.Tensor, test: torch.Tensor, clients: torch.Tensor | None) -> Dataset:
    """Next-token data of tokens (n, length + 1). Raises DataError for what no tokens can be."""
    if train.dtype != torch.int64 or train.ndim != 2 or train.shape[1] < 2:
        raise DataError(
            f"{name}: data.task = next_token needs whole numbers, at least 2 in a row, got {train.dtype} of shape "
            f"{tuple(train.shape)}; a column of lists of equal length, or several columns"
        )
    if (low := min(int(part.min()) for part in (train, test) if len(part))) < 0:
        raise DataError(f"{name}: tokens must be >= 0, got {low}")
    tokens = 1 + max(int(part.max()) for part in (train, test) if len(part))
    inputs, following = [part[:, :-1].contiguous() for part in (train, test)], [part[:, 1:] for part in (train, test)]
    first, second = (part.contiguous() for part in following)
    return Dataset(name, inputs[0], first, inputs[1], second, tokens, "next_token", clients)


def _read(file: Path) -> Any:
    if file.suffix != ".csv":
        return read_table(file)
    import pyarrow
    from pyarrow import csv

    try:
        with file.open("rb") as opened:
            return csv.read_csv(opened)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file}: unreadable ({reason(error)})") from error


def _input_columns(file: Path, table: Any, data: DataConfig) -> list[str]:
    """The names of the inputs: those configured, or all but labels and client."""
    if data.input_columns is not None:
        return [find_column(file, table, [name]) for name in data.input_columns]
    known = [] if data.task == "next_token" else label_columns(file, table, data)
    others = [name for name in table.column_names if name not in (*known, data.client_column)]
    if not others:
        raise DataError(f"{file}: needs a column of inputs, found {', '.join(table.column_names)}")
    return others


def _word_columns(train: Sequence[tuple[Path, Any]], columns: Sequence[str], data: DataConfig) -> set[str]:
    """The inputs that are words in a file of the training part, or listed as such. Raises DataError."""
    if data.task == "next_token":
        return set()
    if strange := sorted(listed(data).keys() - set(columns)):
        raise DataError(f"{train[0][0]}: data.categories has column {strange[0]}, inputs are {', '.join(columns)}")
    kinds = {
        name: [
            table.column(find_column(file, table, [name])).type for file, table in train if name in table.column_names
        ]
        for name in columns
    }
    return {name for name in columns if name in listed(data) or any(map(is_words, kinds[name]))}


def _inputs(file: Path, table: Any, columns: Sequence[str], words: set[str], data: DataConfig) -> Any:
    """float32 (n, columns), or int64 tokens for next_token; of a column of lists their elements.

    With words among them, a list of columns: `Words`, or float64 (n,). Raises DataError.
    """
    import pyarrow as pa

    found = [table.column(find_column(file, table, [name])).combine_chunks() for name in columns]
    kinds = [column.type for column in found]
    if len(found) == 1 and (pa.types.is_list(kinds[0]) or pa.types.is_large_list(kinds[0])):
        return _lists(file, columns[0], found[0])
    check_memory(file, 4 * len(found) * table.num_rows)
    tokens = data.task == "next_token" and all(pa.types.is_integer(kind) for kind in kinds)
    values: list[Any] = [
        read_words(file, name, column) if name in words else _numbers(file, name, column)
        for name, column in zip(columns, found, strict=True)
    ]
    return values if words else np.stack(values, 1).astype(np.int64 if tokens else np.float32)


def _encode(columns: Sequence[str], read: list[list[Any]], kept: Indices, data: DataConfig) -> list[list[Any]]:
    """float32 (n, columns) of each file of both parts; the `kept` rows of the training part decide what words are."""
    known = {
        number: known_words(name, [file[number] for file in read[0]], kept, data)
        for number, name in enumerate(columns)
        if isinstance(read[0][0][number], Words)
    }

    def stacked(file: Sequence[Any]) -> NDArray[np.float32]:
        made = [
            encoded(column, known[number], data) if number in known else column[:, None].astype(np.float32)
            for number, column in enumerate(file)
        ]
        return np.concatenate(made, axis=1)

    return [[stacked(file) for file in part] for part in read]


def _numbers(file: Path, name: str, column: Any) -> NDArray[np.float64]:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(
            f"{file}: column {name} must hold numbers, got {kind}; leave it out by data.input_columns, or encode it"
        )
    values = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if not (finite := np.isfinite(values)).all():
        raise DataError(f"{file}: column {name} must have a finite number in every row, row {int(np.argmin(finite))} "
                        "has none")  # fmt: skip
    return values


def _lists(file: Path, name: str, column: Any) -> NDArray[Any]:
    """A column of lists of one length, (n, length): int64 of whole numbers, else float32."""
    import pyarrow as pa

    lengths = np.unique([-1 if row is None else len(row) for row in column.to_pylist()])
    if len(lengths) != 1 or lengths[0] < 1:
        raise DataError(f"{file}: lists in column {name} must have one length, got {lengths[0]} to {lengths[-1]}")
    flat = column.flatten()
    values = _numbers(file, name, flat).reshape(len(column), -1)
    return values.astype(np.int64 if pa.types.is_integer(flat.type) else np.float32)


def _check_widths(parts: Sequence[NDArray[Any]], files: Sequence[Path]) -> None:
    for part, file in zip(parts, files, strict=True):
        if part.shape[1:] != parts[0].shape[1:] or part.dtype != parts[0].dtype:
            raise DataError(f"{file}: rows must be {parts[0].dtype} {parts[0].shape[1:]} as in {files[0].name}, "
                            f"got {part.dtype} {part.shape[1:]}")  # fmt: skip
