"""Labels as files have them (numbers, words, several columns) to the labels of a task; and whose a sample is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spfl.config.data import DataConfig
from spfl.config.names import TaskName
from spfl.errors import DataError

LABEL_COLUMNS = ("label", "labels", "fine_label", "target")


class Part(NamedTuple):
    """What a file says of its samples: labels (n,) or (n, columns), whole numbers, words or float64; clients (n,)."""

    file: Path
    labels: NDArray[Any]
    clients: NDArray[Any] | None = None
    declared: int = 0  # classes that the file's metadata name


class Encoded(NamedTuple):
    """Labels of both parts as `Dataset` has them, and the number of a network's outputs."""

    train: torch.Tensor
    test: torch.Tensor
    classes: int


def find_column(file: Path, table: Any, known: Sequence[str]) -> str:
    """The first of the known names that a table has once. Raises DataError."""
    for name in known:
        if table.column_names.count(name) > 1:
            raise DataError(f"{file}: must have one column named {name}, found {table.column_names.count(name)}")
        if name in table.column_names:
            return name
    found = ", ".join(table.column_names)
    raise DataError(f"{file}: needs a column named {' or '.join(known)}, found {found}")


def label_columns(file: Path, table: Any, data: DataConfig) -> list[str]:
    """The names of the label columns of a file. Raises DataError for one that it lacks."""
    if isinstance(data.label_column, tuple):
        return [find_column(file, table, [name]) for name in data.label_column]
    return [find_column(file, table, LABEL_COLUMNS if data.label_column is None else [data.label_column])]


def read_part(file: Path, table: Any, data: DataConfig, declared: int = 0) -> Part:
    """Labels and clients of a table, as they are. Raises DataError for nulls and for what no label can be."""
    columns = [_labels(file, table.column(name), data.task) for name in label_columns(file, table, data)]
    if data.task in (None, "classification") and len(columns) > 1:
        raise DataError(f"{file}: classification has one label column, got {len(columns)}; set data.task = multi_label")
    labels = columns[0] if len(columns) == 1 else np.stack(columns, 1)
    return Part(file, labels, read_clients(file, table, data), declared)


def read_clients(file: Path, table: Any, data: DataConfig) -> NDArray[Any] | None:
    """Whose each sample is, as text, (n,); None without a client column."""
    if data.client_column is None:
        return None
    column = table.column(find_column(file, table, [data.client_column]))
    if column.null_count:
        raise DataError(f"{file}: column {data.client_column} must say whose a row is, got {column.null_count} nulls")
    return np.array([str(value) for value in column.to_pylist()])


def _labels(file: Path, column: Any, task: TaskName | None) -> NDArray[Any]:
    """A column as whole numbers or words (classification), or as float64."""
    import pyarrow as pa

    kind, wants_numbers = column.type, task in ("regression", "multi_label")
    words = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if wants_numbers and (whole or pa.types.is_floating(kind)) and not column.null_count:
        values = np.asarray(column.to_numpy(), np.float64)
        if np.isfinite(values).all():
            return values
        raise DataError(f"{file}: labels must be finite numbers, got {values[~np.isfinite(values)][0]}")
    if wants_numbers:
        raise DataError(f"{file}: labels must be numbers without nulls for data.task = {task}, got {kind}")
    if column.null_count or not (words or whole):
        hint = "; for numbers set data.task = regression" if pa.types.is_floating(kind) else ""
        raise DataError(f"{file}: labels must be integers or words without nulls, got {kind}{hint}")
    if words:
        return np.array([str(value) for value in column.to_pylist()])
    return np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.int64)


def encode_labels(train: Sequence[Part], test: Sequence[Part], task: TaskName, numbered: bool) -> Encoded:
    """Labels of both parts for a task. Raises DataError for a value that the task cannot have.

    Classes are the sorted values of the train part; with `numbered`, whole numbers must be the classes themselves, from
    0, of which a file's metadata may name more than occur.
    """
    if task == "classification":
        return _classes(train, test, numbered)
    stacked = [_stacked(parts) for parts in (train, test)]
    if task == "multi_label":
        for part in (*train, *test):
            if (wrong := part.labels[(part.labels != 0) & (part.labels != 1)]).size:
                raise DataError(f"{part.file}: labels must be 0 or 1 for data.task = multi_label, got {wrong[0]:g}")
    width = stacked[0].shape[1]
    tensors = [torch.from_numpy(part.reshape(-1, width).astype(np.float32)) for part in stacked]
    return Encoded(tensors[0], tensors[1], width)


def _stacked(parts: Sequence[Part]) -> NDArray[Any]:
    rows = [part.labels if part.labels.ndim == 2 else part.labels[:, None] for part in parts]
    return np.concatenate(rows) if rows else np.zeros((0, 1))


def _classes(train: Sequence[Part], test: Sequence[Part], numbered: bool) -> Encoded:
    if numbered and all(part.labels.dtype.kind == "i" for part in (*train, *test)):
        classes = max((part.declared for part in train), default=0) or 1 + max(int(p.labels.max()) for p in train)
        check_classes(train[0].file.parent, classes, sum(len(part.labels) for part in train))
        for part in (*train, *test):
            low, high = int(part.labels.min()), int(part.labels.max())
            if low < 0 or high >= classes:
                raise DataError(f"{part.file}: label must lie in 0..{classes - 1}, got {low if low < 0 else high}")
        return Encoded(_joined([part.labels for part in train]), _joined([part.labels for part in test]), classes)
    kinds = {part.labels.dtype.kind for part in (*train, *test)}
    if len(kinds) > 1:
        raise DataError(f"{train[0].file.parent}: labels of all files must be integers, or words in all, got both")
    known = np.unique(np.concatenate([part.labels for part in train]))
    check_classes(train[0].file.parent, len(known), sum(len(part.labels) for part in train))
    for part in test:
        if (strange := part.labels[~np.isin(part.labels, known)]).size:
            raise DataError(f"{part.file}: label {strange[0]!s} is of no sample of the training part")
    places = [[np.searchsorted(known, part.labels) for part in parts] for parts in (train, test)]
    return Encoded(_joined(places[0]), _joined(places[1]), len(known))


def _joined(parts: Sequence[NDArray[Any]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64))


def number_clients(parts: Sequence[Part], by_file: bool) -> torch.Tensor | None:
    """Clients of the train samples, int64 (n,): the place of each name in their sorted order, or the file's number."""
    if by_file:
        return torch.from_numpy(np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts]))
    named = [part.clients for part in parts if part.clients is not None]
    return torch.from_numpy(np.unique(np.concatenate(named), return_inverse=True)[1]) if named else None


CLASSES_AT_LEAST = 1000  # with fewer classes than this, none are counted against the samples


def check_classes(place: Path | str, classes: int, samples: int) -> None:
    """Raises DataError for labels with gaps: more classes, by the highest label, than there are samples of them."""
    if classes > max(CLASSES_AT_LEAST, samples):
        raise DataError(
            f"{place}: labels must be numbered from 0 without gaps, got {classes - 1} as the highest of {samples}"
        )
