"""Pieces of packets are of use alone, and sealed datagrams are believed of the holder of the key only."""

from __future__ import annotations

import numpy as np
import pytest

from spfl.errors import PacketError
from spfl.packets.codec import Levels, decode_modulus, decode_signs, encode_modulus, encode_signs
from spfl.packets.container import Kind
from spfl.packets.layout import Layout
from spfl.packets.sealed import Session, name_of, new_session, seal, unseal
from spfl.packets.segments import element_mask
from spfl.packets.slices import PieceShape, rebuild, slice_packet


def layout(dim):
    return Layout(("a", "b"), ((dim - 2,), (2,)))


@pytest.mark.parametrize("dim", [5, 64, 1000, 1001])
@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("per_tensor", [False, True])
def test_pieces_that_arrived_tell_their_elements_exactly(dim, bits, count, per_tensor):
    rng, form = np.random.default_rng(dim + bits + count), layout(dim)
    gradient = rng.standard_normal(dim).astype(np.float32)
    address = {"layout": form, "round_": 3, "device": 4}
    packet, _ = encode_modulus(gradient, Levels(bits, per_tensor), rng=rng, **address)
    shape = PieceShape(Kind.MODULUS, bits, 2 if per_tensor else 1, count)
    whole = decode_modulus(packet, **address)
    pieces = slice_packet(packet, shape, dim)
    assert {len(piece) for piece in pieces} == {shape.length(dim)}
    assert rebuild(dict(enumerate(pieces)), shape, form, 3, 4) == packet
    for lost in range(count if count > 1 else 0):
        left = {i: piece for i, piece in enumerate(pieces) if i != lost}
        again = decode_modulus(rebuild(left, shape, form, 3, 4), **address)
        mask = element_mask(np.arange(count) != lost, dim)
        assert (again[mask] == whole[mask]).all()


def test_signs_in_pieces():
    form, address = layout(77), {"round_": 1, "device": 0}
    gradient = np.random.default_rng(0).standard_normal(77).astype(np.float32)
    packet, shape = encode_signs(gradient, layout=form, **address), PieceShape(Kind.SIGN, 1, 0, 3)
    pieces = dict(enumerate(slice_packet(packet, shape, 77)))
    assert rebuild(pieces, shape, form, 1, 0) == packet
    again = decode_signs(rebuild({1: pieces[1]}, shape, form, 1, 0), layout=form, **address)
    mask = element_mask(np.array([False, True, False]), 77)
    assert (again[mask] == np.where(gradient >= 0, 1, -1)[mask]).all()


def test_pieces_of_two_packets_are_refused():
    rng, form = np.random.default_rng(0), layout(40)
    shape = PieceShape(Kind.MODULUS, 3, 1, 2)
    packets = [
        encode_modulus(rng.standard_normal(40).astype(np.float32), Levels(3), layout=form, round_=1, device=0, rng=rng)[
            0
        ]
        for _ in range(2)
    ]
    first, second = (slice_packet(packet, shape, 40) for packet in packets)
    for pieces in ({0: first[0], 1: second[1]}, {0: first[0][:-1]}, {}, {7: first[0]}):
        with pytest.raises(PacketError):
            rebuild(pieces, shape, form, 1, 0)


def test_a_seal_fits_its_session_and_its_bytes_only():
    session = new_session()
    sealed = seal(session, b"datagram")
    assert unseal(session, sealed) == b"datagram"
    assert name_of(sealed) == session.name
    for i in range(len(sealed)):
        with pytest.raises(PacketError, match="not of this session"):
            unseal(session, sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :])
    for other in (new_session(), Session(session.name, bytes(32))):
        with pytest.raises(PacketError, match="not of this session"):
            unseal(other, sealed)
    for short in (b"", sealed[:23]):
        with pytest.raises(PacketError, match="at least 24 bytes"):
            unseal(session, short)
    assert len({new_session() for _ in range(50)}) == 50
