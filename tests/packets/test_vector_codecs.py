"""Codecs that fill one packet: exact bits, no bias, the variance of their papers."""

from __future__ import annotations

import numpy as np
import pytest

from spfl.config.schema import Config
from spfl.errors import PacketError
from spfl.packets.codec import decode_own, encode_own
from spfl.packets.layout import Layout
from spfl.packets.vector_codecs import FLOAT32, TERNGRAD, Codec, qsgd
from stats import assert_mean

CODECS = [FLOAT32, qsgd(1), qsgd(7), qsgd(15), TERNGRAD]


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.name)
@pytest.mark.parametrize("size", [1, 4, 5, 6, 77])
def test_a_packet_has_the_bits_that_are_declared(codec: Codec, size: int) -> None:
    vector = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    payload = codec.encode(vector, np.random.default_rng(0))
    assert len(payload) == -(-codec.bits(size) // 8)
    assert codec.decode(payload, size).shape == (size,)


@pytest.mark.parametrize("codec", CODECS[1:], ids=lambda c: c.name)
def test_codes_are_unbiased(codec: Codec) -> None:
    vector = np.array([0.0, 3.0, -1.0, 0.2, -0.01, 1.5], np.float32)
    rng = np.random.default_rng(1)
    draws = np.array([codec.decode(codec.encode(vector, rng), vector.size) for _ in range(4000)])
    assert_mean(draws[:, 1:], vector[1:])
    with pytest.raises(AssertionError):
        assert_mean(draws[:, 1:], 1.1 * vector[1:])


def test_float32_is_exact_and_zeros_stay_zeros() -> None:
    vector = np.array([1e-40, -1e38, 0.0, 3.1], np.float32)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(FLOAT32.decode(FLOAT32.encode(vector, rng), 4), vector)
    for codec in CODECS:
        assert not codec.decode(codec.encode(np.zeros(9, np.float32), rng), 9).any()


def test_a_codec_that_breaks_its_word_is_named() -> None:
    layout, rng = Layout(("a",), ((4,),)), np.random.default_rng(0)
    short = Codec("short", lambda dim: 32 * dim, lambda x, rng: b"1", lambda payload, dim: np.zeros(dim, np.float32))
    with pytest.raises(PacketError, match="codec short must write 16 bytes for 4 values, got 1"):
        encode_own(short, np.ones(4, np.float32), rng, layout=layout, round_=1, device=0)
    wrong = Codec("wrong", lambda dim: 8, lambda x, rng: b"1", lambda payload, dim: np.zeros(dim + 1, np.float32))
    packet = encode_own(wrong, np.ones(4, np.float32), rng, layout=layout, round_=1, device=0)
    with pytest.raises(PacketError, match="codec wrong must read 4 finite values"):
        decode_own(wrong, packet, layout=layout, round_=1, device=0)


def test_a_codec_of_ones_own_is_a_scheme_in_a_few_lines(small_config, digits) -> None:  # type: ignore[no-untyped-def]
    import spfl
    from spfl.scheme import Scheme

    half = Codec(
        "half",
        bits=lambda dim: 16 * dim,
        encode=lambda x, rng: x.astype("<f2").tobytes(),
        decode=lambda payload, dim: np.frombuffer(payload, "<f2", dim).astype(np.float32),
    )
    config: Config = small_config(channel={"median_snr_db": 40.0, "symbols_per_parameter": 20.0})
    run = spfl.run(config, scheme=Scheme("half", "ours", "half precision", uplink="codec", codec=half), dataset=digits)
    assert run.summary["signs_received"] > 0
