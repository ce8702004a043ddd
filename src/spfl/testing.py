"""The contract that every scheme keeps, as pytest tests that your own scheme can inherit.

    from spfl.testing import SchemeContract

    class TestMine(SchemeContract):
        scheme = MY_SCHEME

Each test trains softmax regression on the embedded digits with six devices, a few rounds: about two seconds in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest

from spfl import training
from spfl.config.schema import Config, build_config
from spfl.custom import Custom
from spfl.data.dataset import Dataset
from spfl.data.sources import load_dataset
from spfl.fleet import threads as fleet
from spfl.scheme import Scheme
from spfl.training import RoundRecord
from spfl.uplink import upload as uplink
from spfl.uplink.reception import Arrived, receive
from spfl.uplink.upload import Upload
from spfl.world.world import World

DEVICES = 6
GOOD_LINK = {"median_snr_db": 40.0, "symbols_per_parameter": 8.0, "shadowing_db": 0.0}
DEAD_LINK = {"median_snr_db": -60.0}
WALL_CLOCK = ("seconds",)


@lru_cache(maxsize=1)
def _digits() -> Dataset:
    return load_dataset("digits")


def assert_equal(a: Any, b: Any, where: str = "record") -> None:
    """Equal to the last bit, wall-clock apart: for round records, and all that they are made of."""
    if hasattr(a, "__dataclass_fields__"):
        for field in fields(a):
            if field.name not in WALL_CLOCK:
                assert_equal(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, err_msg=where)
    else:
        assert a == b or (a != a and b != b), f"{where}: {a} != {b}"  # NaN is equal to NaN here


class SchemeContract:
    """Inherit from it, and set `scheme`; a fixture of that name, for many schemes, does as well.

    `local`, `server`: rules of your own (docs/algorithms.md), as `local = staticmethod(rule)`; None: as configured.
    `feeds_noise`: the server cannot tell noise from updates (an analogue uplink), so a dead link may move the weights.
    """

    scheme: ClassVar[Any] = None
    feeds_noise: ClassVar[bool] = False
    local: ClassVar[Any] = None
    server: ClassVar[Any] = None

    def config(self, scheme: Scheme, /, seed: int = 0, workers: int = 1, **sections: dict[str, Any]) -> Config:
        """A small experiment in which both kinds of packet are lost; `sections` are merged over it."""
        values: dict[str, Any] = {
            "data": {"devices": DEVICES},
            "model": {"name": "softmax"},
            "training": {"rounds": 2, "eval_every": 1, "batch_size": 16},
            "channel": {"median_snr_db": 6.0},
            "scheme": {"name": scheme.name},
        }
        merged = {name: values.get(name, {}) | sections.get(name, {}) for name in values.keys() | sections.keys()}
        return build_config({"seed": seed, "workers": workers} | merged)

    def world(self, scheme: Scheme, /, **changes: Any) -> World:
        parts = Custom(scheme=scheme, local=type(self).local, server=type(self).server)
        return World.build(self.config(scheme, **changes), _digits(), parts)

    def records(self, scheme: Scheme, /, **changes: Any) -> list[RoundRecord]:
        return list(training.train(self.world(scheme, **changes)))

    @pytest.fixture(name="scheme")
    def _scheme(self) -> Scheme:
        scheme = type(self).scheme
        assert isinstance(scheme, Scheme), "set the class attribute `scheme`"
        return scheme

    def test_rounds_are_finite_and_keep_the_rules(self, scheme: Scheme) -> None:
        """Shares of the bandwidth sum to one at most, probabilities lie in [0, 1], no modulus without its sign."""
        world = self.world(scheme)
        weights = world.start().weights
        for record in training.train(world):
            share, received = record.allocation, record.outcome
            assert np.isfinite(record.server.weights).all()
            assert np.isfinite(np.array([record.loss, record.test_loss, record.test_accuracy], np.float64)).all()
            assert (share.beta >= 0).all()
            assert share.beta.sum() <= 1 + 1e-9
            for odds in (share.alpha, share.rho, share.q_s, share.r_m):
                assert ((odds >= 0) & (odds <= 1)).all()
            assert not (received.modulus & ~received.sign).any()
            assert not (received.sign & (share.q_s == 0)).any()
            assert record.rejected == 0
            if scheme.rule not in ("reuse", "memory"):
                assert np.array_equal(record.server.weights, weights) == (not received.sign.any())
            weights = record.server.weights

    def test_every_bit_is_accounted_for(self, scheme: Scheme) -> None:
        """The payload is that of all devices with bandwidth, every attempt; the rest is side information."""
        world = self.world(scheme)
        for record in training.train(world):
            share, size = record.allocation, world.layout.size
            first, second = world.format.packet_bits
            sent = (share.beta > 0) * (first + second * ((share.rho < 1) & (share.alpha < 1)))
            if share.bits is not None:
                sent = (share.beta > 0) * world.format.ladder.load(share.bits)
            ideal = DEVICES * 32 * size
            expected = ideal if scheme.uplink == "ideal" else scheme.attempts * sent.sum()
            assert record.payload_bits == expected > 0
            assert record.side_bits == DEVICES * world.format.side_bits

    def test_same_seed_same_bits_whatever_the_workers(self, scheme: Scheme) -> None:
        reference = self.records(scheme)
        for workers in (2, 4):
            for a, b in zip(reference, self.records(scheme, workers=workers), strict=True):
                assert_equal(a, b)
        other = self.records(scheme, seed=1)
        assert not np.array_equal(reference[-1].server.weights, other[-1].server.weights)

    def test_a_round_is_a_pure_function_of_the_state(self, scheme: Scheme) -> None:
        """Nothing that is passed in is written to, and nothing is remembered elsewhere than in the state."""
        world = self.world(scheme, training={"rounds": 3})
        records = list(training.train(world))
        start = records[0].server
        kept = deepcopy(start)
        for a, b in zip(records[1:], training.train(world, start), strict=True):
            assert_equal(a, b)
        assert_equal(start, kept)

    @pytest.mark.parametrize("feedback", [False, True], ids=["", "error_feedback"])
    def test_a_run_continues_where_it_was_stopped(self, scheme: Scheme, feedback: bool) -> None:
        optimiser = {"rounds": 4, "momentum": 0.9, "schedule": "cosine", "local_steps": 2}
        extra = {"error_feedback": True} if feedback else {}
        changes = {"training": optimiser, "data": {"cohort_size": 3}, "scheme": extra}
        whole = self.records(scheme, **changes)
        rest = list(training.train(self.world(scheme, **changes), whole[1].server))
        for a, b in zip(whole[2:], rest, strict=True):
            assert_equal(a, b)

    def test_it_learns_when_the_link_is_good(self, scheme: Scheme) -> None:
        """With IID data and next to no losses, the test loss falls by a third in 30 rounds."""
        optimiser = {"rounds": 30, "batch_size": 64}
        records = self.records(scheme, training=optimiser, channel=GOOD_LINK, data={"partition": "iid"})
        first, last = records[0].test_loss, records[-1].test_loss
        assert first is not None
        assert last is not None
        assert last < 0.67 * first

    def test_a_dead_link_moves_nothing(self, scheme: Scheme) -> None:
        if scheme.uplink in ("ideal", "analog") or self.feeds_noise:
            pytest.skip("no link, or one whose noise the server cannot tell from votes")
        world = self.world(scheme, channel=DEAD_LINK)
        start = world.start().weights
        for record in training.train(world):
            assert not record.outcome.sign.any()
            np.testing.assert_array_equal(record.server.weights, start)

    def test_what_was_lost_is_never_averaged_in(self, scheme: Scheme) -> None:
        """Other packets in place of those that were lost, modulus packets as well, leave the update as it is."""
        world, lost = self.world(scheme, training={"rounds": 6}), 0
        for record, uploads in _rounds_with_uploads(world):
            sign, modulus = record.outcome.sign, record.outcome.modulus
            forged = [_forge(u, bool(s), bool(m)) for u, s, m in zip(uploads, sign, modulus, strict=True)]
            lost += int((~sign).sum())
            a, b = (_receive(world, record, sent) for sent in (uploads, forged))
            np.testing.assert_array_equal(a, b)
        assert lost > 0 or scheme.uplink == "ideal"

    @pytest.mark.parametrize("bad", [(2,), tuple(range(DEVICES))], ids=["one", "all"])
    def test_gradients_that_are_not_finite_are_contained(self, scheme: Scheme, bad: tuple[int, ...]) -> None:
        world = self.world(scheme, channel=GOOD_LINK)
        start = world.start().weights
        with _sick(bad):
            for record in training.train(world):
                assert record.rejected == len(bad)
                assert np.isfinite(record.server.weights).all()
                assert np.isfinite(record.loss) == (len(bad) < DEVICES)
                assert np.array_equal(record.server.weights, start) == (len(bad) == DEVICES)
                assert (record.allocation.beta[list(bad)] == 0).all()

    @pytest.mark.parametrize(
        "packet", ["sign_packet", "modulus_packet", "sparse_packet", "ladder_packet", "own_packet"]
    )
    def test_damaged_packets_are_contained_and_counted(self, scheme: Scheme, packet: str) -> None:
        good = {"median_snr_db": 60.0, "symbols_per_parameter": 20.0}
        world, rejected, sent = self.world(scheme, channel=good, scheme={"scheduled": DEVICES}), 0, False
        with _damaged(packet):
            for record, uploads in _rounds_with_uploads(world):
                sent = sent or bool(getattr(uploads[1], packet))
                arrived = record.outcome.modulus if packet == "modulus_packet" else record.outcome.sign
                assert record.rejected == (arrived[1::2].sum() if sent else 0)
                assert np.isfinite(record.server.weights).all()
                rejected += record.rejected
        assert bool(rejected) == sent


# --- what the tests do to a round ---------------------------------------------------------------------------


def _rounds_with_uploads(world: World) -> Iterator[tuple[RoundRecord, list[Upload]]]:
    """Each record with the uploads it was made of."""
    seen: list[list[Upload]] = []
    honest = fleet.ThreadFleet.uploads

    def watched(self: fleet.ThreadFleet, *arguments: Any) -> tuple[list[Upload], float]:
        uploads, share = honest(self, *arguments)
        seen.append(uploads)
        return uploads, share

    with mock.patch.object(fleet.ThreadFleet, "uploads", watched):
        for record in training.train(world):
            yield record, seen[-1]


def _forge(upload: Upload, sign: bool, modulus: bool) -> Upload:
    """The upload with everything that did not arrive replaced by noise of the same length."""
    rng = np.random.default_rng(upload.device)
    changes: dict[str, Any] = {}
    if not sign:
        lost = {name: getattr(upload, name) for name in ("sign_packet", "sparse_packet", "ladder_packet", "own_packet")}
        changes = {name: rng.bytes(len(packet)) for name, packet in lost.items()}
        if upload.gradient is not None:
            changes["gradient"] = rng.normal(size=upload.gradient.size).astype(np.float32)
    if not (sign and modulus):
        changes["modulus_packet"] = rng.bytes(len(upload.modulus_packet))
    return replace(upload, **changes)


def _receive(world: World, record: RoundRecord, uploads: Sequence[Upload]) -> Any:
    """ghat of a round, with an empty memory."""
    return receive(world.format, Arrived(record.round_, uploads, record.outcome, record.allocation), {}).gradient


@contextmanager
def _sick(devices: tuple[int, ...]) -> Iterator[None]:
    """These devices compute gradients with a NaN (odd devices) or an infinity (even ones) in them."""
    honest = fleet.local_gradient

    def sick(world: Any, model: Any, weights: Any, device: int, *rest: Any) -> Any:
        gradient, loss, kept = honest(world, model, weights, device, *rest)
        if device in devices:
            gradient = gradient.copy()
            gradient[3], loss = (np.nan, np.nan) if device % 2 else (np.inf, np.inf)
        return gradient, loss, kept

    with mock.patch.object(fleet, "local_gradient", sick):
        yield


@contextmanager
def _damaged(packet: str) -> Iterator[None]:
    """Odd devices send one kind of packet with one bit turned."""
    honest = uplink.encode

    def damaged(form: Any, gradient: Any, state: Any, origin: Any) -> Upload:
        upload = honest(form, gradient, state, origin)
        content = bytearray(getattr(upload, packet))
        if origin.device % 2 and content:
            content[len(content) // 2] ^= 0x10
        changes: dict[str, Any] = {packet: bytes(content)}
        return replace(upload, **changes)

    with mock.patch.object(fleet, "encode", damaged):
        yield
