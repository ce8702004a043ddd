"""Files of labelled images to arrays: parquet, Arrow from the Hugging Face cache, and IDX."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spfl.config.data import DataConfig
from spfl.data.dataset import Dataset
from spfl.data.deep_images import is_deep, read_deep
from spfl.data.labels import Part, encode_labels, find_column, label_columns, number_clients, read_part
from spfl.errors import DataError, reason
from spfl.machine import memory_bytes, native

IMAGE_COLUMNS = ("img", "image")
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # Pillow mode -> channels of 8 bits
DEEP = ("I;16", "I;16B", "I;16L", "I")  # Pillow modes of one channel of 16 bits
DEEP_COLOUR = {2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}  # of several
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # of image datasets; Pillow would run PostScript
MOST_PIXELS = 2**24  # of an image: 4096 x 4096
MEMORY_SHARE = 0.5  # of what is free, for the images of a file


class Source(NamedTuple):
    """The files of both splits; `place` tells sources apart. Of IDX: the images, then the labels."""

    name: str
    place: str
    train: Sequence[Path]
    test: Sequence[Path]


def holds_images(file: Path, data: DataConfig) -> bool:
    """Whether a file is of images: IDX, or with a column of them. Raises DataError when it is unreadable."""
    import pyarrow as pa

    if _is_idx(file) or data.image_column is not None:
        return True
    if file.suffix not in (".parquet", ".arrow") or data.input_columns is not None:
        return False
    schema = read_table(file, schema_only=True)
    kinds = (pa.types.is_struct, pa.types.is_binary, pa.types.is_large_binary)
    return any(name in IMAGE_COLUMNS for name in schema.names) or any(is_(t) for t in schema.types for is_ in kinds)


def decode(source: Source, data: DataConfig) -> Dataset:
    """Images and labels of files. Every image must look like the first one of the train split.

    Raises DataError, which names the file, otherwise.
    """
    train, form = read_split(source.train, None, data)
    test, form = read_split(source.test, form, data) if source.test else ([], form)
    task = data.task or "classification"
    if task == "next_token":
        raise DataError(f"{source.place}: data.task = next_token needs text or tokens, got images")
    labels = encode_labels([t.told for t in train], [t.told for t in test], task, numbered=True)
    clients = number_clients([t.told for t in train], data.partition == "files")
    images = torch.cat([table.images for table in train])
    shown = torch.cat([table.images for table in test]) if test else images[:0]
    return Dataset(source.name, images, labels.train, shown, labels.test, labels.classes, task, clients)


class _Decoded(NamedTuple):
    file: Path
    images: torch.Tensor
    told: Part


Form = tuple[str, tuple[int, int]]  # Pillow's mode and (width, height)


def read_split(files: Sequence[Path], form: Form | None, data: DataConfig) -> tuple[list[_Decoded], Form]:
    """The tables of a split, and the form of its images, which must be `form` if that is given. Raises DataError."""
    if _is_idx(files[0]):
        return _read_idx_split(files[0], files[1], form)
    tables = []
    for file in files:
        table = read_table(file)
        image = find_column(file, table, IMAGE_COLUMNS if data.image_column is None else [data.image_column])
        label = label_columns(file, table, data)[0]
        if table.num_rows == 0:
            continue
        images, form = _decode_images(file, table.column(image), form)
        tables.append(_Decoded(file, images, read_part(file, table, data, _count_classes(table, label))))
    if not tables or form is None:
        raise DataError(f"{files[0]}: holds no images")
    return tables, form


def read_table(file: Path, *, schema_only: bool = False) -> Any:
    """A parquet file, or an Arrow stream; or its schema. Raises DataError."""
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        if file.suffix == ".parquet":
            with file.open("rb") as opened:
                return parquet.read_schema(opened) if schema_only else parquet.ParquetFile(opened).read()
        with native(file) as name, pyarrow.memory_map(name) as mapped:
            stream = ipc.open_stream(mapped)
            return stream.schema if schema_only else stream.read_all()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file}: unreadable ({reason(error)})") from error


def _count_classes(table: Any, label: str) -> int:
    """Number of class names in the Hugging Face metadata of the schema; 0 if there is none."""
    try:
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        return len(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return 0


def _decode_images(file: Path, column: Any, form: Form | None) -> tuple[torch.Tensor, Form]:
    images: NDArray[Any] | None = None
    for row, cell in enumerate(column):
        pixels, found = decode_image(file, row, cell.as_py())
        form = form or found
        if found != form:
            raise DataError(f"{file}: row {row} is {_describe(found)}, the first image is {_describe(form)}")
        if images is None:
            check_memory(file, len(column) * pixels.nbytes)
            images = np.empty((len(column), *pixels.shape), pixels.dtype)
        images[row] = pixels
    if images is None or form is None:
        raise DataError(f"{file}: holds no images")
    height, width = images.shape[1:3]
    channels_last = torch.from_numpy(images).view(len(images), height, width, -1)
    return channels_last.permute(0, 3, 1, 2).contiguous(), form


def decode_image(file: Path, row: int, cell: Any) -> tuple[NDArray[Any], Form]:
    """The pixels of an image, bytes or a path, and its form: uint8, or float32 of 16 bits. Raises DataError."""
    from PIL import Image

    try:
        raw = cell["bytes"] if isinstance(cell, dict) else cell
        stream: Any = BytesIO(raw) if raw else file.parent / cell["path"]
        with Image.open(stream, formats=FORMATS) as image:
            form = image.mode, image.size
            if math.prod(image.size) > MOST_PIXELS:
                raise DataError(f"{file}: row {row} has {_describe(form)} pixels, must be at most {MOST_PIXELS}")
            if is_deep(image):
                levels = read_deep(raw or stream.read_bytes(), image)
                return levels.astype(np.float32), (DEEP_COLOUR[levels.shape[2]], image.size)
            pixels = np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they meet, from struct.error to their own
        raise DataError(
            f"{file}: row {row} is not a readable image ({reason(error)}); read are {', '.join(FORMATS)}"
        ) from error
    if form[0] in DEEP:
        return _deep(file, row, pixels), form
    if form[0] not in CHANNELS:
        raise DataError(f"{file}: row {row} has mode {form[0]}, must be {', '.join(CHANNELS)}, of 8 or 16 bits")
    return pixels, form


def _deep(file: Path, row: int, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Grey levels of 16 bits, which float32 holds exactly. Pillow's mode I may hold more."""
    if pixels.size and not 0 <= int(pixels.min()) <= int(pixels.max()) < 2**16:
        raise DataError(f"{file}: row {row} has grey levels of more than 16 bits")
    return pixels.astype(np.float32)


def check_memory(file: Path, size: int) -> None:
    """Raises DataError, before memory is asked for, when decoded images would not fit."""
    most = int(MEMORY_SHARE * memory_bytes())
    if size > most:
        raise DataError(
            f"{file}: its images take {size / 1e9:.1f} GB when decoded, must be at most {most / 1e9:.1f} GB here"
        )


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
    return [_Decoded(images, grey, Part(images, targets.astype(np.int64)))], found


def _read_idx(file: Path, axes: int) -> NDArray[np.uint8]:
    """A uint8 array: two zero bytes, the type (8), the number of axes, their lengths as big-endian uint32, the data."""
    start = 4 * (1 + axes)
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            head = opened.read(start)
            shape = tuple(int(n) for n in np.frombuffer(head[4:], ">u4")) if len(head) == start else ()
            check_memory(file, math.prod(shape))
            raw = opened.read(math.prod(shape) + 1)  # one more than there may be
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: unreadable ({reason(error)})") from error
    if head[:4] != bytes((0, 0, 8, axes)) or len(raw) != math.prod(shape):
        raise DataError(f"{file}: is not an IDX file of {axes} axes of bytes, or is cut short")
    return np.frombuffer(raw, np.uint8).reshape(shape).copy()
