"""What a node's own data are read from: a folder or file, or a function; as pairs of inputs and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spfl.config.data import DataConfig
from spfl.data import SUFFIXES
from spfl.data.dataset import Dataset
from spfl.data.image_files import Source, decode_image, holds_images, read_split
from spfl.data.labels import Part
from spfl.data.sources import idx_pair, of_split
from spfl.data.tables import read_rows, sequences
from spfl.data.texts import read_characters
from spfl.errors import ConfigError, DataError, named
from spfl.own_code import find_object

IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
Pair = tuple[torch.Tensor, torch.Tensor]  # inputs (n, ...) and labels (n, ...), as `Dataset` has them


def load_own(data: DataConfig, source: str) -> tuple[Pair, Pair | None]:
    """The training part and the test part, if any. Raises DataError."""
    place = Path(source).expanduser()
    if place.is_file() and place.suffix in SUFFIXES:
        return _read_files(data, Source(place.name, str(place), [place], []))
    if place.is_dir():
        return _read_folder(data, place)
    if ":" not in source:
        raise DataError(
            f"node data must be a folder, module:function or file.py:function, got {source!r}, which is no folder"
        )
    return _call(data, source)


# --- a function ------------------------------------------------------------------------------------------------


def _call(data: DataConfig, source: str) -> tuple[Pair, Pair | None]:
    try:
        made = find_object(source, "node data")()
    except ConfigError as error:
        raise DataError(f"node data: {error}") from error
    except Exception as error:  # whatever a caller's own code raises
        raise DataError(f"node data {source}: {named(error)}") from error
    if isinstance(made, Dataset):
        if made.task != (data.task or "classification"):
            raise DataError(f"node data {source}: has task {made.task}, the run's is {data.task or 'classification'}")
        test = (made.test_inputs, made.test_labels) if len(made.test_labels) else None
        return (made.train_inputs, made.train_labels), test
    try:
        pairs = [made] if len(made) == 2 and not isinstance(made[0], tuple) else list(made)
        train, *rest = [_pair(data, source, *pair) for pair in pairs]
    except (TypeError, ValueError) as error:
        raise DataError(f"node data {source} must return (images, labels), got {type(made).__name__}") from error
    return train, rest[0] if rest else None


def _pair(data: DataConfig, source: str, inputs: Any, labels: Any) -> Pair:
    """Arrays of a function as tensors of the run's type. Raises DataError for another type."""
    values, wanted, axes = torch.as_tensor(inputs), data.input_type, len(data.shape or ())
    real = not values.is_complex() and (wanted == "float32" or not values.is_floating_point())
    if not real or (wanted == "uint8" and values.dtype != torch.uint8):
        form = {"uint8": " (n, [channels,] height, width)"}.get(wanted, f" or what becomes it, (n, {_axes(data)})")
        raise DataError(
            f"node data {source}: {noun(data)} must be {wanted}{form}, got {values.dtype} {tuple(values.shape)}"
        )
    values = values.unsqueeze(1) if axes == 3 and values.ndim == 3 else values
    told = _own_labels(data, [Part(Path(source), _label_array(source, labels))])
    if values.ndim != axes + 1 or len(values) != len(told):
        raise DataError(
            f"node data {source}: needs {noun(data)} (n, {_axes(data)}) and n labels, got {tuple(values.shape)} and "
            f"{tuple(told.shape)}"
        )
    return values.to(getattr(torch, wanted)).contiguous(), told


def noun(data: DataConfig) -> str:
    """What inputs are called in messages."""
    return "images" if data.input_type == "uint8" else "inputs"


def _axes(data: DataConfig) -> str:
    return ", ".join(map(str, data.shape or ()))


def _label_array(source: str, labels: Any) -> NDArray[Any]:
    array = labels.numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if array.dtype.kind not in "iufbU":
        raise DataError(f"node data {source}: labels must be numbers or words, got {array.dtype}")
    return array


# --- labels ----------------------------------------------------------------------------------------------------


def _own_labels(data: DataConfig, parts: Sequence[Part]) -> torch.Tensor:
    """Labels of a node for the run's task: whole numbers and words mean the same at every node. Raises DataError."""
    if data.task in ("regression", "multi_label"):
        rows = [part.labels if part.labels.ndim > 1 else part.labels[:, None] for part in parts]
        if any(part.dtype.kind == "U" for part in rows):
            raise DataError(f"{parts[0].file}: labels must be numbers for data.task = {data.task}, got words")
        return torch.from_numpy(np.concatenate(rows).astype(np.float32))
    return torch.from_numpy(np.concatenate([_numbered(data, part) for part in parts]))


def _numbered(data: DataConfig, part: Part) -> NDArray[np.int64]:
    labels, names = part.labels, data.class_names
    if labels.dtype.kind in "iub":
        labels = labels if data.task == "next_token" else labels.reshape(-1)
        return labels.astype(np.int64)
    if labels.dtype.kind == "f":
        raise DataError(f"node data {part.file}: labels must be integers, got {labels.dtype}")
    if names is None:
        raise DataError(
            f"{part.file}: labels of a node must be integers, 0 to {(data.classes or 0) - 1}, got words; set "
            "data.class_names"
        )
    place = {name: number for number, name in enumerate(names)}
    if strange := sorted(set(labels.tolist()) - place.keys()):
        raise DataError(f"{part.file}: label {strange[0]!r} is none of the run's classes ({', '.join(names)})")
    return np.array([place[word] for word in labels.tolist()], np.int64)


# --- files -----------------------------------------------------------------------------------------------------


def _read_folder(data: DataConfig, folder: Path) -> tuple[Pair, Pair | None]:
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    test = of_split(files, "test") or of_split(files, "validation") or idx_pair(folder, "t10k")
    train = of_split(files, "train") or idx_pair(folder, "train") or [path for path in files if path not in test]
    if not train:
        return _read_class_folders(data, folder)
    if len(kinds := sorted({path.suffix for path in (*train, *test)} & set(SUFFIXES))) > 1:
        raise DataError(f"{folder} must hold files of one kind, found {', '.join(kinds)}")
    return _read_files(data, Source(folder.name, str(folder), train, test))


def _read_files(data: DataConfig, source: Source) -> tuple[Pair, Pair | None]:
    if holds_images(source.train[0], data):
        tables, form = read_split(source.train, None, data)
        test = read_split(source.test, form, data)[0] if source.test else []
        parts = [
            (torch.cat([table.images for table in part]), _own_labels(data, [table.told for table in part]))
            for part in (tables, test)
            if part
        ]
    elif data.task == "next_token":
        parts = _tokens(data, source)
    else:
        rows = read_rows(source, data)
        parts = [(rows.train, _own_labels(data, rows.told))]
        parts += [(rows.test, _own_labels(data, rows.shown))] if rows.shown else []
    return parts[0], parts[1] if len(parts) > 1 else None


def _tokens(data: DataConfig, source: Source) -> list[Pair]:
    """Sequences and what follows them, of columns of whole numbers, or of text in the characters of `class_names`."""
    if source.train[0].suffix == ".txt":
        whole, shown = read_characters(source, data, data.class_names or ())
    else:
        rows = read_rows(source, data)
        whole, shown = rows.train, rows.test
    made = sequences(source.name, whole, shown, None)
    train, test = (made.train_inputs, made.train_labels), (made.test_inputs, made.test_labels)
    return [train, test] if len(test[1]) else [train]


def _read_class_folders(data: DataConfig, folder: Path) -> tuple[Pair, Pair | None]:
    root = folder / "train" if (folder / "train").is_dir() else folder
    train = _read_classes(data, root)
    if train is None:
        raise DataError(
            f"{folder} must hold train-*.parquet (or .csv, .txt), MNIST's IDX files, or a folder of images for each "
            "class"
        )
    return train, _read_classes(data, folder / "test")


def _read_classes(data: DataConfig, root: Path) -> Pair | None:
    """The images below root/CLASS, by class and name; None when there are none."""
    images, labels, first = [], [], None
    for label, folder in _class_folders(data, root):
        for file in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_NAMES):
            pixels, form = decode_image(file, 0, {"bytes": None, "path": str(file.resolve())})
            first = first or (file, form)
            if form != first[1]:
                raise DataError(
                    f"{file} is {form[0]} {times(form[1])}, {first[0]} is {first[1][0]} {times(first[1][1])}"
                )
            images.append(torch.from_numpy(pixels.copy()))
            labels.append(label)
    if not images:
        return None
    stacked = torch.stack(images)
    stacked = stacked.unsqueeze(1) if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)
    return stacked.contiguous(), torch.tensor(labels)


def _class_folders(data: DataConfig, root: Path) -> list[tuple[int, Path]]:
    names = {str(name): label for label, name in enumerate(data.class_names or range(data.classes or 0))}
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name != "test") if root.is_dir() else []
    unknown = [path.name for path in folders if path.name not in names]
    if unknown:
        known = ", ".join(names)
        raise DataError(
            f"{root}: class folder {unknown[0]!r} is none of the run's classes ({known}); see data.class_names"
        )
    return [(names[path.name], path) for path in folders]


def times(shape: Sequence[int]) -> str:
    """A shape in words."""
    return " x ".join(map(str, shape))
