"""The run config of a Flower app and the experiment it stands for.

Flower hands every node a flat mapping of numbers, texts and truth values. Its keys are those of the configuration
(`training.rounds`), and `flower.*` for what belongs to the engine. An empty text stands for a key that is left out, so
that `flwr run --run-config` can set it: Flower allows no key that the app does not list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from spfl.config.files import assign, dotted, parse_value, read_values
from spfl.config.schema import Config
from spfl.config.section import Section, validated

Scalar = str | int | float | bool
LISTS = (
    "channel.gains_db", "data.shape", "data.class_names", "data.mean", "data.std", "data.split", "data.input_columns",
    "data.label_column", "data.categories",
)  # fmt: skip  # kept as text in a run config


class FlowerConfig(Section):
    """The engine: nothing here changes a number of the run while all nodes answer in time."""

    one_exchange: bool = Field(False, description="devices send their packets along with the side information")
    timeout_s: float = Field(600.0, gt=0, description="seconds an answer may take; a later one is lost, with its round")
    wait_s: float = Field(120.0, ge=0, description="seconds to wait for all nodes before the first round")
    min_nodes: int = Field(1, ge=1, description="fewest nodes to begin with, once wait_s is over")
    out: str = Field("", description="run folder, on the server's host; none is written when empty")
    resume: bool = Field(False, description="go on from the last checkpoint in the run folder")
    checkpoint_every: int = Field(10, ge=1, description="rounds between checkpoints")
    data_dir: str = Field("", description="folder of datasets; a node's own `data-dir` goes before it")
    test_data: str = Field(
        "",
        description="test set of the server with data.source = node: a folder or module:function; else nodes evaluate",
    )
    module: str = Field(
        "", description="module:function or file.py:function of your own network, which the app carries"
    )
    tracker: str = Field("", description="report to tensorboard, mlflow or wandb as well, on the server's host")
    packets: Literal["records", "udp"] = Field(
        "records", description="how packets travel: in Flower's records over TLS, or as authenticated UDP datagrams"
    )
    udp_address: str = Field("", description="HOST:PORT to which nodes send their datagrams (packets = udp)")
    udp_listen: str = Field("", description="HOST:PORT at which the server hears them; all its addresses when ''")
    udp_mbit: float = Field(10.0, gt=0, description="Mbit/s that all nodes share by their granted bandwidth")
    udp_quiet_s: float = Field(0.5, gt=0, description="seconds without a new datagram after which a round is over")
    metrics_listen: str = Field("", description="HOST:PORT at which the server answers Prometheus; nowhere when ''")
    metrics_file: str = Field("", description="file in Prometheus' text format, rewritten after each round")


class Settings(Config):
    """The experiment and the engine that runs it."""

    flower: FlowerConfig = Field(default_factory=lambda: FlowerConfig())

    @model_validator(mode="after")
    def _rounds_are_synchronous(self) -> Settings:
        if self.asynchronous.on:
            raise ValueError(f"asynchronous.rule must be none on Flower, got {self.asynchronous.rule}")
        return self

    @property
    def experiment(self) -> Config:
        """The experiment alone."""
        return Config.model_validate(self.model_dump(exclude={"flower"}))


def load_settings(path: Path | None, overrides: Iterable[str] = ()) -> Settings:
    """As `files.load_config`, with a table [flower] besides. Raises ConfigError."""
    return validated(Settings, read_values(path, overrides))


def read_run_config(run_config: Mapping[str, Any]) -> Settings:
    """What a run config stands for. Raises ConfigError for an unknown key or a bad value, with one line."""
    values: dict[str, Any] = {}
    for key, value in run_config.items():
        if value != "":
            assign(values, key, parse_value(value) if key in LISTS and isinstance(value, str) else value)
    return validated(Settings, values)


def to_run_config(settings: Settings) -> dict[str, Scalar]:
    """Every key, flat; `read_run_config` makes equal settings of it."""
    return {key: _scalar(value) for key, value in dotted(settings.model_dump(mode="json")).items()}


def _scalar(value: Any) -> Scalar:
    if value is None:
        return ""
    return str(value) if isinstance(value, list) else value
