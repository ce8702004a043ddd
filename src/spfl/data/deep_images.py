"""Images of 16 bits and several channels, whose low bytes Pillow drops: PNG by pypng, TIFF by tifffile."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXTRA = "to read 16 bits of colour, pip install 'spfl[deep]'"
BITS_PER_SAMPLE, COMPRESSION = 258, 259  # tags of TIFF
PLAIN = 1  # TIFF without compression
CHANNELS_AT_MOST = 4


def is_deep(image: Any) -> bool:
    """Whether a file that Pillow has opened has more bits a channel than Pillow reads of it."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "PNG":
        return any(";16" in str(tile[3]) for tile in image.tile)
    if image.format == "TIFF":
        return bool(max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8)
    return bool(image.format == "PPM" and any(isinstance(tile[3], tuple) for tile in image.tile))


def read_deep(raw: bytes, image: Any) -> NDArray[np.uint16]:
    """The levels of such a file, (height, width, channels). Raises ValueError for what cannot be read."""
    readers: dict[str, Callable[[bytes, Any], Any]] = {"PNG": _read_png, "TIFF": _read_tiff}
    if image.format not in readers:
        raise ValueError(f"16 bits of colour are read from PNG and TIFF, got {image.format}")
    try:
        levels = np.asarray(readers[image.format](raw, image))
    except ModuleNotFoundError:
        raise ValueError(EXTRA) from None
    if levels.dtype != np.uint16 or levels.shape[:2] != image.size[::-1] or levels.ndim != 3:
        raise ValueError(f"levels must be of 16 bits, one image a file, got {levels.dtype} {levels.shape}")
    return levels


def _read_png(raw: bytes, image: Any) -> NDArray[Any]:
    import png

    width, height = image.size
    row_bytes = 1 + 2 * CHANNELS_AT_MOST * width
    left, inflater = 2 * row_bytes * height + 64, zlib.decompressobj()  # an interlaced image has more rows
    for kind, data in png.Reader(bytes=raw).chunks():
        if kind == b"IDAT":  # pypng would inflate without a limit
            left -= len(inflater.decompress(data, left))
            if left <= 0:
                raise ValueError("it holds more data than pixels")
    _, _, rows, told = png.Reader(bytes=raw).read()
    return np.array([list(row) for row in rows], np.uint16).reshape(height, width, told["planes"])


def _read_tiff(raw: bytes, image: Any) -> NDArray[Any]:
    import tifffile

    if (kind := image.tag_v2.get(COMPRESSION, PLAIN)) != PLAIN:
        raise ValueError(f"a TIFF of 16 bits of colour must not be compressed, got compression {kind}")
    with tifffile.TiffFile(BytesIO(raw)) as opened:
        page = opened.pages[0]
        if max(page.shape) > max(*image.size, CHANNELS_AT_MOST):
            raise ValueError(f"one image a file is read, got {page.shape}")
        levels = np.asarray(page.asarray())
    return np.moveaxis(levels, 0, -1) if page.axes == "SYX" else levels
