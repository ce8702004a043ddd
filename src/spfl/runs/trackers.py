"""Metrics to TensorBoard, MLflow or Weights & Biases while a run is under way. The run folder has all of them anyway.

Each is an optional extra. None can stop a run: the first fault of a tracker is told as a warning, and ends its part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spfl.config.files import dotted
from spfl.config.schema import Config
from spfl.errors import ConfigError, did_you_mean
from spfl.runs.experiment import flatten
from spfl.runs.jsons import Json

Log = Callable[[int, dict[str, float]], object]


def check_trackers(names: Sequence[str]) -> None:
    """Raises ConfigError for an unknown tracker, or one whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"unknown tracker '{name}'" + did_you_mean(name, TRACKERS))
        if find_spec(name) is None:
            raise ConfigError(f"--tracker {name} needs the package {name}: pip install 'spfl[{name}]'")


@contextmanager
def tracking(names: Sequence[str], config: Config, folder: Path) -> Iterator[Callable[[Json], None]]:
    """Yields what to call with the metrics of each round. Raises ConfigError as `check_trackers` does."""
    check_trackers(names)
    with ExitStack() as stack:
        logs = {name: stack.enter_context(TRACKERS[name](config, folder)) for name in names}

        def track(values: Json) -> None:
            numbers = {key: float(v) for key, v in dotted(values).items() if isinstance(v, int | float)}
            for name in list(logs):
                try:
                    logs[name](values["round"], numbers)
                except Exception as error:  # of a server that went away: any kind
                    warnings.warn(f"tracker {name} failed and is left alone from now on: {error}", stacklevel=2)
                    del logs[name]

        yield track


def run_name(config: Config) -> str:
    return f"{config.scheme.name}-{config.seed}"


@contextmanager
def _tensorboard(config: Config, folder: Path) -> Iterator[Log]:
    """Event files in FOLDER/tensorboard: `tensorboard --logdir FOLDER`. Rounds that are run again replace the old."""
    from torch.utils.tensorboard import SummaryWriter

    writers: list[SummaryWriter] = []  # made in the first round: a run wants its folder empty

    def log(round_: int, numbers: dict[str, float]) -> None:
        if not writers:
            writers.append(SummaryWriter(folder / "tensorboard", purge_step=round_))
            table = "\n".join(f"| {key} | {value} |" for key, value in flatten(config).items())
            writers[0].add_text("config", f"| key | value |\n|---|---|\n{table}", round_)
        for key, value in numbers.items():
            writers[0].add_scalar(key.replace(".", "/"), value, round_)
        writers[0].flush()

    try:
        yield log
    finally:
        for writer in writers:
            writer.close()


@contextmanager
def _mlflow(config: Config, folder: Path) -> Iterator[Log]:
    """A run in the experiment `spfl`, where MLFLOW_TRACKING_URI says, or where MLflow puts it by default."""
    import mlflow

    mlflow.set_experiment("spfl")
    with mlflow.start_run(run_name=run_name(config)):
        mlflow.log_params(flatten(config))
        mlflow.set_tag("folder", str(folder.resolve()))
        yield lambda round_, numbers: mlflow.log_metrics(numbers, step=round_)


@contextmanager
def _wandb(config: Config, folder: Path) -> Iterator[Log]:
    """A run in the project `spfl`; WANDB_MODE=offline keeps it on the disk."""
    import wandb

    run: Any = wandb.init(project="spfl", name=run_name(config), config=flatten(config))
    try:
        yield lambda round_, numbers: run.log(numbers, step=round_)
    finally:
        run.finish()


TRACKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
