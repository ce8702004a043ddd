"""Files of labelled images to arrays: parquet, Arrow from the Hugging Face cache, and IDX."""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spfl.errors import DataError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
CHANNELS = {"L": 1, "RGB": 3}  # Pillow mode -> channels


LARGEST_IMAGE = 2**24  # pixels of one image
LARGEST_SHARE = 0.5  # of the memory of the machine, for the images of a file


def check_bytes(file: Path, count: int) -> None:
    """Raises DataError for images that would not fit, before memory is asked for."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**33
    most = int(LARGEST_SHARE * pages)
    if count > most:
        raise DataError(f"{file}: its images have {count} bytes, must have at most {most}, half of the memory here")


class Source(NamedTuple):
    """The files of both splits; `place` tells sources apart. Of IDX: the images, then the labels."""

    name: str
    place: str
    train: Sequence[Path]
    test: Sequence[Path]


def decode(source: Source) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """(train images, train labels, test images, test labels, classes) as `spfl.data.dataset.Dataset` has them.

    Every image must look like the first one of the train split. Raises DataError, which names the file, otherwise.
    """
    train, form = read_split(source.train, None)
    test, form = read_split(source.test, form)
    classes = max((table.classes for table in train), default=0) or 1 + max(int(t.labels.max()) for t in train)
    for table in [*train, *test]:
        low, high = int(table.labels.min()), int(table.labels.max())
        if low < 0 or high >= classes:
            raise DataError(f"{table.file}: label must lie in 0..{classes - 1}, got {low if low < 0 else high}")
    return *join(train), *join(test), classes


class _Decoded(NamedTuple):
    file: Path
    images: torch.Tensor
    labels: torch.Tensor
    classes: int  # 0 if the file does not say


Form = tuple[str, tuple[int, int]]  # Pillow's mode and (width, height)


def join(tables: Sequence[_Decoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (n, channels, height, width) and labels (n,) of all tables."""
    return torch.cat([table.images for table in tables]), torch.cat([table.labels for table in tables])


def read_split(files: Sequence[Path], form: Form | None) -> tuple[list[_Decoded], Form]:
    """The tables of a split, and the form of its images, which must be `form` if that is given. Raises DataError."""
    if _is_idx(files[0]):
        return _read_idx_split(files[0], files[1], form)
    tables = []
    for file in files:
        table = _read_table(file)
        image, label = _find_column(file, table, IMAGE_COLUMNS), _find_column(file, table, LABEL_COLUMNS)
        if table.num_rows == 0:
            continue
        images, form = _decode_images(file, table.column(image), form)
        tables.append(_Decoded(file, images, _read_labels(file, table.column(label)), _count_classes(table, label)))
    if not tables or form is None:
        raise DataError(f"{files[0]}: holds no images")
    return tables, form


def _read_table(file: Path) -> Any:
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        if file.suffix == ".parquet":
            return parquet.ParquetFile(file).read()
        with pyarrow.memory_map(str(file)) as mapped:
            return ipc.open_stream(mapped).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: unreadable ({str(error).splitlines()[0]})") from error


def _find_column(file: Path, table: Any, known: Sequence[str]) -> str:
    for name in known:
        if name in table.column_names:
            return name
    found = ", ".join(table.column_names)
    raise DataError(f"{file}: needs a column named {' or '.join(known)}, found {found}")


def _read_labels(file: Path, column: Any) -> torch.Tensor:
    labels = column.to_numpy()
    if labels.dtype.kind not in "iu":
        raise DataError(f"{file}: labels must be integers without nulls, got {column.type}")
    return torch.from_numpy(labels.astype(np.int64))


def _count_classes(table: Any, label: str) -> int:
    """Number of class names in the Hugging Face metadata of the schema; 0 if there is none."""
    try:
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        return len(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return 0


def _decode_images(file: Path, column: Any, form: Form | None) -> tuple[torch.Tensor, Form]:
    images: NDArray[np.uint8] | None = None
    for row, cell in enumerate(column):
        pixels, found = decode_image(file, row, cell.as_py())
        form = form or found
        if found != form:
            raise DataError(f"{file}: row {row} is {_describe(found)}, the first image is {_describe(form)}")
        if images is None:
            check_bytes(file, len(column) * pixels.nbytes)
            images = np.empty((len(column), *pixels.shape), np.uint8)
        images[row] = pixels
    if images is None or form is None:
        raise DataError(f"{file}: holds no images")
    height, width = images.shape[1:3]
    channels_last = torch.from_numpy(images).view(len(images), height, width, -1)
    return channels_last.permute(0, 3, 1, 2).contiguous(), form


def decode_image(file: Path, row: int, cell: Any) -> tuple[NDArray[np.uint8], Form]:
    """The pixels of an image, bytes or a path, and its form. Raises DataError."""
    from PIL import Image

    try:
        raw = cell["bytes"] if isinstance(cell, dict) else cell
        stream = BytesIO(raw) if raw else file.parent / cell["path"]
        with Image.open(stream) as image:  # the header alone
            if image.width * image.height > LARGEST_IMAGE:
                raise DataError(
                    f"{file}: row {row} has {image.width}x{image.height} pixels, must have at most {LARGEST_IMAGE}"
                )
            pixels, form = np.asarray(image), (image.mode, image.size)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: row {row} is not a readable image ({error})") from error
    if form[0] not in CHANNELS:
        raise DataError(f"{file}: row {row} has mode {form[0]}, must be {' or '.join(CHANNELS)}")
    return pixels, form


def _describe(form: Form) -> str:
    return f"{form[0]} {form[1][0]}x{form[1][1]}"


# --- IDX: the format of the MNIST family (LeCun, Cortes and Burges 1998) ---------------------------------------------


def _is_idx(file: Path) -> bool:
    return "-ubyte" in file.name


def _read_idx_split(images: Path, labels: Path, form: Form | None) -> tuple[list[_Decoded], Form]:
    pixels, targets = _read_idx(images, 3), _read_idx(labels, 1)
    if not len(pixels) == len(targets) > 0:
        raise DataError(f"{images}: holds {len(pixels)} images, {labels.name} {len(targets)} labels")
    found: Form = ("L", (pixels.shape[2], pixels.shape[1]))
    if found != (form or found):
        raise DataError(f"{images}: row 0 is {_describe(found)}, the first image is {_describe(form or found)}")
    grey = torch.from_numpy(pixels).unsqueeze(1)
    return [_Decoded(images, grey, torch.from_numpy(targets.astype(np.int64)), 0)], found


def _read_idx(file: Path, axes: int) -> NDArray[np.uint8]:
    """A uint8 array: two zero bytes, the type (8), the number of axes, their lengths as big-endian uint32, the data."""
    start = 4 * (1 + axes)
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            head = opened.read(start)
            shape = tuple(int(n) for n in np.frombuffer(head[4:], ">u4")) if len(head) == start else ()
            check_bytes(file, math.prod(shape))
            raw = opened.read(math.prod(shape) + 1)  # no more than it says it has, and a byte that must not be there
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: unreadable ({error})") from error
    if head[:4] != bytes((0, 0, 8, axes)) or not shape or len(raw) != math.prod(shape):
        raise DataError(f"{file}: is not an IDX file of {axes} axes of bytes, or is cut short")
    return np.frombuffer(raw, np.uint8).reshape(shape).copy()
