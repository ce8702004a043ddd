"""The state of a run for those who watch it: a file in Prometheus' text format, rewritten after each round.

node_exporter's textfile collector reads it, and so does anything that reads text. `spfl flower health` looks at its
age.
"""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from spfl.errors import FlowerError
from spfl.runs.jsons import Json

GAUGES = {
    "round": "last round that is complete",
    "test_accuracy": "accuracy on the test set after the last evaluation",
    "test_f1": "F1 on the test set after the last evaluation",
    "test_r2": "R^2 on the test set after the last evaluation",
    "loss": "mean training loss of the cohort",
    "signs_received": "sign packets received in the round",
    "moduli_received": "modulus packets received in the round",
    "rejected": "devices that were not usable in the round",
}


def write_metrics(path: Path, values: Json) -> None:
    """Write the metrics of a round. Raises FlowerError when the file cannot be written."""
    registry = CollectorRegistry()
    for name, text in GAUGES.items():
        value = values.get(name)
        if value is not None:
            Gauge(f"spfl_{name}", text, registry=registry).set(value)
    Gauge("spfl_round_seconds", "wall-clock seconds of the round", registry=registry).set(values["seconds"]["total"])
    Gauge("spfl_round_timestamp_seconds", "when the round ended", registry=registry).set(time.time())
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise FlowerError(f"flower.metrics_file {path} cannot be written: {error.strerror or error}") from None


def check_health(path: Path, most_s: float) -> str:
    """One line on the run that writes `path`. Raises FlowerError when its last round is longer ago than `most_s`."""
    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
        values = {sample.name: sample.value for family in families for sample in family.samples}
        age_s = time.time() - values["spfl_round_timestamp_seconds"]
    except (OSError, ValueError, KeyError) as error:
        raise FlowerError(f"{path} cannot be read as metrics of a run: {error}") from None
    line = f"round {values.get('spfl_round', 0):.0f} ended {age_s:.0f} s ago"
    if age_s > most_s:
        raise FlowerError(f"{line}, which is more than {most_s:g} s")
    return line
