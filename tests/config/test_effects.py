"""No setting without effect: what is called idle changes nothing learned, and counts without the other key."""

from __future__ import annotations

from typing import Any

import pytest

from spfl import training
from spfl.config.effects import OVERRIDDEN, check_swept, told_idle, without_effect
from spfl.config.files import assign, dotted, load_config
from spfl.config.names import ANALOGUE, CALIBRATED, LADDER_FIXED, LADDER_GRANTED, SPARSE
from spfl.config.schema import Config, build_config
from spfl.data.sources import load_dataset
from spfl.errors import ConfigError
from spfl.runs.metrics import metrics
from spfl.schemes import SCHEMES

SMALL = {
    "data.devices": 4, "training.rounds": 2, "model.name": "softmax", "training.eval_every": 1, "workers": 1,
    "channel.symbols_per_parameter": 1.0,
}  # fmt: skip
# Of each key: another value, and the settings under which it is idle.
IDLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "channel.power_dbm": (23.0, {"channel.median_snr_db": 0.0}),
    "channel.noise_dbm_per_hz": (-150.0, {"channel.median_snr_db": 0.0}),
    "channel.noise_figure_db": (9.0, {"channel.median_snr_db": 0.0}),
    "channel.radius_m": (900.0, {"channel.gains_db": [-120.0, -118.0, -122.0, -119.0]}),
    "channel.min_distance_m": (90.0, {"channel.gains_db": [-120.0, -118.0, -122.0, -119.0]}),
    "channel.shadowing_db": (0.0, {"channel.gains_db": [-120.0, -118.0, -122.0, -119.0]}),
    "trace.end": ("repeat", {}),
    "channel.symbols_per_parameter": (3.0, {"channel.tau_s": 0.001}),
    "channel.subbands": (9, {}),
    "channel.round_s": (1.0, {}),
    "channel.phase_error_rad": (0.5, {}),
    "channel.bler_curves": ("sionna", {}),
    "channel.carrier_hz": (28e9, {}),
    "channel.bs_height_m": (30.0, {}),
    "channel.device_height_m": (3.0, {}),
    "channel.indoor_share": (0.5, {}),
    "channel.downlink_power_dbm": (10.0, {}),
    "channel.downlink_noise_figure_db": (9.0, {}),
    "channel.downlink_bits_per_parameter": (8.0, {}),
    "data.dirichlet_alpha": (9.0, {"data.partition": "iid"}),
    "data.shards_per_device": (3, {}),
    "data.samples_per_device": (50, {}),
    "data.config": ("small", {}),
    "data.split": (("train",), {}),
    "data.test_fraction": (0.4, {}),
    "data.image_column": ("scan", {}),
    "data.input_columns": (("x",), {}),
    "data.label_column": ("y", {}),
    "data.client_column": ("writer", {}),
    "data.sequence_length": (9, {}),
    "data.encode": ("codes", {}),
    "data.categories": (("city=Bonn",), {}),
    "model.batch_norm": ("group", {}),
    "scheme.theta": (0.5, {"scheme.objective": "error"}),
    "scheme.kappa": (0.5, {"scheme.objective": "error"}),
    "scheme.trim": (0.3, {}),
    "scheme.bits_per_value": (0.5, {}),
    "scheme.peaks": (True, {}),
    "scheme.tau": (9.0, {}),
    "scheme.auxiliary": ("labels", {}),
    "scheme.ridge": (9.0, {}),
    "scheme.density": (0.5, {}),
    "attack.devices": (2, {}),
    "attack.factor": (3.0, {}),
    "attack.kind": ("sign_flip", {}),
    "device.cpu_hz": (2e9, {}),
    "device.cpu_spread": (4.0, {}),
    "device.cpu_jitter": (2.0, {}),
    "device.switched_capacitance_f": (1e-27, {}),
}


def configured(**keys: Any) -> Config:
    values: dict[str, Any] = {}
    for key, value in keys.items():
        assign(values, key, value)
    return build_config(values)


def learned(config: Config) -> list[float]:
    """What was received and learned, round by round."""
    rounds = [metrics(record) for record in training.run(config, load_dataset("digits"))]
    keys = ("loss", "test_loss", "test_accuracy", "mean_q_s", "mean_r_m", "signs_received", "payload_bits")
    return [float(values[key]) for values in rounds for key in keys]


def test_every_pair_is_walked_over() -> None:
    assert set(IDLE) == {key for rule in OVERRIDDEN for key in rule.keys}
    assert set(IDLE) <= set(dotted(Config().model_dump()))


@pytest.mark.parametrize("key", IDLE)
def test_what_is_called_idle_changes_nothing_learned_and_is_told(key: str) -> None:
    other, settings = IDLE[key]
    before, after = configured(**SMALL | settings), configured(**SMALL | settings | {key: other})
    assert key in without_effect(before)
    assert learned(before) == pytest.approx(learned(after), rel=1e-6)  # power and noise cancel but for rounding
    assert any(line.startswith(f"{key} has no effect") for line in told_idle(after))


@pytest.mark.parametrize("key", ["channel.power_dbm", "channel.noise_figure_db", "channel.symbols_per_parameter"])
def test_with_the_other_key_out_of_the_way_it_counts(key: str) -> None:
    other = {"channel.power_dbm": -10.0, "channel.noise_figure_db": 20.0, "channel.symbols_per_parameter": 0.3}[key]
    before, after = configured(**SMALL), configured(**SMALL | {key: other})
    assert key not in without_effect(before)
    assert learned(before) != pytest.approx(learned(after), rel=1e-6)


@pytest.mark.parametrize(
    ("names", "has"),
    [
        (ANALOGUE, lambda scheme: scheme.uplink == "analog"),
        (LADDER_FIXED, lambda scheme: scheme.uplink == "ladder" and not scheme.grants_bits),
        (LADDER_GRANTED, lambda scheme: scheme.grants_bits),
        (CALIBRATED, lambda scheme: scheme.rule == "calibrated"),
        (SPARSE, lambda scheme: scheme.uplink == "sparse"),
    ],
)
def test_the_schemes_that_have_what_a_key_is_about_are_those_of_the_table(names, has) -> None:
    assert set(names) == {name for name, scheme in SCHEMES.items() if has(scheme)}


def test_what_another_scheme_of_a_comparison_may_use_is_not_called_idle() -> None:
    config = configured(**{"channel.phase_error_rad": 0.5})
    assert len(told_idle(config)) == 1
    assert told_idle(config, compared=True) == []
    assert told_idle(configured(**{"channel.phase_error_rad": 0.5, "scheme.name": "analog_mean"})) == []


def test_a_sweep_of_an_idle_key_is_refused() -> None:
    points = [configured(**{"channel.median_snr_db": 3.0, "channel.power_dbm": p}) for p in (0.0, 23.0)]
    with pytest.raises(ConfigError, match=r"power_dbm is swept, but has no effect .*median_snr_db=none"):
        check_swept(points, ["channel.power_dbm"])
    check_swept([*points, configured(**{"channel.power_dbm": 5.0})], ["channel.power_dbm"])


def test_none_unsets_a_key_that_may_be_absent_and_stays_a_word_elsewhere() -> None:
    given = ["channel.median_snr_db=3", "channel.median_snr_db=none", "attack.kind=none"]
    config = load_config(None, given)
    assert config.channel.median_snr_db is None
    assert config.attack.kind == "none"
    with pytest.raises(ConfigError, match=r"^channel.power_dbm must have a value, got none, which unsets"):
        load_config(None, ["channel.power_dbm=none"])


def test_the_defaults_have_nothing_idle_to_tell() -> None:
    assert told_idle(Config()) == []
