"""How samples are dealt to the devices, and a device's minibatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spfl.arrays import Indices
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError, DataError, did_you_mean
from spfl.rng import SETUP_ROUND, Purpose, stream

Partition = Literal["iid", "dirichlet", "shards"]
DIRICHLET_TRIES = 100


@dataclass(frozen=True)
class Dealing:
    """How samples are dealt to devices, each of which gets at least `min_samples`.

    * "iid": equal parts of a random permutation.
    * "dirichlet": each class is shared out by a Dirichlet(alpha) draw (Hsu, Qi, Brown 2019); drawn again, at most
      100 times, until every device has `min_samples`.
    * "shards": sorted by label, cut into devices * shards_per_device pieces, dealt at random (McMahan et al. 2017).
    """

    kind: Partition
    dirichlet_alpha: float = 0.3
    shards_per_device: int = 2
    min_samples: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Partition):
            raise ConfigError(f"unknown partition {self.kind!r}{did_you_mean(self.kind, get_args(Partition))}")
        if not 0 < self.dirichlet_alpha < np.inf:
            raise ConfigError(f"dirichlet_alpha must be positive and finite, got {self.dirichlet_alpha}")
        for name, limit in (("shards_per_device", 1), ("min_samples", 0)):
            if getattr(self, name) < limit:
                raise ConfigError(f"{name} must be >= {limit}, got {getattr(self, name)}")


def partition(labels: ArrayLike, devices: int, dealing: Dealing, rng: np.random.Generator) -> list[Indices]:
    """Deals sample indices 0..n-1 to `devices`: disjoint, none left over; sorted within a device.

    Raises ConfigError for a parameter outside its range, DataError if the data cannot give what is asked.
    """
    label_of, kind, least = np.asarray(labels), dealing.kind, dealing.min_samples
    _check_size(len(label_of), devices, least)
    if kind == "iid":
        parts = np.array_split(rng.permutation(len(label_of)), devices)
    elif kind == "shards":
        parts = _deal_shards(label_of, devices, dealing.shards_per_device, rng)
    else:
        parts = _deal_dirichlet(label_of, devices, dealing.dirichlet_alpha, least, rng)
    if min(map(len, parts)) < least:
        raise DataError(f"{kind}: a device got {min(map(len, parts))} samples, min_samples is {least}")
    return [np.sort(part).astype(np.int64) for part in parts]


def labels_to_deal(dataset: Dataset, kind: str) -> NDArray[Any]:
    """Labels (n,) that a partition of this kind may look at. Raises ConfigError for a task that has none of them."""
    labels = dataset.train_labels.numpy()
    if dataset.task == "classification" or kind == "iid":
        return labels
    if dataset.task == "regression" and labels.shape[1] == 1 and kind == "shards":
        return np.asarray(labels[:, 0])
    raise ConfigError(
        f"data.partition = {kind} deals samples by their class; with data.task = {dataset.task} take iid, column, files"
    )


def natural_clients(dataset: Dataset, kind: str) -> Indices:
    """Whose each training sample is, (n,). Raises ConfigError for data that do not say."""
    if dataset.clients is None:
        hint = {"column": "set data.client_column, or pass clients= to make_dataset", "files": "read them from files"}
        raise ConfigError(f"data.partition = {kind} needs data that say whose a sample is; {hint[kind]}")
    return dataset.clients.numpy()


def deal_clients(clients: Indices, devices: int, min_samples: int, rng: np.random.Generator) -> list[Indices]:
    """A device for a client, with all that the client has: those of at least `min_samples`, in their own order.

    Where there are more of them than `devices`, some are drawn. Raises DataError where there are fewer.
    """
    order = np.argsort(clients, kind="stable").astype(np.int64)
    names, starts = np.unique(clients[order], return_index=True)
    parts = np.split(order, starts[1:])
    enough = [part for part in parts if len(part) >= min_samples]
    if len(enough) < devices:
        raise DataError(
            f"data.devices must be at most {len(enough)}, the clients with data.min_samples = {min_samples} samples or "
            f"more of {len(names)} in all, got {devices}"
        )
    chosen = np.sort(rng.choice(len(enough), devices, replace=False))
    return [np.sort(enough[client]) for client in chosen]


class SampledParts(Sequence[Indices]):
    """A population of any size: a device's samples are drawn when they are asked for; only the last few are kept.

    Device k draws its label mixture from Dirichlet(alpha) and then `samples` images, without replacement as long as the
    class has enough. Devices share images, as a million devices must. Raises ConfigError for a parameter out of range.
    """

    def __init__(self, labels: ArrayLike, devices: int, *, seed: int, dirichlet_alpha: float, samples: int) -> None:
        if devices < 1 or samples < 1 or not 0 < dirichlet_alpha < np.inf:
            raise ConfigError(
                "devices and samples must be >= 1 and dirichlet_alpha positive and finite, "
                f"got {devices}, {samples} and {dirichlet_alpha}"
            )
        label_of = np.asarray(labels)
        self._members = [np.flatnonzero(label_of == label) for label in np.unique(label_of)]
        self._devices, self._seed, self._alpha, self._samples = devices, seed, dirichlet_alpha, samples
        self._recent = lru_cache(maxsize=4096)(self._draw)  # a round asks several times

    def __len__(self) -> int:
        return self._devices

    def __getitem__(self, device: Any) -> Any:
        """Sorted indices (samples,) of one device, the same at every call."""
        if not 0 <= device < self._devices:
            raise IndexError(f"device must be in 0..{self._devices - 1}, got {device}")
        return self._recent(int(device))

    def _draw(self, device: int) -> Indices:
        rng = stream(self._seed, SETUP_ROUND, device, Purpose.PARTITION)
        counts = rng.multinomial(self._samples, rng.dirichlet(np.full(len(self._members), self._alpha)))
        drawn = [
            rng.choice(members, count, replace=bool(count > len(members)), shuffle=False)
            for members, count in zip(self._members, counts, strict=True)
            if count
        ]
        return np.sort(np.concatenate(drawn)).astype(np.int64)


def _check_size(samples: int, devices: int, least: int) -> None:
    if devices < 1:
        raise ConfigError(f"devices must be >= 1, got {devices}")
    if devices * least > samples:
        raise DataError(
            f"{devices} devices with at least {least} samples each need {devices * least} samples, "
            f"the data have {samples}"
        )


def _deal_shards(labels: NDArray[Any], devices: int, per_device: int, rng: np.random.Generator) -> list[NDArray[Any]]:
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    shards = np.array_split(by_label, devices * per_device)
    hands = rng.permutation(len(shards)).reshape(devices, per_device)
    return [np.concatenate([shards[shard] for shard in hand]) for hand in hands]


def _deal_dirichlet(
    labels: NDArray[Any], devices: int, alpha: float, min_samples: int, rng: np.random.Generator
) -> list[NDArray[Any]]:
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(DIRICHLET_TRIES):
        shares = rng.dirichlet(np.full(devices, alpha), size=len(members))
        cuts = [(np.cumsum(share)[:-1] * len(m)).astype(int) for share, m in zip(shares, members, strict=True)]
        if _sizes(cuts, members).min() >= min_samples:
            dealt = [np.split(rng.permutation(m), cut) for m, cut in zip(members, cuts, strict=True)]
            return [np.concatenate(pieces) for pieces in zip(*dealt, strict=True)]
    raise DataError(
        f"dirichlet: {DIRICHLET_TRIES} draws at dirichlet_alpha={alpha} left one of {devices} devices with fewer than "
        f"{min_samples} of the {len(labels)} samples; raise dirichlet_alpha, or use fewer devices or min_samples"
    )


def _sizes(cuts: Sequence[NDArray[Any]], members: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Samples of each device over all classes, shape (device,)."""
    edges = [np.concatenate([[0], cut, [len(m)]]) for cut, m in zip(cuts, members, strict=True)]
    return np.asarray(np.diff(edges).sum(0))


def batch_indices(indices: Indices, batch_size: int, rng: np.random.Generator) -> Indices:
    """One device's minibatch: `batch_size` of its indices without replacement, all of them if it has no more."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be >= 1, got {batch_size}")
    if batch_size >= len(indices):
        return indices
    return rng.choice(indices, batch_size, replace=False, shuffle=False)
