"""Where data come from: embedded, a folder or file, a function, or the Hugging Face hub. Images are cached decoded."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from spfl.config.data import DataConfig
from spfl.data import DATA_DIR_ENV, SUFFIXES, data_root
from spfl.data.dataset import Dataset
from spfl.data.embedded import EMBEDDED, embedded
from spfl.data.image_files import Source, decode, holds_images
from spfl.data.tables import read_tables
from spfl.data.texts import read_texts
from spfl.errors import DataError, did_you_mean, reason
from spfl.machine import native
from spfl.own_code import called, find_object
from spfl.private_folder import private_folder, untrusted

CACHE_DIR_ENV = "SPFL_CACHE_DIR"
HUGGING_FACE_IDS = {
    "cifar10": "uoft-cs/cifar10",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "mnist": "ylecun/mnist",
}
CACHE_VERSION = "3"
CONNECT_S = 3.0  # seconds that the hub has to answer


def load_dataset(
    data: str | DataConfig, data_dir: Path | str | None = None, *, cache_dir: Path | str | None = None
) -> Dataset:
    """A dataset by its name, from a folder or file, or from the Hugging Face hub.

    A folder holds train-*.parquet and test-*.parquet (or validation-*), the same as CSV or text, or the four IDX files
    of the MNIST family (train-images-idx3-ubyte and so on, gzipped or not). Decoded images are kept until a source
    file changes.

    Args:
        data: An embedded one (`digits`, `breast_cancer`, `wine`, `diabetes`, `sentences`), `cifar10`, `mnist`,
            `fashion_mnist`, a Hugging Face id, or the path of a folder or file; or the table [data] of a configuration,
            which also says what is read of it.
        data_dir: Folder that is looked into first, for `data_dir`/name; else that of SPFL_DATA_DIR.
        cache_dir: Where decoded images are kept; else SPFL_CACHE_DIR, else ~/.cache/spfl.

    Returns:
        All samples in memory: uint8 images, float32 rows of a table, or int64 tokens.

    Raises:
        DataError: Nothing is found (it says where it looked), or a file is unreadable (it says which).
    """
    data = DataConfig(name=data) if isinstance(data, str) else data
    if data.name in EMBEDDED:
        return embedded(data.name)
    if ":" in data.name and data.name.partition(":")[0].endswith(".py"):
        return _made_by(data.name)
    source = _find_source(data, data_dir)
    if holds_images(source.train[0], data):
        dataset = _cached_images(source, data, cache_dir)
    else:
        dataset = read_texts(source, data) if source.train[0].suffix == ".txt" else read_tables(source, data)
    return dataset if source.test else dataset.hold_out(data.test_fraction)


def _cached_images(source: Source, data: DataConfig, cache_dir: Path | str | None) -> Dataset:
    cache_dir = Path(cache_dir or os.environ.get(CACHE_DIR_ENV) or Path.home() / ".cache" / "spfl")
    cache_name = f"{re.sub(r'[^A-Za-z0-9]+', '-', source.name)}-{_digest(source.place)}.safetensors"
    cache, key = cache_dir / cache_name, _source_key(source, data)
    cached = _read_cache(cache, source.name, key)
    if cached is not None:
        return cached
    dataset = decode(source, data)
    _write_cache(cache, dataset, key)
    return dataset


def _made_by(name: str) -> Dataset:
    """The dataset that the function "file.py:name" returns. Raises DataError when it returns something else."""
    dataset = called(f"dataset {name}", find_object(name, "data.name"))
    if not isinstance(dataset, Dataset):
        raise DataError(f"{name} must return a Dataset, as spfl.make_dataset does, got {type(dataset).__name__}")
    return replace(dataset, name=name)


def _find_source(data: DataConfig, data_dir: Path | str | None) -> Source:
    """A path is a path; a name is looked for below the data folder first, and never means ./NAME."""
    name, folder = data.name, Path(data.name).expanduser()
    if _is_path(name):
        return _folder_source(folder.name, folder, data)
    root = data_root(data_dir)
    if root is not None and ((root / name).is_dir() or _is_table(root / name)):
        return _folder_source(name, root / name, data)
    if "/" in name and _holds_data(folder):
        return _folder_source(folder.name, folder, data)
    here = f"; for ./{name} write ./{name}" if _holds_data(folder) else ""
    looked = f"{root / name}" if root else f"no data folder (--data-dir or {DATA_DIR_ENV} is not set)"
    hub_id = HUGGING_FACE_IDS.get(name, name)
    if "/" not in hub_id:
        hint = did_you_mean(name, [*EMBEDDED, *HUGGING_FACE_IDS])
        raise DataError(f"dataset {name!r} not found{hint}; looked in: {looked}{here}. {_how_to_get(name)}")
    return _hub_source(data, hub_id, looked + here)


def _holds_data(folder: Path) -> bool:
    if not folder.is_dir():
        return _is_table(folder)
    return any(path.suffix in SUFFIXES or "-idx3-ubyte" in path.name for path in folder.iterdir())


def _is_table(path: Path) -> bool:
    return path.suffix in SUFFIXES and path.is_file()


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or "\\" in name


def _how_to_get(name: str, hub_id: str = "owner/name") -> str:
    return (
        f"Put train-*.parquet and test-*.parquet (or MNIST's four IDX files) into DIR/{name} and pass --data-dir DIR "
        f"(or set {DATA_DIR_ENV}=DIR), or use the Hugging Face dataset '{hub_id}'"
    )


def _folder_source(name: str, folder: Path, data: DataConfig) -> Source:
    if _is_table(folder):
        return Source(name, str(folder.resolve()), [folder], [])
    if not folder.is_dir():
        raise DataError(f"dataset folder {folder} does not exist. {_how_to_get('NAME')}")
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    train_name, *test_names = data.split or ("train", "test", "validation")
    train = of_split(files, train_name) or idx_pair(folder, "train")
    test = next(filter(None, (of_split(files, split) for split in test_names)), None) or idx_pair(folder, "t10k")
    if not train and not test and data.partition == "files" and data.split is None:
        train = files
    if not train or (test_names and not test and data.partition != "files"):
        wanted = " and ".join(f"{split}-*.parquet" for split in (data.split or ("train", "test")))
        found = ", ".join(path.name for path in files) or "no *.parquet file"
        raise DataError(f"dataset folder {folder} must hold {wanted} (or .csv, .txt), found {found}")
    if both := [path.name for path in train if path in test]:
        raise DataError(f"dataset folder {folder}: a file must be of one split, {both[0]} is of train and of test")
    if len(kinds := sorted({path.suffix for path in (*train, *test)} & set(SUFFIXES))) > 1:
        raise DataError(f"dataset folder {folder} must hold files of one kind, found {', '.join(kinds)}")
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


def _hub_source(data: DataConfig, hub_id: str, looked: str) -> Source:
    """Downloads (or finds in the Hugging Face cache) and returns the Arrow files of both splits."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError(
            f"dataset {data.name!r} not found; looked in: {looked}; to get '{hub_id}' from the Hugging Face hub, "
            f"pip install 'spfl[hub]'. {_how_to_get(data.name, hub_id)}"
        ) from None
    try:
        if not _is_online():
            _go_offline()
        splits = datasets.load_dataset(hub_id, *([] if data.config is None else [data.config]))
        train_name, *test_names = data.split or ("train", "test" if "test" in splits else "validation")
        if missing := [split for split in (train_name, *test_names) if split not in splits]:
            raise DataError(f"it has no part {missing[0]!r}, but {', '.join(splits)}; set data.split")
        parts = [[Path(entry["filename"]) for entry in splits[s].cache_files] for s in (train_name, *test_names)]
    except Exception as error:  # the hub client raises dozens of kinds, from requests to fsspec
        why = reason(error) or type(error).__name__
        raise DataError(
            f"dataset {data.name!r} not found; looked in: {looked}; Hugging Face '{hub_id}' ({why}). "
            f"{_how_to_get(data.name, hub_id)}"
        ) from error
    place = "/".join([hub_id, *([data.config] if data.config else []), *(data.split or ())])
    return Source(data.name, place, parts[0], parts[1] if test_names else [])


def _is_online() -> bool:
    """Whether the hub answers: asked once, where its client would try five times. Proxies are trusted."""
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True
    place = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname or "", port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def _go_offline() -> None:
    """The hub's client reads its own cache from here on, and asks nobody."""
    with suppress(ImportError, AttributeError):
        import datasets
        import huggingface_hub

        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True


# --- cache --------------------------------------------------------------------------------------------------


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def _source_key(source: Source, data: DataConfig) -> str:
    """Names and contents of the files, and what is read of them: sizes and times may agree by chance.

    Raises DataError.
    """
    read = (data.task, data.image_column, data.label_column, data.client_column, data.partition == "files")
    digest = hashlib.sha256(f"{CACHE_VERSION} {read}".encode())
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
        total = zlib.crc32(tensor.numpy().data.cast("B"), total) if tensor.numel() else total
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
        clients = tensors.pop("clients", None)
        return Dataset(name, **tensors, classes=int(meta["classes"]), task=meta["task"], clients=clients)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _write_cache(cache: Path, dataset: Dataset, key: str) -> None:
    """Writes beside the final name and renames, so that a reader never sees half a file."""
    names = ("train_inputs", "train_labels", "test_inputs", "test_labels")
    tensors = {name: getattr(dataset, name) for name in names}
    tensors |= {} if dataset.clients is None else {"clients": dataset.clients}
    meta = {"key": key, "classes": str(dataset.classes), "task": dataset.task, "crc32": _checksum(tensors)}
    try:
        private_folder(cache.parent)
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            (Path(folder) / cache.name).write_bytes(save(tensors, meta))
            os.replace(Path(folder) / cache.name, cache)
    except OSError as error:
        raise DataError(
            f"cannot write the cache {cache} ({reason(error)}); set {CACHE_DIR_ENV} to a writable folder"
        ) from error
