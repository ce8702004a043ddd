"""The state of a run for those who watch it, in Prometheus' text format: a file, rewritten after each round, or HTTP.

node_exporter's textfile collector reads the file, and so does anything that reads text; Prometheus itself calls the
endpoint. `spfl flower health` looks at the age of the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, Metric, start_http_server, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from spfl.errors import FlowerError, reason
from spfl.flower.gateway import split_address
from spfl.runs.jsons import Json
from spfl.runs.metrics import metric_of

GAUGES = {
    "round": "last round that is complete",
    "loss": "mean training loss of the cohort",
    "signs_received": "sign packets received in the round",
    "moduli_received": "modulus packets received in the round",
    "rejected": "devices that were not usable in the round",
}


def _registry(values: Json) -> CollectorRegistry:
    """The metrics of a round that ends now."""
    registry, score = CollectorRegistry(), f"test_{metric_of(values)}"
    told = {score: f"{score} after the last evaluation"} if score.isascii() else {}  # as all names of Prometheus
    for name, text in (GAUGES | told).items():
        value = values.get(name)
        if value is not None:
            Gauge(f"spfl_{name}", text, registry=registry).set(value)
    Gauge("spfl_round_seconds", "wall-clock seconds of the round", registry=registry).set(values["seconds"]["total"])
    Gauge("spfl_round_timestamp_seconds", "when the round ended", registry=registry).set(time.time())
    return registry


def write_metrics(path: Path, values: Json) -> None:
    """Write the metrics of a round. Raises FlowerError when the file cannot be written."""
    try:
        write_to_textfile(str(path), _registry(values))
    except OSError as error:
        raise FlowerError(f"flower.metrics_file {path} cannot be written: {error.strerror or error}") from None


class LastRound(Collector):
    """The metrics of the last round that it was told; none before the first."""

    def __init__(self) -> None:
        self._known: list[Metric] = []

    def tell(self, values: Json) -> None:
        """A round has ended."""
        self._known = list(_registry(values).collect())

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks for."""
        yield from self._known


@contextmanager
def metrics_endpoint(listen: str) -> Iterator[LastRound]:
    """Answer at http://HOST:PORT/metrics while the context lasts. Raises FlowerError for an address that is none."""
    host, port = split_address(listen, "flower.metrics_listen")
    last, registry = LastRound(), CollectorRegistry()
    registry.register(last)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise FlowerError(f"flower.metrics_listen {listen} cannot be used: {error.strerror or error}") from None
    try:
        yield last
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def check_health(path: Path, most_s: float) -> str:
    """One line on the run that writes `path`. Raises FlowerError when its last round is longer ago than `most_s`."""
    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
        values = {sample.name: sample.value for family in families for sample in family.samples}
        age_s = time.time() - values["spfl_round_timestamp_seconds"]
    except (OSError, ValueError, KeyError) as error:
        raise FlowerError(f"{path} cannot be read as metrics of a run: {reason(error)}") from None
    line = f"round {values.get('spfl_round', 0):.0f} ended {age_s:.0f} s ago"
    if age_s > most_s:
        raise FlowerError(f"{line}, which is more than {most_s:g} s")
    return line
