"""Images as one resident uint8 tensor: found, decoded once, cached.

A batch is an index array, turned into float32 inputs only when it is used.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from spfl.data import DATA_DIR_ENV, data_root
from spfl.data.digits import read_digits
from spfl.data.image_files import Source, decode
from spfl.errors import ConfigError, DataError, did_you_mean
from spfl.machine import native
from spfl.own_code import find_object
from spfl.private_folder import private_folder, untrusted
from spfl.rng import SETUP_ROUND, Purpose, server_stream

CACHE_DIR_ENV = "SPFL_CACHE_DIR"
HUGGING_FACE_IDS = {
    "cifar10": "uoft-cs/cifar10",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "mnist": "ylecun/mnist",
}
CACHE_VERSION = "1"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in memory.

    Args:
        name: What the run folder calls it.
        train_images: uint8, (n, channels, height, width).
        train_labels: int64, (n,), from 0 and below `classes`.
        test_images: As the train images.
        test_labels: As the train labels.
        classes: Number of classes.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @cached_property
    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        return moments_of(*grey_sums(self.train_images))

    @property
    def mean(self) -> torch.Tensor:
        """Mean grey level (0..255) of each channel over the train images, float64 of shape (channels,)."""
        return self._moments[0]

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation of the grey level of each channel, float64 of shape (channels,)."""
        return self._moments[1]

    @cached_property
    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale, shift), float32 of shape (1, channels, 1, 1): inputs = scale * images + shift."""
        scale = 1 / torch.where(self.std > 0, self.std, 1.0)
        shape = (1, -1, 1, 1)
        return scale.float().view(shape), (-self.mean * scale).float().view(shape)

    def pooled(self, factor: int) -> Dataset:
        """A copy with every factor x factor block averaged and rounded; raises ConfigError if it does not divide."""
        if factor < 1 or self.shape[1] % factor or self.shape[2] % factor:
            raise ConfigError(f"pool factor must divide height and width {self.shape[1:]}, got {factor}")
        return replace(self, train_images=_pool(self.train_images, factor), test_images=_pool(self.test_images, factor))

    def split_validation(self, fraction: float, rng: np.random.Generator) -> Dataset:
        """For tuning: the same train images, a random `fraction` of them held out as the "test" part.

        The real test images are not in the result. Raises ConfigError unless both parts get an image.
        """
        size = len(self.train_labels)
        held_out = round(fraction * size)
        if not 0 < held_out < size:
            raise ConfigError(f"data.validation_fraction must leave images on both sides, got {fraction} of {size}")
        order = torch.from_numpy(rng.permutation(size))
        test, train = order[:held_out].sort().values, order[held_out:].sort().values
        images, labels = self.train_images, self.train_labels
        return Dataset(self.name, images[train], labels[train], images[test], labels[test], self.classes)


def grey_sums(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, sum and sum of squares of the grey levels of each channel, int64 (channels,).

    From histograms: whole numbers, whose sums depend neither on the number of threads nor on who holds which image.
    """
    levels = torch.arange(256)
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)])
    return counts.sum(1), (counts * levels).sum(1), (counts * levels.square()).sum(1)


def moments_of(pixels: torch.Tensor, total: torch.Tensor, square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel, float64 (channels,), from `grey_sums`."""
    size = pixels.double()
    mean, mean_square = total / size, square / size
    return mean, (mean_square - mean.square()).clamp_min(0).sqrt()


def _pool(images: torch.Tensor, factor: int) -> torch.Tensor:
    pool = torch.nn.functional.avg_pool2d
    return torch.cat([pool(chunk.float(), factor).round_().byte() for chunk in images.split(2048)])


def to_inputs(images: torch.Tensor, dataset: Dataset) -> torch.Tensor:
    """Normalised float32 inputs (n, channels, height, width) of uint8 `images` with the train statistics."""
    scale, shift = dataset.normalisation
    return torch.addcmul(shift, images.float(), scale)


def flip_half(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A copy of `images` in which each is mirrored left to right with probability one half."""
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5).view(-1, 1, 1, 1)
    return torch.where(mirrored, images.flip(3), images)


# --- where images come from ---------------------------------------------------------------------------------


def load_dataset(name: str, data_dir: Path | str | None = None, *, cache_dir: Path | str | None = None) -> Dataset:
    """A dataset by its name, from a folder or from the Hugging Face hub.

    A folder holds train-*.parquet and test-*.parquet (or validation-*), or the four IDX files of the MNIST family
    (train-images-idx3-ubyte and so on, gzipped or not). Decoded images are kept until a source file changes.

    Args:
        name: `digits` (embedded), `cifar10`, `mnist`, `fashion_mnist`, a Hugging Face id, or the path of a folder.
        data_dir: Folder that is looked into first, for `data_dir`/`name`; else that of SPFL_DATA_DIR.
        cache_dir: Where decoded images are kept; else SPFL_CACHE_DIR, else ~/.cache/spfl.

    Returns:
        All images in memory, uint8.

    Raises:
        DataError: Nothing is found (it says where it looked), or a file is unreadable (it says which).
    """
    if name == "digits":
        return _digits()
    if ":" in name and name.partition(":")[0].endswith(".py"):
        return _made_by(name)
    cache_dir = Path(cache_dir or os.environ.get(CACHE_DIR_ENV) or Path.home() / ".cache" / "spfl")
    source = _find_source(name, data_dir)
    cache_name = f"{re.sub(r'[^A-Za-z0-9]+', '-', source.name)}-{_digest(source.place)}.safetensors"
    cache, key = cache_dir / cache_name, _source_key(source)
    cached = _read_cache(cache, name, key)
    if cached is not None:
        return cached
    dataset = Dataset(source.name, *decode(source))
    _write_cache(cache, dataset, key)
    return dataset


def _made_by(name: str) -> Dataset:
    """The dataset that the function "file.py:name" returns. Raises DataError when it returns something else."""
    dataset = find_object(name)()
    if not isinstance(dataset, Dataset):
        raise DataError(f"{name} must return a Dataset, as spfl.make_dataset does, got {type(dataset).__name__}")
    return replace(dataset, name=name)


def _digits() -> Dataset:
    """1,797 digits of 8 x 8 pixels, grey levels 0..16 stretched to 0..255; one fixed 80/20 split."""
    levels, classes = read_digits()
    images = torch.from_numpy(np.rint(levels * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(classes)
    order = torch.from_numpy(server_stream(0, SETUP_ROUND, Purpose.VALIDATION_SPLIT).permutation(len(labels)))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    return Dataset("digits", images[train], labels[train], images[test], labels[test], 10)


def _find_source(name: str, data_dir: Path | str | None) -> Source:
    """A path is a path; a name is looked for below the data folder first, and never means the folder ./NAME."""
    folder = Path(name).expanduser()
    if _is_path(name):
        return _folder_source(folder.name, folder)
    root = data_root(data_dir)
    if root is not None and (root / name).is_dir():
        return _folder_source(name, root / name)
    if "/" in name and _holds_images(folder):
        return _folder_source(folder.name, folder)
    here = f"; for the folder ./{name} write ./{name}" if _holds_images(folder) else ""
    looked = f"{root / name}" if root else f"no data folder (--data-dir or {DATA_DIR_ENV} is not set)"
    hub_id = HUGGING_FACE_IDS.get(name, name)
    if "/" not in hub_id:
        hint = did_you_mean(name, ["digits", *HUGGING_FACE_IDS])
        raise DataError(f"dataset {name!r} not found{hint}; looked in: {looked}{here}. {_how_to_get(name)}")
    return _hub_source(name, hub_id, looked + here)


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and (any(folder.glob("*.parquet")) or any(folder.glob("*-idx3-ubyte*")))


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or "\\" in name


def _how_to_get(name: str, hub_id: str = "owner/name") -> str:
    return (
        f"Put train-*.parquet and test-*.parquet (or MNIST's four IDX files) into DIR/{name} and pass --data-dir DIR "
        f"(or set {DATA_DIR_ENV}=DIR), or use the Hugging Face dataset '{hub_id}'"
    )


def _folder_source(name: str, folder: Path) -> Source:
    if not folder.is_dir():
        raise DataError(f"dataset folder {folder} does not exist. {_how_to_get('NAME')}")
    files = sorted(folder.glob("*.parquet"))
    train = of_split(files, "train") or idx_pair(folder, "train")
    test = of_split(files, "test") or of_split(files, "validation") or idx_pair(folder, "t10k")
    if not (train and test):
        found = ", ".join(path.name for path in files) or "no *.parquet file"
        raise DataError(f"dataset folder {folder} must hold train-*.parquet and test-*.parquet, found {found}")
    if both := [path.name for path in train if path in test]:
        raise DataError(f"dataset folder {folder}: a file must be of one split, {both[0]} is of train and of test")
    return Source(name, str(folder.resolve()), train, test)


def of_split(files: Sequence[Path], split: str) -> list[Path]:
    """The files of a split, by their names. Raises DataError for shards that are not one whole set."""
    mine = [path for path in files if re.search(rf"(^|[-_.]){split}[-_.]", path.name)]
    _check_shards(mine, split)
    return mine


def _check_shards(files: Sequence[Path], split: str) -> None:
    """NNNNN-of-MMMMM: every number once, one M, and no file beside them; nor a copy that a browser has named."""
    numbers = {path: match.groups() for path in files if (match := re.search(r"(\d{5})-of-(\d{5})", path.name))}
    found = ", ".join(path.name for path in files)
    if copies := [path.name for path in files if re.search(r" \(\d+\)\.| - Copy| copy", path.name)]:
        raise DataError(f"{files[0].parent}: {copies[0]} looks like a second copy of a {split} file; remove it")
    if not numbers:
        return
    totals = sorted({total for _, total in numbers.values()})
    if len(totals) > 1 or len(numbers) < len(files):
        raise DataError(f"{files[0].parent}: {split} files must be of one set of shards, found {found}")
    have = sorted(int(number) for number, _ in numbers.values())
    if len(set(have)) < len(have):
        raise DataError(f"{files[0].parent}: a {split} shard must be there once, found {found}")
    if have != list(range(int(totals[0]))):
        missing = sorted(set(range(int(totals[0]))) - set(have)) or have
        raise DataError(
            f"{files[0].parent}: {split} shard {missing[0]:05d}-of-{totals[0]} is missing ({len(have)} of "
            f"{int(totals[0])} are there); download it again"
        )


def idx_pair(folder: Path, split: str) -> list[Path]:
    """The images and the labels of a split in the MNIST family's own format; nothing unless both are there."""
    found = [next(iter(sorted(folder.glob(f"{split}-{kind}-ubyte*"))), None) for kind in ("images-idx3", "labels-idx1")]
    return [path for path in found if path is not None] if None not in found else []


def _hub_source(name: str, hub_id: str, looked: str) -> Source:
    """Downloads (or finds in the Hugging Face cache) and returns the Arrow files of both splits."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError(
            f"dataset {name!r} not found; looked in: {looked}; to get '{hub_id}' from the Hugging Face hub, "
            f"pip install 'spfl[hub]'. {_how_to_get(name, hub_id)}"
        ) from None
    try:
        splits = datasets.load_dataset(hub_id)
        names = ("train", "test" if "test" in splits else "validation")
        train, test = ([Path(entry["filename"]) for entry in splits[split].cache_files] for split in names)
    except Exception as error:  # the hub client raises dozens of kinds, from requests to fsspec
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(
            f"dataset {name!r} not found; looked in: {looked}; Hugging Face '{hub_id}' ({reason}). "
            f"{_how_to_get(name, hub_id)}"
        ) from error
    return Source(name, hub_id, train, test)


# --- cache --------------------------------------------------------------------------------------------------


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def _source_key(source: Source) -> str:
    """Names and contents of the files: sizes and times may agree by chance. Raises DataError."""
    digest = hashlib.sha256(CACHE_VERSION.encode())
    for path in (*source.train, *source.test):
        digest.update(f"/{path.name}/".encode(errors="surrogateescape"))
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{path}: unreadable ({error.strerror or error})") from error
    return digest.hexdigest()[:24]


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    total = 0
    for _, tensor in sorted(tensors.items()):
        total = zlib.crc32(tensor.numpy().data.cast("B"), total)
    return str(total)


def _read_cache(cache: Path, name: str, key: str) -> Dataset | None:
    """The cached dataset; None if there is none, its source has changed, it is damaged, or others can write it."""
    try:
        if fault := untrusted(cache.parent) or untrusted(cache):
            warnings.warn(f"decoded images are not read from the cache: {fault}", stacklevel=3)
            return None
        with native(cache) as path, safe_open(path, framework="pt") as opened:
            meta = opened.metadata() or {}
            if meta.get("key") != key:
                return None
            tensors = {tensor: opened.get_tensor(tensor) for tensor in opened.keys()}  # noqa: SIM118
        if meta["crc32"] != _checksum(tensors):
            return None
        return Dataset(name, **tensors, classes=int(meta["classes"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _write_cache(cache: Path, dataset: Dataset, key: str) -> None:
    """Writes beside the final name and renames, so that a reader never sees half a file."""
    names = ("train_images", "train_labels", "test_images", "test_labels")
    tensors = {name: getattr(dataset, name) for name in names}
    meta = {"key": key, "classes": str(dataset.classes), "crc32": _checksum(tensors)}
    try:
        private_folder(cache.parent)
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            (Path(folder) / cache.name).write_bytes(save(tensors, meta))
            os.replace(Path(folder) / cache.name, cache)
    except OSError as error:
        raise DataError(
            f"cannot write the cache {cache} ({error}); set {CACHE_DIR_ENV} to a writable folder"
        ) from error
