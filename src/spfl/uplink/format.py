"""The format of an upload: which vector travels, in which packets, of how many bits."""

from __future__ import annotations

from functools import lru_cache

from spfl.allocation.result import AllocationResult
from spfl.config.schema import CodecConfig
from spfl.packets.codec import (
    modulus_packet_bits,
    sign_packet_bits,
    sparse_packet_bits,
)
from spfl.packets.layout import Layout
from spfl.packets.rotation import Packing
from spfl.schemes import Scheme

SCALAR_BITS = 32


LARGEST_ASIDE = 128  # elements of an output bias that may travel as side information


@lru_cache(maxsize=16)
def packing_of(scheme: Scheme, layout: Layout) -> Packing:
    """The scheme's packing. With `calibrated`, the output bias (the last tensor, one float a class) goes aside."""
    last = layout.sizes[-1]
    calibrated = scheme.rule == "calibrated" and len(layout.sizes) > 1 and last <= LARGEST_ASIDE
    return Packing(layout, scheme.rotated, last if calibrated else 0)


def quantiser_ranges(scheme: Scheme, layout: Layout, codec: CodecConfig) -> int:
    """Ranges in a modulus packet: one a tensor, or one in all."""
    return len(packing_of(scheme, layout).packets.shapes) if codec.per_tensor else 1


def kept_values(scheme: Scheme, layout: Layout) -> int:
    """Values in a sparse packet: the scheme's density of all, at least one."""
    return max(1, round(scheme.density * layout.size))


def link_bits(scheme: Scheme, layout: Layout, codec: CodecConfig) -> tuple[int, int]:
    """Bits that the first and the second packet put on the link, headers included; 0 for a packet that is not sent.

    The output bias that goes aside is not in them, but in `side_bits`.
    The analogue uplink has no packets and no header: one bit a parameter.
    """
    packets = packing_of(scheme, layout).packets
    ranges = quantiser_ranges(scheme, layout, codec)
    signs, modulus = sign_packet_bits(packets.size), modulus_packet_bits(packets.size, codec.bits, ranges)
    return {
        "ideal": (0, 0),
        "split": (signs, modulus),
        "single": (signs + modulus, 0),
        "sign": (signs, 0),
        "sparse": (sparse_packet_bits(layout.size, kept_values(scheme, layout)), 0),
        "analog": (layout.size, 0),
    }[scheme.uplink]


def payload_bits(
    scheme: Scheme,
    layout: Layout,
    codec: CodecConfig,
    allocation: AllocationResult,
    packets: tuple[int, int] | None = None,
) -> int:
    """Bits that all devices with band send in a round, every attempt counted; float32 values on the ideal uplink.

    `packets`: bits of the two packets, where they are not those of `link_bits`.
    A split that leaves the modulus packet no band or no power (rho or alpha = 1) sends none.
    """
    scheduled = allocation.beta > 0
    if scheme.uplink == "ideal":
        return SCALAR_BITS * layout.size * int(scheduled.sum())
    first, second = packets or link_bits(scheme, layout, codec)
    both = scheduled & (allocation.rho < 1) & (allocation.alpha < 1)
    return scheme.attempts * (first * int(scheduled.sum()) + second * int(both.sum()))


def side_bits(scheme: Scheme, layout: Layout) -> int:
    """Bits of side information a device sends in a round over the control channel, besides its packets.

    n_k and five float32 (||v||^2, ||vbar||^2, <v, vbar>, delta^2, loss); and where a mean modulus may stand in for what
    is not sent or not heard, or scales a vote, one float32 a tensor or rotated block (one in all with `one_mean`);
    and the tensor that goes aside.
    """
    packing = packing_of(scheme, layout)
    stands_in = scheme.uplink in ("split", "sign") and scheme.compensation != "zero"
    scales = 1 if scheme.one_mean else len(packing.packets.names)
    return SCALAR_BITS * (6 + (scales if stands_in or scheme.rule == "vote" else 0) + packing.aside)
