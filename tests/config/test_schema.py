"""Configuration: TOML in and out, overrides, and one clear line for each mistake."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spfl.config.files import load_config, parse_value, to_toml
from spfl.config.schema import Config, build_config
from spfl.errors import ConfigError
from spfl.schemes import resolve

CONFIGS = [p for p in sorted((Path(__file__).parents[2] / "configs").glob("*.toml")) if "sweep" not in p.stem]


def write(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return path


def test_no_file_gives_the_defaults():
    assert load_config(None) == Config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_explain_every_key(path):
    resolve(load_config(path).scheme)
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            assert "  # " in line, f"{path.name}: no comment on: {line}"


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path):
    path = write(tmp_path, "seed = 4\n[codec]\nbits = 2\n")
    config = load_config(path, ["codec.bits=5", "codec.bits = 6", "channel.gains_db=[1.0]", "data.devices=1"])
    assert (config.seed, config.codec.bits, config.channel.gains_db) == (4, 6, (1.0,))


def test_the_config_does_not_change():
    with pytest.raises(ValidationError):
        Config().seed = 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("sp_fl", "sp_fl"),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ("", ""),
        ("../data", "../data"),
    ],
)
def test_values_of_overrides(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.round=5"], "unknown config key 'training.round' (did you mean 'rounds'?)"),
        (["chanel.power_dbm=5"], "unknown config key 'chanel' (did you mean 'channel'?)"),
        (
            ["zzz=5"],
            "unknown config key 'zzz' (known: asynchronous, attack, channel, clients, codec, data, device, model, "
            "plugin, processes, scheme, seed, torch_device, trace, training, workers)",
        ),
        (["seed.x=5"], "seed"),
        (["data.name.x=5"], "data.name"),
        (["codec.bits=9"], "codec.bits: input should be less than or equal to 8, got 9"),
        (["codec.bits=2.5"], "codec.bits"),
        (["codec.bits=many"], "codec.bits"),
        (["training.rate=nan"], "training.rate"),
        (["training.rate=-1"], "training.rate: input should be greater than 0, got -1"),
        (
            ["data.partition=random"],
            "data.partition: input should be 'iid', 'dirichlet', 'shards', 'sampled', 'column' or 'files', got "
            "'random'",
        ),
        (["scheme.rho=1.0"], "scheme: rho must lie in (0, 1) or be 'proportional', got 1.0"),
        (["scheme.rho=half"], "scheme.rho"),
        (["channel.radius_m=10"], "channel: min_distance_m must be < radius_m, got 35.0 and 10.0"),
        (["channel.gains_db=[1.0, 2.0]"], "channel.gains_db needs one value a device (20), got 2"),
        (["data.cohort_size=21"], "data.cohort_size must be <= data.devices (20), got 21"),
        (["=3"], "--set needs key=value, got '=3'"),
        (["seed=1", "seed.deep=2"], "seed.deep: 'seed' is a value, not a section"),
    ],
)
def test_mistakes_give_one_line_that_names_the_key(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(write(tmp_path, "seed = \n"))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "b.toml")


configs = st.builds(
    lambda seed, rate, clip, name, gains, rho: build_config(
        {
            "seed": seed,
            "data": {"devices": max(len(gains or []), 1), "name": name},
            "training": {"rate": rate, "clip_norm": clip},
            "channel": {"gains_db": gains},
            "scheme": {"rho": rho, "error_feedback": seed % 2 == 0},
        }
    ),
    st.integers(0, 2**63 - 1),
    st.floats(1e-300, 1e6),
    st.none() | st.floats(1e-9, 1e9),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.none() | st.lists(st.floats(-300, 300), min_size=1, max_size=3),
    st.just("proportional") | st.floats(0.001, 0.999),
)


@given(configs)
def test_toml_round_trip(config):
    assert build_config(tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize("name", ["a\tb\nc", "\x00\x1f\x7f\x85", '"\\\b\f\r', "ü 数 😀"])
def test_control_characters_survive_toml(name):
    config = build_config({"data": {"name": name}})
    assert build_config(tomllib.loads(to_toml(config))).data.name == name


# --- what the keys say of themselves -------------------------------------------------------------------------

UNITS = {"_hz": "Hz", "_db": "dB", "_dbm": "dBm", "_dbm_per_hz": "dBm/Hz", "_m": " m", "_s": " s", "_f": "farad"}


def described_keys():
    for name, section in Config.model_fields.items():
        if section.description is not None:
            yield name, section.description
        else:
            for key, field in section.annotation.model_fields.items():
                yield f"{name}.{key}", field.description


@pytest.mark.parametrize(("key", "text"), list(described_keys()))
def test_every_key_says_what_it_is_in_a_sentence_with_its_unit(key, text):
    assert text is not None
    assert text[0].isupper() or text.startswith("L2"), text
    assert text.endswith("."), text
    assert len(text.split()) >= 5, text
    assert "  " not in text
    for suffix, unit in UNITS.items():
        if key.endswith(suffix) and not key.endswith(f"_per{suffix}"):
            assert unit in text or (suffix == "_s" and "econds" in text), f"{key} has no unit: {text}"
