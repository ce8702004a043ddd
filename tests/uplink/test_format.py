"""Bits of side information, counted by hand."""

from __future__ import annotations

from four_devices import (
    LAYOUT,
)
from rounds import format_of
from spfl.config.schema import SchemeConfig
from spfl.packets.rotation import Rotation
from spfl.schemes import SCHEMES, resolve


def test_side_information_by_hand() -> None:
    expected = dict.fromkeys(SCHEMES, 32 * 6)  # n_k and five floats
    expected |= dict.fromkeys(("majority_vote", "sign_mean", "over_the_air"), 32 * 8)  # and two tensors
    expected |= {name: 32 * 8 for name in SCHEMES if name.startswith("sp_fl")}
    blocks = len(format_of(SCHEMES["sp_fl_plus_1"], LAYOUT).packets.shapes)  # and the output bias, two floats
    expected |= dict.fromkeys(("sp_fl_plus_1", "sp_fl_plus_1_uniform"), 32 * (6 + blocks + LAYOUT.sizes[-1]))
    expected |= {"sp_fl_plus_1_uncalibrated": 32 * (6 + len(Rotation(LAYOUT.size).layout.shapes))}
    expected |= {"sp_fl_plus_1_unrotated": 32 * (6 + 1 + LAYOUT.sizes[-1])}
    expected |= {"single_packet_plus": 32 * (6 + LAYOUT.sizes[-1])}
    blocks = len(format_of(SCHEMES["drive"], LAYOUT).packets.shapes)
    expected |= {name: 32 * (6 + blocks) for name, scheme in SCHEMES.items() if scheme.uplink == "ladder"}
    blocks = len(format_of(SCHEMES["sp_fl_plus"], LAYOUT).packets.shapes)
    calibrated = [n for n, s in SCHEMES.items() if s.uplink == "ladder" and s.rule == "calibrated"]
    expected |= dict.fromkeys(calibrated, 32 * (6 + blocks + LAYOUT.sizes[-1]))
    expected |= {"scaled_sign": 32 * 7, "scaled_sign_feedback": 32 * 7, "sp_fl_no_compensation": 32 * 6}
    assert {name: format_of(scheme, LAYOUT).side_bits for name, scheme in SCHEMES.items()} == expected
    assert format_of(resolve(SchemeConfig(name="majority_vote", compensation="zero")), LAYOUT).side_bits == 32 * 8
