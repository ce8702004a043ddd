"""Links without a code: error rates against a modem that is simulated bit by bit, and what they do to a vector."""

from __future__ import annotations

import numpy as np
import pytest

from small_runs import assert_same_run, make_config
from spfl.config.radio import ChannelConfig
from spfl.errors import ConfigError, PacketError
from spfl.packets.codec import Levels, decode_modulus, decode_signs, encode_modulus, encode_signs, flip_codes
from spfl.packets.layout import Layout
from spfl.radio.outage import Link
from spfl.radio.uncoded import ALPHABETS, UncodedLaw, bit_error_rate, mean_bit_error_rate
from spfl.runs.experiment import run_experiment
from spfl.runs.verification import verify
from spfl.training import train
from spfl.world.world import World


def gray(bits):
    """Amplitudes -(side - 1), ..., side - 1 of one quadrature, and the Gray labels of each as rows of bits."""
    side = 2**bits
    labels = [i ^ (i >> 1) for i in range(side)]
    return np.arange(side) * 2.0 - (side - 1), np.array([[label >> b & 1 for b in range(bits)] for label in labels])


def simulated(bits, snr_per_bit, symbols, rng):
    """The share of bits that a coherent receiver of one quadrature gets wrong, symbol by symbol."""
    quadratures = 1 if bits == 1 else 2
    each = bits // quadratures
    levels, labels = gray(each)
    energy = quadratures * np.mean(levels**2)  # of a symbol; noise has N_0 / 2 in each quadrature
    deviation = np.sqrt(energy / (bits * snr_per_bit) / 2)
    sent = rng.integers(0, levels.size, symbols)
    got = levels[sent] + deviation * rng.standard_normal(symbols)
    nearest = np.clip(np.round((got + levels.size - 1) / 2), 0, levels.size - 1).astype(int)
    return np.mean(labels[sent] != labels[nearest])


@pytest.mark.parametrize("bits", ALPHABETS)
@pytest.mark.parametrize("snr_per_bit", [0.3, 2.0, 9.0])
def test_error_rates_are_those_of_a_simulated_modem(bits, snr_per_bit):
    symbols = 200_000
    found = simulated(bits, snr_per_bit, symbols, np.random.default_rng(bits))
    expected = float(bit_error_rate(bits, snr_per_bit))
    assert abs(found - expected) < 5 * np.sqrt(expected / symbols) + 1e-9  # bits of a symbol are not independent


def test_a_wrong_alphabet_would_be_found():
    found = simulated(4, 2.0, 200_000, np.random.default_rng(4))
    assert abs(found - float(bit_error_rate(2, 2.0))) > 0.02


@pytest.mark.parametrize("bits", ALPHABETS)
@pytest.mark.parametrize("snr_per_bit", [0.1, 1.0, 30.0])
def test_means_over_fades_are_those_of_draws(bits, snr_per_bit):
    draws = bit_error_rate(bits, snr_per_bit * np.random.default_rng(7).exponential(size=400_000))
    error = 5 * draws.std() / np.sqrt(draws.size)
    assert float(mean_bit_error_rate(bits, snr_per_bit)) == pytest.approx(draws.mean(), abs=error)


def test_rates_go_from_one_half_to_nothing():
    for bits in ALPHABETS:
        assert float(bit_error_rate(bits, 0.0)) == pytest.approx(0.5)
        assert float(mean_bit_error_rate(bits, 0.0)) == pytest.approx(0.5)
        assert float(bit_error_rate(bits, 1e6)) == 0.0
        assert 0 < float(mean_bit_error_rate(bits, 1e12)) < 1e-9


# --- the link ------------------------------------------------------------------------------------------------------


def link(bits=2000.0, modulus=6000.0, power_w=1.0):
    return Link(1e4, 1e-6, power_w, np.full(3, 0.02), 1.0, bits, modulus, law=UncodedLaw())


def test_a_packet_takes_the_smallest_alphabet_that_fits_or_is_lost():
    law, one = UncodedLaw(), np.ones(3)
    beta = np.array([0.4, 0.1, 0.005])
    first, second = law.packets(link(), beta, 0.5 * one, 0.25 * one)
    assert first.alphabet.tolist() == [2, 8, 0]  # 2 and 8 bits a symbol; 160 would be needed
    assert second.alphabet.tolist() == [2, 8, 0]
    np.testing.assert_allclose(first.snr, 0.5 * 0.02 / 2000 / 1e-6)
    outcome = law.transmit(link(), (beta, 0.5 * one, 0.25 * one), (one, one), np.random.default_rng(0))
    assert outcome.sign.tolist() == [True, True, False]
    assert outcome.bit_errors[0, 2] == 0.5


def test_what_is_left_of_a_sign_stands_for_its_probability():
    law, one = UncodedLaw(), np.ones(3)
    beta = 0.3 * one
    odds = law.success(link(), beta, 0.5 * one, 0.25 * one)
    fades = np.random.default_rng(1).exponential(size=(5_000, 3))
    rates = [law.transmit(link(), (beta, 0.5 * one, 0.25 * one), (f, f), None).bit_errors[0] for f in fades]
    np.testing.assert_allclose(odds.q_s, 1 - 2 * np.mean(rates, 0), atol=0.02)
    assert (odds.q_s < 0.95).all()


# --- packets ---------------------------------------------------------------------------------------------------------

LAYOUT = Layout(("w",), ((4001,),))
ADDRESS = {"layout": LAYOUT, "round_": 3, "device": 2}


def test_codes_flip_at_their_rate_and_nothing_else_changes():
    vector = np.random.default_rng(0).standard_normal(4001).astype(np.float32)
    signs = encode_signs(vector, **ADDRESS)
    moduli, _ = encode_modulus(vector, Levels(3), rng=np.random.default_rng(1), **ADDRESS)
    flipped = decode_signs(flip_codes(signs, 0.1, np.random.default_rng(2)), **ADDRESS)
    assert np.mean(flipped != decode_signs(signs, **ADDRESS)) == pytest.approx(0.1, abs=5 * 0.3 / np.sqrt(4001))
    before, after = (
        decode_modulus(moduli, **ADDRESS),
        decode_modulus(flip_codes(moduli, 0.1, np.random.default_rng(2)), **ADDRESS),
    )
    codes = [np.round((v - before.min()) / (before.max() - before.min()) * 7).astype(int) for v in (before, after)]
    wrong = sum(int(a ^ b).bit_count() for a, b in zip(*codes, strict=True)) / (3 * 4001)
    assert wrong == pytest.approx(0.1, abs=5 * 0.3 / np.sqrt(3 * 4001))
    assert set(codes[1]) <= set(range(8))


def test_a_damaged_packet_is_not_healed():
    signs = bytearray(encode_signs(np.ones(4001, np.float32), **ADDRESS))
    signs[60] ^= 1
    with pytest.raises(PacketError):
        decode_signs(flip_codes(bytes(signs), 0.2, np.random.default_rng(0)), **ADDRESS)
    assert flip_codes(b"short", 0.5, np.random.default_rng(0)) == b"short"


# --- runs ------------------------------------------------------------------------------------------------------------


def uncoded(**changes):
    return make_config(**({"channel": {"median_snr_db": 9.0, "link": "uncoded"}} | changes))


def test_without_noise_a_run_is_that_of_a_link_that_loses_nothing(digits):
    quiet = {"median_snr_db": 250.0, "side_information": "reliable"}
    ends = [
        list(train(World.build(make_config(channel=quiet | more, training__rounds=4), digits)))[-1]
        for more in ({"link": "uncoded"}, {})
    ]
    assert ends[0].outcome.sign.all()
    assert ends[1].outcome.sign.all()
    np.testing.assert_allclose(ends[0].server.weights, ends[1].server.weights, rtol=1e-4, atol=1e-5)


def test_errors_reach_the_vector_and_more_power_helps(digits):
    distances = []
    for snr_db in (0.0, 12.0, 250.0):
        config = make_config(channel={"median_snr_db": snr_db, "link": "uncoded"}, training__rounds=1,
                             scheme={"name": "sp_fl_uniform", "weights": "normalized"})  # fmt: skip
        record = next(train(World.build(config, digits)))
        assert record.outcome.sign.all()  # so what differs are bits
        distances.append(record.server.weights)
    far, near = (np.linalg.norm(w - distances[2]) for w in distances[:2])
    assert far > near > 0


@pytest.mark.parametrize("scheme", ["sp_fl", "single_packet", "majority_vote", "sp_fl_plus_1", "error_free"])
def test_runs_verify_and_do_not_depend_on_workers(scheme, digits, tmp_path):
    chosen = {"scheme": {"name": scheme}, "training__rounds": 4}
    run_experiment(uncoded(**chosen, workers=1), digits, tmp_path / "a")
    run_experiment(uncoded(**chosen, workers=3), digits, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert verify(tmp_path / "a", digits).difference is None


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [("top_k", "packets other than"), ("drive", "packets other than"), ("retransmit", "sends again"),
     ("scaled_sign_feedback", "keeps what the server did not use")],
)  # fmt: skip
def test_schemes_that_must_know_what_is_right_are_refused(scheme, reason, digits):
    with pytest.raises(ConfigError, match=f"channel.link = uncoded is not for {scheme}, which .*{reason}"):
        next(train(World.build(uncoded(scheme={"name": scheme}), digits)))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"fading": "selective"}, "fading must be block or independent with link = uncoded, got selective"),
        ({"segment_bits": 1024}, "segment_bits must be absent with link = uncoded, got 1024"),
        ({"snr_gap_db": 3.0}, "snr_gap_db must be 0.0 with link = uncoded, got 3.0"),
        ({"multiplex": "superposed"}, "multiplex must be orthogonal with link = uncoded, got superposed"),
    ],
)
def test_keys_that_mean_nothing_without_a_code_are_refused(keys, line):
    with pytest.raises(ValueError, match=line):
        ChannelConfig(link="uncoded", **keys)
