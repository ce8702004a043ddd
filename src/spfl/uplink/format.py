"""The format of an upload: which vector travels, in which packets, of how many bits.

A `Format` is what a device and the server agree upon before the first round. Every rule that both must follow (which
bits are sent, what stands for a lost modulus, what travels as side information) is one of its members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from spfl.allocation.participation import Ladder
from spfl.allocation.result import AllocationResult
from spfl.arrays import Floats, Vector
from spfl.compensation import compensatory_modulus
from spfl.config.radio import SideInformation
from spfl.config.schema import CodecConfig, SchemeConfig
from spfl.packets.container import HEADER_BITS, RANGE_BITS, modulus_packet_bits, sign_packet_bits, sparse_packet_bits
from spfl.packets.ladder import MAX_PLANES, deviations
from spfl.packets.layout import Layout
from spfl.packets.peaks import DIGITS, group_of
from spfl.packets.rotation import Packing
from spfl.packets.segments import WHOLE, Cut, parity_overhead, segment_overhead
from spfl.radio.outage import Outcome
from spfl.rng import Purpose, stream
from spfl.scheme import Scheme

SCALAR_BITS = 32
LARGEST_ASIDE = 128  # elements of an output bias that may travel as side information


@dataclass(frozen=True)
class Format:
    """The scheme with its settings, and the vector that packets carry.

    `side`: how side information travels: within the first packet, paid for and lost with it (in_packet), in a packet
    of its own (lossy), or reliably.
    `instantaneous`: a device's link adapts to the fade that it meets; else to its mean gain.
    `statistics`: floats of running statistics (BatchNorm) that a device tells beside its gradient.
    `cut`: how packets are cut into segments.
    `classes` (device, class) are the label shares that devices told when they joined, for schemes that use them.
    """

    scheme: Scheme
    settings: SchemeConfig
    layout: Layout
    codec: CodecConfig
    seed: int
    side: SideInformation = "reliable"
    instantaneous: bool = False
    statistics: int = 0
    cut: Cut = WHOLE
    classes: Floats | None = field(default=None, compare=False, repr=False)

    @property
    def in_packet(self) -> bool:
        """Whether side information is lost with the first packet."""
        return self.side == "in_packet"

    @property
    def lossy(self) -> bool:
        """Whether side information has a packet of its own; ideal and analogue uplinks have it reliably."""
        return self.side == "lossy" and self.scheme.uplink not in ("ideal", "analog")

    @property
    def reliable(self) -> bool:
        """Whether side information of every device is there before anything is decided."""
        return not (self.in_packet or self.lossy)

    # --- the vector ---------------------------------------------------------------------------------------------

    @cached_property
    def packing(self) -> Packing:
        """From parameters to the vector in packets. With `calibrated`, the output bias (last tensor) is apart."""
        last = self.layout.sizes[-1]
        is_bias = len(self.layout.sizes) > 1 and len(self.layout.shapes[-1]) == 1 and last <= LARGEST_ASIDE
        calibrated = self.scheme.rule == "calibrated" and is_bias
        return Packing(self.layout, self.scheme.rotated, last if calibrated else 0)

    @property
    def packets(self) -> Layout:
        """The vector in packets as the codec sees it."""
        return self.packing.packets

    def rotation(self, round_: int, device: int) -> np.random.Generator | None:
        """The stream of a device's rotation in a round; None where nothing is rotated."""
        return stream(self.seed, round_, device, Purpose.ROTATION) if self.packing.rotated else None

    def scales(self, vector: Vector) -> Vector:
        """What a sign alone stands for in each tensor or block, (tensor,); the deviations of a ladder's blocks."""
        if self.scheme.uplink == "ladder":
            scaled = 1 if self.scheme.bits_per_value is None or self.scheme.peaks else self.digits
            return deviations(vector, self.packets.sizes[0], scaled)
        if self.scheme.one_mean:
            return np.full(len(self.packets.names), np.abs(vector).mean(dtype=np.float64), np.float32)
        return self.packing.scales(vector)

    def compensatory(self, state: Mapping[str, Vector], device: int, tensor_means: Vector) -> Vector:
        """vbar_k: what stands for a lost modulus, shrunk, float32 (packets.size,)."""
        vbar = compensatory_modulus(self.scheme.compensation, state, device, tensor_means, self.packets)
        return vbar if self.scheme.shrink == 1.0 else np.float32(self.scheme.shrink) * vbar

    # --- bits ---------------------------------------------------------------------------------------------------

    @property
    def ranges(self) -> int:
        """Ranges in a modulus packet: one a tensor, or one in all."""
        return len(self.packets.shapes) if self.codec.per_tensor else 1

    @property
    def kept_values(self) -> int:
        """Values in a sparse packet: the scheme's density of all, at least one."""
        return max(1, round(self.scheme.density * self.layout.size))

    @property
    def digits(self) -> int:
        """Bits of each value that a device prepares for a ladder: its planes, and one more for its peaks."""
        bits = self.scheme.bits_per_value
        if self.scheme.peaks:
            return DIGITS
        return MAX_PLANES if bits is None else max(1, int(np.ceil(bits)))

    @cached_property
    def ladder(self) -> Ladder:
        """What a device of a ladder scheme may send."""
        bits, dim = self.scheme.bits_per_value, self.packets.size
        fixed = None if bits is None else float(np.ceil(bits * dim))
        side = float(self._side_bits if self.in_packet else 0)
        group = group_of(self.packets.sizes[0]) if self.scheme.peaks else 1
        return Ladder(dim, HEADER_BITS + side, self.scheme.tau, fixed, self.cut, side if self.cut.alone else 0.0, group)

    @cached_property
    def link_bits(self) -> tuple[int, int]:
        """Bits that the first and the second packet put on the link, headers included; 0 for a packet not sent.

        The output bias (side information) is not in them, but in `side_bits`. The analogue uplink has no packets and no
        header: one symbol a parameter. A ladder whose bits are allocated counts one bit a value here.
        """
        scheme, size = self.scheme, self.packets.size
        signs, modulus = sign_packet_bits(size), modulus_packet_bits(size, self.codec.bits, self.ranges)
        first, second = {
            "ideal": (0, 0),
            "split": (signs, modulus),
            "single": (signs + modulus, 0),
            "sign": (signs, 0),
            "sparse": (sparse_packet_bits(self.layout.size, self.kept_values), 0),
            "analog": (self.layout.size, 0),
            "ladder": (HEADER_BITS + int(self.ladder.fixed or size) if scheme.uplink == "ladder" else 0, 0),
            "codec": (HEADER_BITS + (scheme.codec.bits(size) if scheme.codec else 0), 0),
        }[scheme.uplink]
        return first + (self._side_bits if self.in_packet and first and scheme.uplink != "analog" else 0), second

    @cached_property
    def segments(self) -> tuple[int, int]:
        """Segments of the first and of the second packet, as `link_bits` counts them."""
        whole = self.scheme.uplink in ("ideal", "analog")
        first, second = (1 if whole else int(self.cut.count(bits)) for bits in self.link_bits)
        return first, second

    @property
    def most_segments(self) -> int:
        """Segments of the longest first packet that may be granted."""
        return int(self.ladder.segments(self.ladder.rungs[-1])) if self.scheme.grants_bits else self.segments[0]

    @property
    def parity(self) -> int:
        """Parity segments of the first packet."""
        return 0 if self.scheme.uplink in ("ideal", "analog", "sparse") else self.cut.parity

    @cached_property
    def packet_bits(self) -> tuple[int, int]:
        """Bits of the first and of the second packet on the link, with what their segments add.

        Segments that are of use alone all carry the side information that is in the packet, parity too.
        """
        side = self._side_bits if self.in_packet and self.cut.alone and self.scheme.uplink != "sparse" else 0
        ranges = RANGE_BITS * self.ranges
        repeated = {"split": (side, ranges), "single": (side + ranges, 0)}.get(self.scheme.uplink, (side, 0))
        first, second = (
            bits + int(segment_overhead(count, more))
            for bits, count, more in zip(self.link_bits, self.segments, repeated, strict=True)
        )
        return first + parity_overhead(self.link_bits[0], self.segments[0], self.parity) + self.parity * side, second

    @property
    def side_bits(self) -> int:
        """Bits of side information that a device sends in a round over a channel of its own; 0 if in its packet."""
        if self.in_packet and self.scheme.uplink not in ("ideal", "analog"):
            return 0
        return self._side_bits + (HEADER_BITS if self.lossy else 0)

    @cached_property
    def _side_bits(self) -> int:
        """n_k and five float32 (||v||^2, ||vbar||^2, <v, vbar>, delta^2, loss); and where a mean modulus may stand in
        for what is not sent or not received, or scales a vote, one float32 a tensor or rotated block (one in all with
        `one_mean`); the output bias; and running statistics.
        """
        scheme = self.scheme
        stands_in = scheme.uplink in ("split", "sign") and scheme.compensation != "zero"
        scales = 1 if scheme.one_mean else len(self.packets.names)
        told = stands_in or scheme.rule == "vote" or scheme.uplink == "ladder"
        return SCALAR_BITS * (6 + (scales if told else 0) + self.packing.output_biases + self.statistics)

    def payload_bits(self, allocation: AllocationResult) -> int:
        """Bits that all devices with bandwidth send in a round, every attempt counted; float32 on the ideal uplink.

        A split that leaves the modulus packet no bandwidth or no power (rho or alpha = 1) sends none.
        """
        scheduled = allocation.beta > 0
        if self.scheme.uplink == "ideal":
            return SCALAR_BITS * self.layout.size * int(scheduled.sum())
        if allocation.bits is not None:
            return int(self.ladder.load(allocation.bits)[scheduled].sum())
        first, second = self.packet_bits
        both = scheduled & (allocation.rho < 1) & (allocation.alpha < 1)
        return self.scheme.attempts * (first * int(scheduled.sum()) + second * int(both.sum()))

    def received_bits(self, allocation: AllocationResult, outcome: Outcome) -> int:
        """Bits of the packets (or their segments) that arrived, each counted once; as `payload_bits` counts them."""
        if self.scheme.uplink == "ideal":
            return SCALAR_BITS * self.layout.size * int(outcome.sign.sum())
        if allocation.bits is not None:
            came = outcome.sign.astype(np.float64)
            if outcome.sign_segments is not None:
                came = outcome.sign_segments.sum(1) / self.ladder.segments(allocation.bits)
            return round(float(self.ladder.load(allocation.bits) @ came))
        first, second = self.packet_bits
        if outcome.sign_segments is None or outcome.modulus_segments is None:
            return first * int(outcome.sign.sum()) + second * int(outcome.modulus.sum())
        signs, moduli = outcome.sign_segments.mean(1).sum(), outcome.modulus_segments.mean(1).sum()
        return round(first * float(signs) + second * float(moduli))
