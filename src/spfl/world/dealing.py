"""What a world is made of: the data as asked for, their shares of the devices, and the network after a dry pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spfl.arrays import Indices
from spfl.config.schema import Config
from spfl.custom import Custom, checked_parts
from spfl.data.dataset import Dataset
from spfl.data.partitioning import Dealing, SampledParts, deal_clients, labels_to_deal, natural_clients, partition
from spfl.errors import ConfigError
from spfl.flat_model import PLAIN, Traits
from spfl.own_code import called
from spfl.rng import SETUP_ROUND, Purpose, server_stream
from spfl.scheme import Scheme
from spfl.tasks import task_of
from spfl.world.batch_norm import with_batch_norm
from spfl.world.dry_pass import check_network


def as_asked(config: Config, dataset: Dataset) -> Dataset:
    """The data, normalised as configured. Raises ConfigError where they do not fit the configuration."""
    data = config.data
    if data.task is not None and data.task != dataset.task:
        raise ConfigError(f"data.task must be {dataset.task} for {dataset.name}, got {data.task}")
    _check_images(config, dataset)
    return dataset.normalised_by(data)


def check_own(config: Config, dataset: Dataset, scheme: Scheme) -> None:
    """Raises ConfigError for what data of the nodes' own do not have."""
    _check_images(config, dataset)
    if scheme.auxiliary == "labels":
        raise ConfigError("scheme.auxiliary must be bias with data.source = node: nodes tell no counts of labels")


def _check_images(config: Config, dataset: Dataset) -> None:
    training, shape = config.training, dataset.shape
    if training.flip and not dataset.is_images:
        raise ConfigError(f"training.flip must be false where inputs are no images, got true for {shape}")
    if training.crop_px and not dataset.is_images:
        raise ConfigError(f"training.crop_px must be 0 where inputs are no images, got {training.crop_px} for {shape}")
    if training.crop_px and training.crop_px >= min(shape[1:]):
        raise ConfigError(f"training.crop_px must be below the rows and columns of an image, {shape[1:]}, got "
                          f"{training.crop_px}")  # fmt: skip


def dealt(config: Config, dataset: Dataset, custom: Custom) -> Sequence[Indices]:
    """The samples of each device. Raises ConfigError or DataError."""
    data = config.data
    rng, labels = server_stream(config.seed, SETUP_ROUND, Purpose.PARTITION), dataset.train_labels.numpy()
    if custom.partition is not None:
        return checked_parts(
            called("partition", custom.partition, labels, data.devices, rng), data.devices, len(labels)
        )
    if data.partition == "column" or data.partition == "files":
        return deal_clients(natural_clients(dataset, data.partition), data.devices, data.min_samples, rng)
    labels = labels_to_deal(dataset, data.partition)
    if data.partition == "sampled":
        return SampledParts(
            labels,
            data.devices,
            seed=config.seed,
            dirichlet_alpha=data.dirichlet_alpha,
            samples=data.samples_per_device,
        )
    dealing = Dealing(data.partition, data.dirichlet_alpha, data.shards_per_device, data.min_samples)
    return partition(labels, data.devices, dealing, rng)


def tried(config: Config, dataset: Dataset, custom: Custom) -> tuple[Custom, Traits]:
    """The caller's parts with the network as `model.batch_norm` has it, and what it does. Raises ConfigError."""
    if custom.module is None:
        return custom, PLAIN
    module = with_batch_norm(custom.module, config.model.batch_norm)
    return replace(custom, module=module), check_network(module, dataset, task_of(dataset, custom.loss, custom.metric))
