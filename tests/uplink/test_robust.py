"""Hostile devices: what is refused, what is capped, and the damage done with and without each defence."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from spfl import training
from spfl.config.schema import build_config
from spfl.errors import ConfigError
from spfl.fleet.threads import ThreadFleet
from spfl.schemes import SCHEMES
from spfl.uplink import robust
from spfl.uplink.admission import admit, norm_limit
from spfl.uplink.robust import clipped, combine
from spfl.world.world import World

RULES = ("trimmed_mean", "median", "sign_majority")
ATTACKS = ("sign_flip", "scale", "noise", "nan", "inflate", "samples", "replay", "stale")
floats = st.floats(-1e6, 1e6, width=32)


def world_of(digits, rounds=2, attack=None, seed=0, devices=10, **scheme):
    return World.build(
        build_config(
            {
                "seed": seed,
                "workers": 1,
                "data": {"devices": devices, "partition": "iid"},
                "model": {"name": "softmax"},
                "training": {"rounds": rounds, "eval_every": rounds},
                "channel": {"median_snr_db": 15.0, "side_information": "reliable"},  # so that lies arrive
                "scheme": {"name": "sp_fl_plus_1"} | scheme,
                "attack": attack or {},
            }
        ),
        digits,
    )


def accuracy(digits, attack, seed=0, rounds=25, **scheme):
    return list(training.train(world_of(digits, rounds, attack, seed, **scheme)))[-1].test_accuracy


# --- rules over coordinates -----------------------------------------------------------------------------------


@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=floats), st.floats(0, 0.49))
def test_rules_equal_the_oracle(block, trim):
    for rule in RULES:
        np.testing.assert_allclose(
            combine(rule, list(block), block.shape[1], trim), oracles.combine(rule, block, trim), rtol=1e-5, atol=1e-2
        )


@pytest.mark.parametrize("rule", RULES)
def test_blocks_of_coordinates_change_nothing(rule, monkeypatch):
    vectors = list(np.random.default_rng(0).standard_normal((7, 100), np.float32))
    whole = combine(rule, vectors, 100, 0.2)
    monkeypatch.setattr(robust, "BLOCK", 7)
    np.testing.assert_array_equal(combine(rule, vectors, 100, 0.2), whole)


@pytest.mark.parametrize("rule", RULES)
def test_nobody_heard_moves_nothing(rule):
    np.testing.assert_array_equal(combine(rule, [], 5, 0.2), np.zeros(5))


@given(
    arrays(np.float32, st.tuples(st.integers(3, 9), st.integers(1, 4)), elements=floats),
    st.floats(-(2.0**90), 2.0**90, width=32),
)
def test_a_minority_cannot_leave_the_range_of_the_honest(honest, evil):
    """With f < n / 2 hostile, median and trimmed mean (trim >= f / n) stay in it; the mean does not."""
    f = len(honest) // 2 if len(honest) % 2 else len(honest) // 2 - 1
    n = len(honest) + f
    vectors = [*honest, *np.full((f, honest.shape[1]), evil, np.float32)]
    for rule, trim in (("median", 0.0), ("trimmed_mean", min(0.499, (f + 0.5) / n))):
        out = combine(rule, vectors, honest.shape[1], trim)
        slack = 1e-5 * np.abs(honest).max() + 1e-6
        assert (out >= honest.min(axis=0) - slack).all(), rule
        assert (out <= honest.max(axis=0) + slack).all(), rule


def test_the_mean_has_no_such_bound():
    vectors = [*np.zeros((4, 2), np.float32), np.full(2, 1e9, np.float32)]
    assert combine("trimmed_mean", vectors, 2, 0.0)[0] > 1e8
    assert combine("trimmed_mean", vectors, 2, 0.2)[0] == 0.0


def test_sign_majority_by_hand():
    vectors = np.array([[1, -2, 0, 1], [2, -1, 0, -1], [-9, -3, 5, 0]], np.float32)
    np.testing.assert_array_equal(combine("sign_majority", list(vectors), 4, 0.0), [2, -2, 0, 0])


def test_clipping_shortens_and_never_turns():
    vector = np.array([3.0, -4.0], np.float32)
    np.testing.assert_allclose(clipped(vector, 2.5), [1.5, -2.0])
    for limit in (5.0, math.inf):
        assert clipped(vector, limit) is vector


@pytest.mark.parametrize("name", ["majority_vote", "reuse_last", "over_the_air"])
def test_schemes_with_a_rule_of_their_own_refuse_another(digits, name):
    with pytest.raises(ConfigError, match=rf"scheme\.aggregation must be mean with {name}"):
        world_of(digits, name=name, aggregation="median")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": {"max_share": 0.01}}, r"scheme\.max_share must be >= 1 / 20"),
        ({"attack": {"devices": 21}}, r"attack\.devices must be <= data\.devices \(20\), got 21"),
        ({"scheme": {"trim": 0.5}}, r"scheme\.trim"),
        ({"scheme": {"device_clip": 0.5}}, r"scheme\.device_clip"),
        ({"attack": {"kind": "bribe"}}, r"attack\.kind"),
    ],
)
def test_refused_configurations(change, message):
    with pytest.raises(ConfigError, match=message):
        build_config(change)


# --- admission ------------------------------------------------------------------------------------------------


def uploads_of(world):
    with ThreadFleet(world) as fleet:
        return fleet.uploads(world.start(), range(world.config.data.devices), 1)[0]


@pytest.mark.parametrize("name", SCHEMES)
def test_honest_devices_are_believed_as_they_are(digits, name):
    """So without defences nothing changes, bit for bit."""
    world = world_of(digits, name=name)
    uploads = uploads_of(world)
    believed = admit(world.format, uploads)
    assert all(a is b for a, b in zip(believed, uploads, strict=True))


BAD = [
    *[{name: value} for name in ("v2", "vbar2", "delta2") for value in (math.nan, math.inf, -1.0, 1e200)],
    *[{"v_vbar": value} for value in (math.nan, math.inf, 1e9, -1e9)],
    {"samples": -1},
    *[{"tensor_means": np.array(value, np.float32)} for value in ([1.0], [1.0, np.nan], [1.0, -1.0], [np.inf, 0.0])],
    *[{"output_bias": np.full(3, 1.0, np.float32)}],
]


@pytest.mark.parametrize("claim", BAD, ids=str)
def test_impossible_claims_take_the_device_out(digits, claim):
    world = world_of(digits, name="sp_fl")
    uploads = uploads_of(world)
    uploads[3] = replace(uploads[3], **claim)
    admitted = admit(world.format, uploads)
    assert [u.samples == 0 for u in admitted] == [k == 3 for k in range(10)]
    assert admitted[3].sign_packet == b""


def test_claims_are_capped_at_multiples_of_the_median(digits):
    world = world_of(digits, device_clip=2.0, max_samples=1.5)
    uploads = uploads_of(world)
    liar = replace(
        uploads[0],
        samples=10**9,
        v2=1e12 * uploads[0].v2,
        v_vbar=1e6 * uploads[0].v_vbar,
        output_bias=1e6 * uploads[0].output_bias,
        tensor_means=1e6 * uploads[0].tensor_means,
    )
    config, first = world.config.scheme, admit(world.format, uploads)
    for admitted in (admit(world.format, [liar, *uploads[1:]]),):
        norms = [math.sqrt(u.v2) for u in uploads]
        assert math.sqrt(admitted[0].v2) <= 2.0 * sorted(norms)[-1]
        assert admitted[0].samples <= math.ceil(1.5 * max(u.samples for u in uploads))
        assert np.linalg.norm(admitted[0].output_bias) <= 2.001 * max(np.linalg.norm(u.output_bias) for u in uploads)
        assert (admitted[0].tensor_means <= 2.001 * np.max([u.tensor_means for u in uploads], axis=0)).all()
        assert abs(admitted[0].v_vbar) <= 1.001 * math.sqrt(admitted[0].v2 * admitted[0].vbar2)
        assert norm_limit(config, admitted) <= 2.5 * norm_limit(config, first)
    again = admit(world.format, first)
    assert [u.v2 for u in again] == pytest.approx([u.v2 for u in first])  # a second look changes nothing


def test_what_the_air_adds_up_is_no_longer_than_the_cap_either(digits):
    """A device that claims little and sends much: nobody shortens its vector after the air has added it."""
    world = world_of(digits, name="analog_mean", device_clip=2.0)
    uploads = uploads_of(world)
    liar = replace(uploads[0], gradient=np.float32(1e6) * uploads[0].gradient)
    admitted = admit(world.format, [liar, *uploads[1:]])
    limit = norm_limit(world.config.scheme, admitted)
    assert np.linalg.norm(admitted[0].gradient) == pytest.approx(limit)
    assert limit == norm_limit(world.config.scheme, admit(world.format, uploads))
    assert all(after.gradient is before.gradient for after, before in zip(admitted[1:], uploads[1:], strict=True))


# --- bandwidth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sp_fl", "sp_fl_plus_1", "schedule_norm"])
def test_a_lie_about_importance_steals_band_and_the_cap_stops_it(digits, name):
    attack = {"kind": "inflate", "devices": 1, "factor": 1000.0}
    shares = {}
    for cap in (None, 0.15):
        world = world_of(digits, 3, attack, name=name, **({"max_share": cap} if cap else {}))
        (liar,) = world.hostile
        records = list(training.train(world))
        shares[cap] = max(record.allocation.beta[liar] for record in records)
        for record in records:
            assert record.allocation.beta.sum() <= 1 + 1e-9
            if cap:
                assert record.allocation.beta.max() <= cap + 1e-12
                assert (
                    record.allocation.gap is None or 0 <= record.allocation.gap < 0.5
                )  # with a certificate of its own
    assert shares[None] > 2 * shares[0.15]


# --- damage ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean(digits):
    return accuracy(digits, None)


DAMAGE = [  # attack, accuracy lost at least without defence, defence
    (
        {"kind": "sign_flip", "factor": 30.0},
        0.3,
        {"device_clip": 1.5, "max_share": 0.15, "aggregation": "trimmed_mean", "trim": 0.3},
    ),
    ({"kind": "sign_flip", "factor": 30.0}, 0.3, {"aggregation": "median", "max_share": 0.15}),
    ({"kind": "sign_flip", "factor": 30.0}, 0.3, {"aggregation": "sign_majority", "max_share": 0.15}),
    ({"kind": "noise", "factor": 100.0}, 0.3, {"device_clip": 1.5, "max_share": 0.15}),
]


@pytest.mark.parametrize(("attack", "least", "defence"), DAMAGE)
def test_damage_with_and_without_the_defence(digits, clean, attack, least, defence):
    attack = attack | {"devices": 2}
    undefended, defended = accuracy(digits, attack), accuracy(digits, attack, **defence)
    print(attack, defence, undefended, defended, clean)
    assert undefended < clean - least
    assert defended > clean - 0.15
    assert clean > 0.8


def test_a_lie_about_samples_is_worth_little_with_a_cap(digits, clean):
    """Alone with the weight, the liar's own data are all that is learned: with few classes, little."""
    attack = {"kind": "samples", "factor": 1e6, "devices": 1}
    world = world_of(digits, 1, attack)
    (liar,) = world.hostile
    shares = {}
    for cap in (None, 2.0):
        scheme = {"max_samples": cap} if cap else {}
        world = world_of(digits, 1, attack, **scheme)
        admitted = admit(world.format, uploads_of(world))
        shares[cap] = admitted[liar].samples / sum(u.samples for u in admitted)
    assert shares[None] > 0.99
    assert shares[2.0] < 0.25


@pytest.mark.parametrize("name", ["error_free", "single_packet", "sp_fl", "sp_fl_plus_1", "majority_vote", "top_k"])
def test_nan_is_contained_without_any_defence(digits, name):
    world = world_of(digits, 3, {"kind": "nan", "devices": 3}, name=name)
    for record in training.train(world):
        assert record.rejected == 3
        assert np.isfinite(record.server.weights).all()
        assert not record.outcome.sign[sorted(world.hostile)].any() or name == "error_free"


@pytest.mark.parametrize("name", ["single_packet", "sp_fl", "sp_fl_plus_1", "majority_vote", "top_k"])
def test_replayed_packets_are_refused(digits, name):
    """After their first round, by the number in the header: only received ones can be refused."""
    world = world_of(digits, 4, {"kind": "replay", "devices": 3}, name=name)
    hostile, received = sorted(world.hostile), 0
    for record in training.train(world):
        late = 0 if record.round_ == 1 else record.outcome.sign[hostile].sum()
        assert record.rejected == late
        received += late
    assert received > 0


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("name", ["error_free", "sp_fl", "sp_fl_plus_1", "over_the_air", "majority_vote"])
def test_no_attack_ends_a_run_or_leaves_a_weight_that_is_not_finite(digits, kind, name):
    world = world_of(digits, 3, {"kind": kind, "devices": 4, "factor": 1e12}, name=name)
    for record in training.train(world):
        assert np.isfinite(record.server.weights).all()
        assert np.isfinite(record.allocation.beta).all()
        assert record.allocation.beta.sum() <= 1 + 1e-9


def test_hostile_devices_depend_on_the_seed_alone(digits):
    worlds = [world_of(digits, attack={"kind": kind, "devices": 3}) for kind in ("nan", "scale")]
    assert worlds[0].hostile == worlds[1].hostile
    assert len(worlds[0].hostile) == 3
    assert world_of(digits, attack={"devices": 3}).hostile == frozenset()
    others = {world_of(digits, attack={"kind": "nan", "devices": 3}, seed=s).hostile for s in range(5)}
    assert len(others) > 1


def test_robust_rules_without_attack_learn(digits, clean):
    for rule, name in itertools.product(RULES, ("sp_fl_plus_1", "single_packet")):
        assert accuracy(digits, None, aggregation=rule, name=name) > clean - 0.1
