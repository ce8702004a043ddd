"""The contract that every scheme of the dictionary keeps, and the parts that schemes are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from rounds import format_of, received
from spfl.arrays import State
from spfl.compensation import Compensation, CompensationRule
from spfl.config.schema import CodecConfig, Config, SchemeConfig
from spfl.custom import Custom
from spfl.data.dataset import Dataset
from spfl.errors import ConfigError
from spfl.fleet import threads as fleet
from spfl.packets.container import HEADER_BITS, modulus_packet_bits, sign_packet_bits
from spfl.packets.layout import Layout
from spfl.radio.outage import Outcome
from spfl.scheme import Rule, Scheme
from spfl.schemes import SCHEMES, resolve
from spfl.testing import SchemeContract
from spfl.training import RoundRecord, run, train
from spfl.uplink.upload import Origin, Upload, describe, encode
from spfl.uplink.upload import silent as silent_upload
from spfl.world.world import World

Build = Callable[..., Config]
EVERY_SCHEME = pytest.mark.parametrize("name", sorted(SCHEMES))
LAYOUT = Layout(names=("a", "b"), shapes=((4,), (3,)))
CODEC = CodecConfig(bits=3)


def records(config: Config, digits: Dataset) -> list[RoundRecord]:
    return list(run(config, digits))


# --- the contract ----------------------------------------------------------------------------------------------------


class TestContract(SchemeContract):
    """Every scheme keeps it; `SchemeContract` is what third-party schemes inherit."""

    @pytest.fixture(name="scheme", params=sorted(SCHEMES))
    def _scheme(self, request):
        return SCHEMES[request.param]


@EVERY_SCHEME
@pytest.mark.parametrize("per_tensor", [False, True])
def test_packets_have_the_bits_that_are_declared(name: str, per_tensor: bool) -> None:
    codec, scheme = CodecConfig(bits=3, per_tensor=per_tensor), SCHEMES[name]
    upload = send(scheme, np.arange(-3, 4, dtype=np.float32), codec=codec)
    kinds = ("sign_packet", "modulus_packet", "sparse_packet", "ladder_packet", "own_packet")
    form, packets = format_of(scheme, LAYOUT, codec), [p for kind in kinds if (p := getattr(upload, kind))]
    one: Any = SimpleNamespace(beta=np.ones(1), rho=np.full(1, 0.5), alpha=np.full(1, 0.5), bits=None)
    bits, held = form.payload_bits(one), 8 * sum(map(len, packets))
    silent: Any = SimpleNamespace(beta=np.zeros(1), rho=np.full(1, 0.5), alpha=np.full(1, 0.5), bits=None)
    assert form.payload_bits(silent) == 0
    if scheme.uplink == "ladder":  # a device holds all planes, and sends as many bits as it is granted
        granted: Any = SimpleNamespace(beta=np.array([1.0, 0.0]), bits=np.array([5.0, 9.0]))
        assert form.payload_bits(granted) == 5 + HEADER_BITS
        assert 0 <= held - (form.digits * form.packets.size + HEADER_BITS) < 8
        return
    if scheme.uplink == "split":
        signs_only: Any = SimpleNamespace(beta=np.ones(1), rho=np.ones(1), alpha=np.ones(1), bits=None)
        assert form.payload_bits(signs_only) == form.link_bits[0]
    if scheme.uplink in ("ideal", "analog"):
        assert held == 0
        assert bits == (32 if scheme.uplink == "ideal" else 1) * LAYOUT.size
    else:
        assert bits == scheme.attempts * sum(form.link_bits)
        assert bits <= scheme.attempts * held < bits + scheme.attempts * 8 * len(packets)  # padded to whole bytes


@EVERY_SCHEME
@pytest.mark.parametrize("solver", ["uniform", "alternating", "exact"])
def test_every_scheme_runs_with_every_solver(name: str, solver: str, digits: Dataset, small_config: Build) -> None:
    config = small_config(scheme={"name": name, "solver": solver}, training={"rounds": 1})
    (record,) = records(config, digits)
    assert np.isfinite(record.server.weights).all()
    assert record.allocation.beta.sum() <= 1 + 1e-9
    assert (record.allocation.beta > 0).any()


def test_schemes_share_all_randomness(digits: Dataset, small_config: Build) -> None:
    """Common random numbers: start, partition, batches, gradients, gains and fades do not depend on the scheme."""
    first, *others = [World.build(small_config(scheme={"name": name}), digits) for name in SCHEMES]
    for world in others:
        np.testing.assert_array_equal(world.start().weights, first.start().weights)
        for mine, theirs in zip(world.parts, first.parts, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for device in (0, 5):
            np.testing.assert_array_equal(first_gradient(world, device), first_gradient(first, device))
        for round_ in (1, 2):
            np.testing.assert_array_equal(world.radio.cell(round_).gain, first.radio.cell(round_).gain)
            np.testing.assert_array_equal(
                world.radio.fades(world.cohort(round_), round_), first.radio.fades(first.cohort(round_), round_)
            )
            np.testing.assert_array_equal(world.radio.noise(round_).random(9), first.radio.noise(round_).random(9))
            assert world.cohort(round_) == first.cohort(round_)


def first_gradient(world: World, device: int) -> NDArray[np.float32]:
    model = world.model()
    return fleet.local_gradient(world, model, model.weights.clone(), device, 1)[0]


def test_another_seed_changes_all_randomness(digits: Dataset, small_config: Build) -> None:
    a, b = (World.build(small_config(seed=seed), digits) for seed in (0, 1))
    assert not np.array_equal(a.start().weights, b.start().weights)
    assert not np.array_equal(np.concatenate(a.parts), np.concatenate(b.parts))
    assert not np.array_equal(first_gradient(a, 0), first_gradient(b, 0))
    assert not np.array_equal(a.radio.cell(1).gain, b.radio.cell(1).gain)
    assert not np.array_equal(a.radio.fades(a.cohort(1), 1), b.radio.fades(b.cohort(1), 1))


def test_the_single_packet_is_sp_fl_at_the_proportional_point(digits: Dataset, small_config: Build) -> None:
    """model.md, section 3: equal shares, alpha = rho and normalized weights give the same run, bit for bit."""
    more = {"training": {"rounds": 8}, "channel": {"side_information": "reliable"}}  # it would ride on the sign packet
    single = records(small_config(scheme={"name": "single_packet"}, **more), digits)
    split = records(
        small_config(scheme={"name": "sp_fl", "solver": "uniform", "weights": "normalized"}, **more), digits
    )
    for a, b in zip(single, split, strict=True):
        np.testing.assert_array_equal(a.outcome.sign, b.outcome.modulus)
        np.testing.assert_array_equal(a.server.weights, b.server.weights)
        assert a.payload_bits == b.payload_bits
    heard = sum(int(r.outcome.sign.sum()) for r in single)
    assert 0 < heard < 8 * 6


# --- the parts -------------------------------------------------------------------------------------------------------


def send(
    scheme: Scheme, gradient: NDArray[np.float32], state: State | None = None, codec: CodecConfig = CODEC, **known: int
) -> Upload:
    names = {"seed": 0, "round_": 1, "device": 0, "samples": 10} | known
    origin = Origin(names["device"], names["round_"], names["samples"], 0.0)
    return encode(format_of(scheme, LAYOUT, codec, names["seed"]), gradient, state or {}, origin)


def get(
    scheme: Scheme,
    uploads: list[Upload],
    sign: list[bool],
    modulus: list[bool],
    state: State | None = None,
    **more: Any,
) -> Any:
    ones = SimpleNamespace(q_s=np.ones(len(uploads)), r_m=np.ones(len(uploads)), bits=None)
    outcome = Outcome(np.array(sign), np.array(modulus))
    round_ = more.pop("round_", 1)
    return received(format_of(scheme, LAYOUT, **more), uploads, outcome, ones, state, round_)


SPLIT = Scheme("test", "", "")
RAMP = np.array([1, -2, 3, -4, 5, -6, 7], np.float32)


@pytest.mark.parametrize("kind", ["last", "ema", "scaled_ema"])
def test_only_acknowledged_moduli_are_remembered(kind: Compensation) -> None:
    scheme = replace(SPLIT, compensation=kind)
    uploads = [send(scheme, RAMP * (k + 1), device=k) for k in range(3)]
    update = get(scheme, uploads, sign=[True, True, False], modulus=[True, False, False])
    alone = get(scheme, uploads[:1], sign=[True], modulus=[True])
    assert update.state.keys() == alone.state.keys()
    for key, value in alone.state.items():
        np.testing.assert_array_equal(update.state[key], value)
    assert get(scheme, uploads, sign=[True] * 3, modulus=[False] * 3).state == {}


@pytest.mark.parametrize("kind", ["last", "ema", "scaled_ema"])
def test_a_stand_in_is_never_remembered_as_a_modulus(kind: Compensation) -> None:
    """A sign-only uplink has an empty second packet, which always arrives and holds no modulus."""
    scheme = replace(SPLIT, uplink="sign", compensation=kind)
    assert get(scheme, [send(scheme, RAMP)], sign=[True], modulus=[True]).state == {}


def test_weights_are_the_shares_of_samples() -> None:
    uploads = [send(SPLIT, RAMP, samples=n) for n in (1, 3)] + [silent_upload(format_of(SPLIT, LAYOUT), 2)]
    np.testing.assert_array_equal(describe(uploads).weight, [0.25, 0.75, 0.0])


def test_side_information_is_that_of_the_vectors() -> None:
    scheme = replace(SPLIT, shrink=0.5)
    upload = send(scheme, RAMP)
    vbar = 0.5 * LAYOUT.expand(LAYOUT.tensor_means(np.abs(RAMP)))
    assert upload.v2 == pytest.approx(float(RAMP @ RAMP))
    assert upload.vbar2 == pytest.approx(float(vbar @ vbar))
    assert upload.v_vbar == pytest.approx(float(np.abs(RAMP) @ vbar))
    assert 0 < upload.delta2 <= LAYOUT.size * (6 / 7) ** 2 / 4


def test_what_stands_in_is_shrunk_and_signed() -> None:
    scheme = replace(SPLIT, shrink=0.5)
    update = get(scheme, [send(scheme, RAMP)], sign=[True], modulus=[False])
    expected = 0.5 * np.sign(RAMP) * np.array([2.5] * 4 + [6] * 3, np.float32)
    np.testing.assert_allclose(update.gradient, expected)


def test_link_bits_by_hand() -> None:
    signs, modulus = sign_packet_bits(7), modulus_packet_bits(7, 3, ranges=2)
    expected = {"ideal": (0, 0), "split": (signs, modulus), "single": (signs + modulus, 0), "sign": (signs, 0)}
    expected |= {"analog": (7, 0), "sparse": (HEADER_BITS + 1 * (32 + 3), 0)}
    for uplink, bits in expected.items():
        assert format_of(replace(SPLIT, uplink=uplink), LAYOUT, CODEC).link_bits == bits


def test_error_feedback_keeps_exactly_what_was_not_used() -> None:
    """Plain weights: what was used plus the remainder is all gradients so far (model.md, section 8)."""
    scheme = replace(SPLIT, weights="plain", error_feedback=True)
    state: State = {}
    rng, used, total = np.random.default_rng(2), np.zeros(7), np.zeros(7)
    for t in range(1, 40):
        gradient = rng.normal(size=7).astype(np.float32)
        sign, modulus = bool(rng.random() < 0.7), bool(rng.random() < 0.5)
        upload = send(scheme, gradient, state, round_=t)
        update = get(scheme, [upload], [sign], [sign and modulus], state, round_=t)
        state, used, total = state | update.state, used + update.gradient, total + gradient
        np.testing.assert_allclose(used + state["residual/0"], total, atol=1e-4)


def test_error_feedback_decays_and_keeps_all_of_a_lost_packet() -> None:
    scheme = replace(SPLIT, error_feedback=True)
    lost = get(scheme, [send(scheme, RAMP)], [False], [False], error_decay=0.25)
    np.testing.assert_allclose(lost.state["residual/0"], 0.25 * RAMP)
    again = send(scheme, RAMP, lost.state)
    np.testing.assert_allclose(again.v2, 1.25**2 * float(RAMP @ RAMP), rtol=1e-6)


def test_a_config_overrides_a_schemes_defaults() -> None:
    scheme = resolve(SchemeConfig(name="sp_fl", weights="mmse", solver="uniform", shrink=0.5))
    assert (scheme.weights, scheme.solver, scheme.shrink) == ("mmse", "uniform", 0.5)
    assert scheme.compensation == SCHEMES["sp_fl"].compensation
    assert resolve(SchemeConfig(name="sp_fl")) == SCHEMES["sp_fl"]


def test_an_unknown_scheme_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown scheme 'sp_lf' \(did you mean 'sp_fl'\?\)"):
        resolve(SchemeConfig(name="sp_lf"))


# --- records are checked when they are made --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": "unbias"}, r"^Scheme\.weights must be one of .*, got 'unbias' \(did you mean 'unbiased'\?\)$"),
        ({"uplink": "signs"}, r"^Scheme\.uplink must be one of .*, got 'signs' \(did you mean 'sign'\?\)$"),
        ({"compensation": 3}, r"^Scheme\.compensation must be an instance of CompensationRule, got 3$"),
        ({"attempts": 0}, r"^Scheme\.attempts must be greater than or equal to 1, got 0$"),
        ({"density": 1.5}, r"^Scheme\.density must be less than or equal to 1, got 1\.5$"),
        ({"share": "equal"}, r"^Scheme\.share must be callable, got 'equal'$"),
        ({"rotated": True, "uplink": "ideal"}, r"^Scheme\.rotated must not be True with uplink = 'ideal'$"),
    ],
    ids=str,
)
def test_a_scheme_that_cannot_be_is_refused_in_one_line(fields: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scheme("mine", "", "", **fields)


def test_parts_that_cannot_be_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^Custom\.partition must be callable, got 3$"):
        Custom(partition=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^CompensationRule\.modulus must be callable, got 'mean'$"):
        CompensationRule("mine", "mean")  # type: ignore[arg-type]


@pytest.mark.parametrize("uplink", ["ideal", "split", "single", "sign", "sparse", "analog"])
def test_every_scheme_that_can_be_made_runs(uplink: Any, digits: Dataset, small_config: Build) -> None:
    config = small_config(data={"devices": 3}, training={"rounds": 1})
    ran = 0
    for rule, rotated, split in product(get_args(Rule), (False, True), (False, True)):
        try:
            scheme = Scheme("mine", "", "", uplink, rule=rule, rotated=rotated, allocate_split=split, solver="exact")
        except ConfigError:
            continue
        list(train(World.build(config, digits, Custom(scheme=scheme))))
        ran += 1
    assert ran >= 3
