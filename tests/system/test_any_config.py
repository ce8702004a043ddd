"""Any configuration either runs two rounds or is refused in one line that names the parameter."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spfl.cli import commands as cli
from spfl.config.files import assign
from spfl.config.schema import Config, build_config
from spfl.errors import SpflError
from spfl.schemes import SCHEMES
from spfl.training import run

BASE = {"data": {"devices": 4}, "model": {"name": "softmax"}, "training": {"rounds": 2, "batch_size": 4}, "workers": 1}
SMALL = {"workers": 4, "processes": 2, "data.devices": 40, "model.width": 32, "training.rounds": 2,
         "training.batch_size": 64, "training.local_steps": 4, "data.samples_per_device": 200}  # fmt: skip
NAMES = {
    "data.name": ["digits"],
    "torch_device": ["cpu", "warp"],
    "model.name": ["softmax", "mlp", "small_cnn", "none"],
    "scheme.name": [*SCHEMES, "sp_fll"],
}
ODD = [None, True, "x", "", -1, 0, 2.5, math.nan, math.inf, 2**70, [], {}, [1.0], -0.0]


def keys():
    """Every key of the configuration -> its JSON Schema."""
    schema = Config.model_json_schema()
    found = {}
    for name, part in schema["properties"].items():
        reference = part.get("$ref")
        if reference:
            section = schema["$defs"][reference.rpartition("/")[2]]
            found |= {f"{name}.{key}": value for key, value in section["properties"].items()}
        else:
            found[name] = part
    return found


KEYS = keys()


def allowed(key, schema):
    """Values that the schema allows, sizes kept small."""
    if key in NAMES:
        return st.sampled_from(NAMES[key])
    options = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    return st.one_of([_allowed(key, one) for one in options])


def _allowed(key, schema):
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    kind, low = schema["type"], schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        low = 0 if low is None else int(low)
        most = SMALL.get(key, 12) if high is None or high > 100 else int(high)
        return st.integers(low, max(low, most))
    if kind == "number":
        return st.one_of(
            st.floats(low, high, exclude_min="exclusiveMinimum" in schema, exclude_max="exclusiveMaximum" in schema,
                      allow_nan=False, allow_infinity=False),
            st.sampled_from([(low if high is None else high) if low is None else low, *(
                x for x in (0.0, 1e-6, 0.25, 0.5, 1.0, 3.0, 100.0, -100.0, 1e6)
                if (low is None or x > low) and (high is None or x < high))]).map(lambda x: 0.0 if x is None else x),
        )  # fmt: skip
    if kind == "array":
        return st.lists(st.floats(-150, 50), min_size=3, max_size=5)
    return st.text(max_size=5)


changes = st.lists(
    st.sampled_from(sorted(KEYS)).flatmap(
        lambda key: st.tuples(
            st.just(key), st.one_of(*[allowed(key, KEYS[key])] * 4, st.sampled_from(ODD))
        )
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda change: change[0],
)  # fmt: skip


def check(digits, chosen):
    values = {name: dict(part) if isinstance(part, dict) else part for name, part in BASE.items()}
    for key, value in chosen:
        assign(values, key, value)
    try:
        config = build_config(values)
        rounds = max(1, min(config.training.rounds, 2))
        records = run(config, digits if config.data.name == "digits" else None)
        last = [next(records) for _ in range(rounds)][-1]
        records.close()
    except SpflError as error:
        text = str(error)
        assert "\n" not in text
        names = {key.rpartition(".")[2] for key, _ in chosen} | {key for key, _ in chosen}
        names |= {key.partition(".")[0] for key, _ in chosen}
        names |= {key.rpartition(".")[2] for key in KEYS if "_" in key}  # what only the data tell may name another key
        assert any(name in text for name in names), f"{text!r} names none of {sorted(names)}"
        return "refused"
    assert np.isfinite(last.server.weights).all()
    assert np.isfinite(last.allocation.beta).all()
    assert last.allocation.beta.sum() <= 1 + 1e-9
    return "ran"


relaxed = settings(max_examples=100, suppress_health_check=list(HealthCheck))


@relaxed
@given(changes)
def test_any_configuration_runs_or_is_refused(digits, chosen):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(digits, chosen)


@pytest.mark.slow
@settings(relaxed, max_examples=3000, derandomize=False)
@given(changes)
def test_any_configuration_runs_or_is_refused_at_length(digits, chosen):
    check(digits, chosen)


@settings(relaxed, max_examples=15)
@given(st.sampled_from(sorted(KEYS)), st.sampled_from([value for value in ODD if isinstance(value, str | float)]))
def test_the_command_refuses_with_exit_code_2_in_one_line(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("refused")
    text = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    before, sys.argv = sys.argv, ["spfl", "config", "show", "--set", f"{key}={text}"]
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = before
    assert stop.value.code in (0, 2, None)
    assert list(folder.iterdir()) == []
