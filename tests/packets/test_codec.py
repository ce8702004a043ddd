"""Packets: exact inverse, exact bits, the quantiser's mean and variance, and refusal of every kind of damage."""

import dataclasses
import struct
import zlib
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from spfl.errors import ConfigError, PacketError
from spfl.packets import quantiser
from spfl.packets.codec import (
    Levels,
    decode_modulus,
    decode_own,
    decode_signs,
    decode_sparse,
    encode_modulus,
    encode_own,
    encode_signs,
    encode_sparse,
    gradient_stats,
)
from spfl.packets.container import (
    HEADER_BITS,
    Kind,
    modulus_packet_bits,
    place_bits,
    sign_packet_bits,
    sparse_packet_bits,
)
from spfl.packets.layout import Layout
from spfl.packets.vector_codecs import FLOAT32

HUGE, TINY = np.finfo(np.float32).max, np.float32(1e-45)
BITS = range(1, 9)
examples = settings(max_examples=300, deadline=None, derandomize=True)  # the first call loads kernels


def flat(size):
    return Layout(("w",), ((size,),))


def split(size, cuts):
    """A layout of `size` elements cut at the given places; equal cuts make empty tensors."""
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    return Layout(tuple(f"t{i}" for i in range(len(edges) - 1)), tuple((b - a,) for a, b in pairwise(edges)))


def name(layout, round_=3, device=7):
    return {"layout": layout, "round_": round_, "device": device}


def random_gradient(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def key_of(seed):
    """The dither key that an encoder draws from a fresh generator of this seed."""
    return int(np.random.default_rng(seed).integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True))


def moduli(gradient, bits, layout, seed=0, per_tensor=False):
    rng = np.random.default_rng(seed)
    packet, delta2 = encode_modulus(gradient, Levels(bits, per_tensor), rng=rng, **name(layout))
    return decode_modulus(packet, **name(layout)), delta2


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
special = st.sampled_from([0.0, -0.0, float(HUGE), -float(HUGE), float(TINY), -float(TINY), 1.0, -1.0])
gradients = arrays(np.float32, st.integers(1, 70), elements=finite | special, fill=special)
cuts = st.lists(st.integers(0, 70), max_size=4)


# --- layout ------------------------------------------------------------------------------------------------------


def test_layout_describes_the_flat_vector():
    layout = Layout(("w", "b", "none"), ((2, 3), (), (0, 4)))
    assert (layout.size, layout.sizes, layout.offsets) == (7, (6, 1, 0), (0, 6, 7))
    np.testing.assert_array_equal(layout.expand([1.0, 2.0, 3.0]), np.float32([1, 1, 1, 1, 1, 1, 2]))
    means = layout.tensor_means(np.float32([0, 1, 2, 3, 4, 5, 9]))
    np.testing.assert_array_equal(means, np.float32([2.5, 9, 0]))
    assert means.dtype == layout.expand(means).dtype == np.float32


def test_tensor_means_do_not_overflow():
    assert flat(3000).tensor_means(np.full(3000, HUGE))[0] == HUGE


def test_layout_digest_tells_layouts_apart_and_survives_a_copy():
    one = Layout(("a", "b"), ((2, 3), (4,)))
    others = [Layout(("b", "a"), one.shapes), Layout(one.names, ((3, 2), (4,))), Layout(("ab",), ((10,),))]
    assert len({one.digest, *(other.digest for other in others)}) == 4
    assert len(one.digest) == 8
    assert Layout(["a", "b"], [[np.int64(2), 3], (4,)]).digest == one.digest
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.names = ()
    with pytest.raises(ConfigError, match="2 names, 1 shapes"):
        Layout(("a", "b"), ((1,),))


# --- exact inverse, bit by bit -------------------------------------------------------------------------------------


@examples
@given(gradients)
def test_signs_round_trip(gradient):
    layout = flat(gradient.size)
    signs = decode_signs(encode_signs(gradient, **name(layout)), **name(layout))
    np.testing.assert_array_equal(signs, [-1.0 if x < 0 else 1.0 for x in gradient])
    assert signs.dtype == np.float32


@examples
@given(gradients, cuts, st.integers(1, 8), st.booleans(), st.integers(0, 2**32))
def test_packets_equal_the_oracles(gradient, cuts, bits, per_tensor, seed):
    layout = split(gradient.size, cuts)
    rng = np.random.default_rng(seed)
    packet, delta2 = encode_modulus(gradient, Levels(bits, per_tensor), rng=rng, **name(layout))
    uniform = oracles.dither(key_of(seed), gradient.size)
    edges = layout.edges.tolist() if per_tensor else [0, gradient.size]
    codes, ranges, decoded, variance = oracles.quantise(gradient, bits, edges, uniform)
    assert packet == oracles.packet(Kind.MODULUS, bits, 3, 7, layout.digest, codes, ranges)
    np.testing.assert_array_equal(decode_modulus(packet, **name(layout)), decoded)
    assert delta2 == pytest.approx(variance, rel=1e-12, abs=0)
    signs = encode_signs(gradient, **name(layout))
    assert signs == oracles.packet(Kind.SIGN, 1, 3, 7, layout.digest, list(gradient < 0), [])


@pytest.mark.parametrize("size", [quantiser.BLOCK - 1, quantiser.BLOCK, quantiser.BLOCK + 1, 3 * quantiser.BLOCK + 13])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_packets_equal_the_oracles_across_blocks(size, bits):
    gradient, layout = random_gradient(size), split(size, [1, 1000, 2047, 2050, 2050, 4100])
    packet, _ = encode_modulus(gradient, Levels(bits, True), rng=np.random.default_rng(5), **name(layout))
    codes, ranges, decoded, _ = oracles.quantise(gradient, bits, layout.edges.tolist(), oracles.dither(key_of(5), size))
    assert packet == oracles.packet(Kind.MODULUS, bits, 3, 7, layout.digest, codes, ranges)
    np.testing.assert_array_equal(decode_modulus(packet, **name(layout)), decoded)
    signs = encode_signs(gradient, **name(layout))
    assert signs == oracles.packet(Kind.SIGN, 1, 3, 7, layout.digest, list(gradient < 0), [])
    np.testing.assert_array_equal(decode_signs(signs, **name(layout)), np.where(gradient < 0, -1, 1))


def test_wire_format_of_version_1_does_not_drift():
    gradient = np.float32([-1.0, 0.0, 2.0, -3.0, 1.0])
    layout = Layout(("w",), ((5,),))
    packet, delta2 = encode_modulus(gradient, Levels(2), rng=np.random.default_rng(0), **name(layout))
    digest = layout.digest.hex()
    head = "5350464c0102020003000000070000000500000000000000" + "01000000" + digest
    assert (packet[:-4].hex(), delta2) == (head + "0000000000004040" + "e101", 0.0)
    signs = encode_signs(gradient, **name(layout))
    head = "5350464c0101010003000000070000000500000000000000" + "00000000" + digest
    assert signs[:-4].hex() == head + "09"
    assert digest == "2823a444d13e9755"


def test_out_is_filled_and_returned():
    gradient, layout = random_gradient(100), flat(100)
    out = np.empty(100, np.float32)
    assert decode_signs(encode_signs(gradient, **name(layout)), out=out, **name(layout)) is out
    np.testing.assert_array_equal(out, np.sign(gradient))
    packet, _ = encode_modulus(gradient, Levels(4), rng=np.random.default_rng(0), **name(layout))
    assert decode_modulus(packet, out=out, **name(layout)) is out
    np.testing.assert_array_equal(out, decode_modulus(packet, **name(layout)))
    for bad in (np.empty(99, np.float32), np.empty(100), np.empty(200, np.float32)[::2]):
        with pytest.raises(ValueError, match="out must be contiguous float32"):
            decode_modulus(packet, out=bad, **name(layout))


def test_same_generator_state_same_packet_and_another_differs():
    gradient, layout = random_gradient(1000), flat(1000)
    packets = [encode_modulus(gradient, Levels(3), rng=np.random.default_rng(s), **name(layout))[0] for s in (1, 1, 2)]
    assert packets[0] == packets[1] != packets[2]


def test_strided_gradient_is_accepted():
    gradient = random_gradient(64)
    layout = flat(32)
    assert encode_signs(gradient[::2], **name(layout)) == encode_signs(gradient[::2].copy(), **name(layout))


# --- bits ----------------------------------------------------------------------------------------------------------


@examples
@given(st.integers(1, 70), cuts, st.integers(1, 8), st.booleans())
def test_counted_bits_are_those_on_the_wire(size, cuts, bits, per_tensor):
    layout, gradient = split(size, cuts), random_gradient(size)
    ranges = len(layout.names) if per_tensor else 1
    packet, _ = encode_modulus(gradient, Levels(bits, per_tensor), rng=np.random.default_rng(0), **name(layout))
    counted = modulus_packet_bits(size, bits, ranges)
    assert counted == HEADER_BITS + bits * size + 64 * ranges
    assert len(packet) == -(-counted // 8)
    assert len(encode_signs(gradient, **name(layout))) == -(-sign_packet_bits(size) // 8)
    assert sign_packet_bits(size) == HEADER_BITS + size


def test_header_is_forty_bytes():
    assert HEADER_BITS == 320
    assert (sign_packet_bits(13), modulus_packet_bits(13, 3), modulus_packet_bits(13, 3, 5)) == (333, 423, 679)


# --- the quantiser -------------------------------------------------------------------------------------------------


@examples
@given(gradients, cuts, st.integers(1, 8), st.booleans())
def test_error_is_at_most_one_step(gradient, cuts, bits, per_tensor):
    layout = split(gradient.size, cuts)
    decoded, delta2 = moduli(gradient, bits, layout, per_tensor=per_tensor)
    edges = layout.edges if per_tensor else layout.edges[[0, -1]]
    v = np.abs(gradient)
    bound = 0.0
    for first, last in pairwise(edges):
        if first < last:
            low, high = float(v[first:last].min()), float(v[first:last].max())
            step = (high - low) / (2**bits - 1)
            error = np.abs(decoded[first:last].astype(np.float64) - v[first:last])
            assert error.max() <= step * (1 + 1e-12) + high * 2**-24 + 1e-45
            assert ((decoded[first:last] >= low) & (decoded[first:last] <= high)).all()
            bound += (last - first) * step**2 / 4
    assert 0 <= delta2 <= bound * (1 + 1e-12)
    assert decoded.dtype == np.float32


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -0.1, HUGE, TINY, -TINY])
@pytest.mark.parametrize("size", [1, 13])
def test_constant_moduli_are_exact(bits, value, size):
    gradient = np.full(size, value, np.float32)
    gradient[::2] *= -1
    decoded, delta2 = moduli(gradient, bits, flat(size))
    np.testing.assert_array_equal(decoded, np.abs(gradient))
    assert delta2 == 0.0


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("ends", [(0, HUGE), (TINY, HUGE), (TINY, 200 * TINY), (0.1, 0.3), (1, 1 + 2**-23)])
def test_both_ends_are_levels(bits, ends):
    gradient = np.array([*ends, *ends], np.float32)
    decoded, delta2 = moduli(gradient, bits, flat(4))
    np.testing.assert_array_equal(decoded, gradient)
    assert delta2 == 0.0


def test_one_range_a_tensor_lowers_delta2_when_a_few_elements_are_large():
    gradient = random_gradient(2000)
    gradient[1990:] *= 100
    layout = split(2000, [1990])
    whole, each = (moduli(gradient, 3, layout, per_tensor=p)[1] for p in (False, True))
    assert each < 0.2 * whole


def draws(gradient, bits, times, twin=None, per_tensor=False):
    """Decoded moduli of `times` encodings of one gradient, (times, dim), and delta^2."""
    layout, rng = split(gradient.size, [gradient.size // 2]), np.random.default_rng(11)
    out = np.empty((times, gradient.size), np.float32)
    for row in out:
        packet, delta2 = encode_modulus(gradient, Levels(bits, per_tensor), rng=rng, **name(layout))
        decode_modulus(packet, out=row, **name(layout))
    return out.astype(np.float64), delta2


def nearest_level(gradient, bits):
    """The biased twin: rounds to the nearest level."""
    v = np.abs(gradient).astype(np.float64)
    step = (v.max() - v.min()) / (2**bits - 1)
    return v.min() + step * np.round((v - v.min()) / step)


def unbiased(mean, gradient, variance, times):
    """Every element's mean within 6 standard errors (64 elements: false alarm below 2e-7)."""
    error = np.abs(mean - np.abs(gradient).astype(np.float64))
    return bool((error <= 6 * np.sqrt(variance / times) + 1e-7 * np.abs(gradient)).all())


@pytest.mark.parametrize("bits", BITS)
def test_quantiser_is_unbiased_in_every_element(bits):
    times, gradient = 10_000, random_gradient(64)
    v = np.abs(gradient).astype(np.float64)
    step = (v.max() - v.min()) / (2**bits - 1)
    f = np.modf((v - v.min()) / step)[0]
    variance = f * (1 - f) * step**2
    assert unbiased(draws(gradient, bits, times)[0].mean(0), gradient, variance, times)
    assert not unbiased(nearest_level(gradient, bits), gradient, variance, times)


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("bits", [1, 3, 6])
def test_delta2_is_the_variance(bits, per_tensor):
    times, gradient = 10_000, random_gradient(64)
    decoded, delta2 = draws(gradient, bits, times, per_tensor=per_tensor)
    squared = ((decoded - np.abs(gradient)) ** 2).sum(1)
    tolerance = 5 * squared.std() / np.sqrt(times)
    assert abs(squared.mean() - delta2) <= tolerance
    assert abs(squared.mean() - 1.05 * delta2) > tolerance  # a twin 5 % off is seen


def test_dither_is_splitmix64():
    """First outputs for seed 1234567, as published with the generator's reference code."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    ours = [quantiser._dither(np.uint64(1234567), i) for i in range(3)]
    assert ours == [(x >> 11) / 2**53 for x in published]
    np.testing.assert_array_equal(oracles.dither(1234567, 3), ours)


def correlated(a, b):
    """Is the correlation of two samples beyond 5 standard errors?"""
    a, b = (a - a.mean()).ravel(), (b - b.mean()).ravel()
    return bool(abs(a @ b) / np.sqrt((a @ a) * (b @ b)) > 5 / np.sqrt(a.size))


def test_dither_is_independent_between_elements_and_between_keys():
    times, size = 4000, 256
    gradient = np.full(size, 0.5, np.float32)
    gradient[0], gradient[-1] = 0, 1
    coins = draws(gradient, 1, times)[0][:, 1:-1]  # each element a fair coin
    for lag in (1, 2, 3, 8, 64):
        assert not correlated(coins[:, :-lag], coins[:, lag:]), f"elements {lag} apart"
        assert not correlated(coins[:-lag], coins[lag:]), f"draws {lag} apart"
    assert not correlated(coins[:-1, :-1], coins[1:, 1:])
    leaky = coins.copy()
    leaky[:, 1::50] = coins[:, :-1:50]  # the twin: every fiftieth coin copies its neighbour
    assert correlated(leaky[:, :-1], leaky[:, 1:])
    ones = coins.sum(0)  # per element: chi-square over the elements, mean n, standard deviation sqrt(2 n)
    chi2 = ((ones - times / 2) ** 2 / (times / 4)).sum()
    assert abs(chi2 - ones.size) < 5 * np.sqrt(2 * ones.size)


def test_gradient_stats_are_sums_in_float64():
    gradient, vbar = random_gradient(5000, 1) * np.float32(1e30), np.abs(random_gradient(5000, 2))
    v, mean = np.abs(gradient).astype(np.float64), vbar.astype(np.float64)
    stats = gradient_stats(gradient, vbar)
    np.testing.assert_allclose(stats, (v @ v, mean @ mean, v @ mean), rtol=1e-12)
    assert all(type(value) is float for value in stats)
    with pytest.raises(PacketError, match=r"vbar must be float32 of shape \(5000,\)"):
        gradient_stats(gradient, vbar[1:])


# --- sparse packets ------------------------------------------------------------------------------------------------


@examples
@given(gradients, st.floats(0, 1), cuts)
def test_sparse_packets_equal_the_oracle(gradient, share, cuts):
    layout, kept = split(gradient.size, cuts), max(1, round(share * gradient.size))
    packet = encode_sparse(gradient, kept, **name(layout))
    expected, dense = oracles.sparse_packet(gradient, kept, 3, 7, layout.digest)
    assert packet == expected
    np.testing.assert_array_equal(decode_sparse(packet, **name(layout)), dense)
    assert len(packet) == -(-sparse_packet_bits(gradient.size, kept) // 8)


def test_places_take_the_bits_that_name_them():
    assert [place_bits(n) for n in (1, 2, 3, 4, 5, 1024, 1025)] == [0, 1, 2, 2, 3, 10, 11]
    assert sparse_packet_bits(1000, 20) == HEADER_BITS + 20 * (32 + 10)


@pytest.mark.parametrize("kept", [0, 15, -1])
def test_more_or_fewer_values_than_there_are_cannot_be_kept(kept):
    with pytest.raises(ConfigError, match=rf"kept must be in 1..14, got {kept}"):
        encode_sparse(random_gradient(14), kept, **name(LAYOUT))


@pytest.mark.parametrize("places", [[3, 3], [5, 4], [3, 14], [15, 1]])
def test_forged_places_are_refused(places):
    body = bytearray(encode_sparse(random_gradient(14), 2, **name(LAYOUT))[:-4])
    body[-1] = places[0] | places[1] << 4
    with pytest.raises(PacketError, match="places must ascend and be below 14"):
        decode_sparse(seal(body), **name(LAYOUT))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_forged_values_are_refused(value):
    body = bytearray(PACKETS[Kind.SPARSE][:-4])
    struct.pack_into("<f", body, 36, value)
    with pytest.raises(PacketError, match="values must be finite"):
        decode_sparse(seal(body), **name(LAYOUT))


# --- refusals --------------------------------------------------------------------------------------------------------


LAYOUT = Layout(("w", "b"), ((3, 4), (2,)))
PACKETS = {
    Kind.SIGN: encode_signs(random_gradient(14), **name(LAYOUT)),
    Kind.MODULUS: encode_modulus(random_gradient(14), Levels(3), rng=np.random.default_rng(0), **name(LAYOUT))[0],
    Kind.SPARSE: encode_sparse(random_gradient(14), 5, **name(LAYOUT)),
    Kind.OWN: encode_own(FLOAT32, random_gradient(14), np.random.default_rng(0), **name(LAYOUT)),
}
DECODE = {
    Kind.SIGN: decode_signs, Kind.MODULUS: decode_modulus, Kind.SPARSE: decode_sparse,
    Kind.OWN: partial(decode_own, FLOAT32),
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", list(DECODE))  # a ladder needs equal blocks: tests/packets/test_ladder.py


def seal(body):
    return bytes(body) + zlib.crc32(body).to_bytes(4, "little")


@kinds
def test_every_single_bit_flip_is_refused(kind):
    packet = PACKETS[kind]
    DECODE[kind](packet, **name(LAYOUT))
    for bit in range(8 * len(packet)):
        damaged = bytearray(packet)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PacketError, match="packet"):
            DECODE[kind](bytes(damaged), **name(LAYOUT))


@kinds
def test_every_other_length_is_refused(kind):
    packet = PACKETS[kind]
    for other in [packet[:n] for n in range(len(packet))] + [packet + b"\0", packet + packet]:
        with pytest.raises(PacketError, match="length"):
            DECODE[kind](other, **name(LAYOUT))


@kinds
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (name(LAYOUT, round_=4), "packet round must be 4, got 3"),
        (name(LAYOUT, device=8), "packet device must be 8, got 7"),
        (name(Layout(("w", "c"), LAYOUT.shapes)), "layout digest"),
        (name(flat(13)), "layout digest|length"),
        (name(flat(1000)), "length|bits|element|digest"),
    ],
)
def test_alien_packets_are_refused(kind, other, message):
    with pytest.raises(PacketError, match=message):
        DECODE[kind](PACKETS[kind], **other)


@kinds
def test_the_other_kind_is_refused(kind):
    for other in set(DECODE) - {kind}:
        with pytest.raises(PacketError, match="packet kind must be"):
            DECODE[kind](PACKETS[other], **name(LAYOUT))


FORGERIES = [  # offset, struct format, values, message; the CRC is recomputed
    (0, "4s", [b"SPFM"], "magic"),
    (4, "B", [0, 2, 255], "version must be 1"),
    (5, "B", [0, 4], "kind"),
    (6, "H", [0, 2, 5, 9, 259, 65535], "bits|length"),
    (8, "I", [0, 4, 2**32 - 1], "round must be 3"),
    (12, "I", [0, 2**32 - 1], "device must be 7"),
    (16, "Q", [0, 13, 15, 2**60], "element count must be 14"),
    (24, "I", [2, 3, 2**32 - 1], "ranges|length"),
    (28, "Q", [0], "layout digest"),
]


@kinds
@pytest.mark.parametrize(("offset", "form", "values", "message"), FORGERIES)
def test_forged_headers_are_refused(kind, offset, form, values, message):
    for value in values:
        body = bytearray(PACKETS[kind][:-4])
        struct.pack_into("<" + form, body, offset, value)
        with pytest.raises(PacketError, match=message):
            DECODE[kind](seal(body), **name(LAYOUT))


@pytest.mark.parametrize(
    ("kind", "bits", "ranges", "message"),
    [
        (Kind.SIGN, 2, 0, "packet bits must be in 1..1, got 2"),
        (Kind.SIGN, 1, 1, r"packet ranges must be one of \[0\], got 1"),
        (Kind.MODULUS, 9, 1, "packet bits must be in 1..8, got 9"),
        (Kind.MODULUS, 3, 0, r"packet ranges must be one of \[1, 2\], got 0"),
        (Kind.SPARSE, 4, 0, r"packet ranges must be one of range\(1, 15\), got 0"),
        (Kind.SPARSE, 3, 2, "packet bits must be in 4..4, got 3"),
        (Kind.MODULUS, 3, 3, r"packet ranges must be one of \[1, 2\], got 3"),
    ],
)
def test_forged_sizes_are_refused_even_when_the_length_agrees(kind, bits, ranges, message):
    packet = oracles.packet(kind, bits, 3, 7, LAYOUT.digest, [1] * 14, [(0, 1)] * ranges)
    with pytest.raises(PacketError, match=message):
        DECODE[kind](packet, **name(LAYOUT))


@pytest.mark.parametrize("pair", [(2.0, 1.0), (-1.0, 1.0), (0.0, np.inf), (np.nan, 1.0), (0.0, np.nan), (-np.inf, 1.0)])
def test_forged_ranges_are_refused(pair):
    body = bytearray(PACKETS[Kind.MODULUS][:-4])
    struct.pack_into("<2f", body, 36, *pair)
    with pytest.raises(PacketError, match="ranges must be finite with 0 <= v_min <= v_max"):
        decode_modulus(seal(body), **name(LAYOUT))


@pytest.mark.parametrize("kind", [Kind.SIGN, Kind.MODULUS, Kind.SPARSE])  # a codec of the caller's fills its bytes
def test_forged_padding_is_refused(kind):
    body = bytearray(PACKETS[kind][:-4])
    body[-1] |= 0x80  # 14, 3 * 14 and 5 * 4 bits: all leave padding
    with pytest.raises(PacketError, match="padding"):
        DECODE[kind](seal(body), **name(LAYOUT))


@examples
@given(st.binary(max_size=80), st.sampled_from(list(DECODE)), st.booleans())
def test_random_bytes_are_refused(data, kind, with_header):
    packet = seal(PACKETS[kind][:28] + data) if with_header else data
    if packet != PACKETS[kind]:
        with pytest.raises(PacketError):
            DECODE[kind](packet, **name(LAYOUT))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 5, 13])
def test_gradients_that_are_not_finite_are_refused(bad, at):
    gradient = random_gradient(14)
    gradient[at] = bad
    for encode in (encode_signs, lambda g, **n: encode_sparse(g, 2, **n)):
        with pytest.raises(PacketError, match="finite"):
            encode(gradient, **name(LAYOUT))
    rng = np.random.default_rng(0)
    for per_tensor in (False, True):
        with pytest.raises(PacketError, match="finite"):
            encode_modulus(gradient, Levels(3, per_tensor), rng=rng, **name(LAYOUT))
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state  # refused before anything is drawn


@pytest.mark.parametrize(
    "bad", [random_gradient(13), random_gradient(14).astype(np.float64), random_gradient(14)[None]]
)
def test_gradients_of_another_form_are_refused(bad):
    with pytest.raises(PacketError, match=r"gradient must be float32 of shape \(14,\)"):
        encode_signs(bad, **name(LAYOUT))


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ConfigError, match=rf"bits must be in 1..8, got {bits}"):
        encode_modulus(random_gradient(14), Levels(bits), rng=np.random.default_rng(0), **name(LAYOUT))


@pytest.mark.parametrize("number", [-1, 2**32])
def test_round_and_device_must_fit_the_header(number):
    for which in ("round_", "device"):
        with pytest.raises(ConfigError, match=f"{which} must be in"):
            encode_signs(random_gradient(14), **name(LAYOUT) | {which: number})
