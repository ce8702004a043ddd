"""The codec and the rotation for many devices at once, in PyTorch, on any device: rows are devices.

The rules are those of `codec`, `quantiser` and `rotation` beside it, and so are the bits: the dither is the same
counter-based generator in 64-bit integers, packed payloads equal the payloads of packets byte for byte, and the
butterflies add the same pairs. Only sums over elements may differ, in their last bits. Headers and CRCs are the link's
matter: nothing is damaged on its way here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

GOLDEN = 0x9E3779B97F4A7C15
MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def signed(value: int) -> int:
    """An unsigned 64-bit number as torch's int64 holds it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical: zeros come in from the left."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def dither(keys: torch.Tensor, size: int) -> torch.Tensor:
    """Uniform on [0, 1), 53 bits, float64 (device, size): SplitMix64 seeded with int64 `keys` (device,)."""
    index = torch.arange(1, size + 1, device=keys.device, dtype=torch.int64)
    z = keys[:, None] + index * signed(GOLDEN)
    z = (z ^ _shift_right(z, 30)) * signed(MIX[0])
    z = (z ^ _shift_right(z, 27)) * signed(MIX[1])
    return _shift_right(z ^ _shift_right(z, 31), 11).double() * 2.0**-53


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (device, size) below 2^bits to bytes (device, ceil(size * bits / 8)): eight codes fill `bits` bytes."""
    size = codes.shape[1]
    groups = F.pad(codes.long(), (0, -size % 8)).view(len(codes), -1, 8)
    places = torch.arange(8, device=codes.device)
    words = (groups << (places * bits)).sum(2, keepdim=True)
    out = (words >> (8 * places[:bits])) & 0xFF
    return out.to(torch.uint8).view(len(codes), -1)[:, : -(-size * bits // 8)]


def unpack(packed: torch.Tensor, bits: int, size: int) -> torch.Tensor:
    """Inverse of `pack`: int64 (device, size)."""
    full = F.pad(packed, (0, -(-size // 8) * bits - packed.shape[1])).view(len(packed), -1, bits).long()
    places = torch.arange(8, device=packed.device)
    words = (full << (8 * places[:bits])).sum(2, keepdim=True)
    return ((words >> (places * bits)) & ((1 << bits) - 1)).view(len(packed), -1)[:, :size]


def signs(packed: torch.Tensor, size: int) -> torch.Tensor:
    """Packed signs to +-1, float32 (device, size)."""
    return 1.0 - 2.0 * unpack(packed, 1, size).float()


class Ranges:
    """Ranges of the quantiser over a vector: `sizes` elements each, one value a range spread over its elements."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self._equal = len(set(self.sizes)) == 1

    def reduce(self, values: torch.Tensor, how: str) -> torch.Tensor:
        """`how` is a method of tensors with a `dim`, such as amin: (device, size) to (device, range)."""
        if self._equal:
            whole: torch.Tensor = getattr(values.view(len(values), len(self.sizes), -1), how)(2)
            return whole
        parts = values.split(self.sizes, 1)
        zero = values.new_zeros(len(values))
        return torch.stack([getattr(part, how)(1) if part.shape[1] else zero for part in parts], 1)

    def spread(self, per_range: torch.Tensor) -> torch.Tensor:
        """(device, range) to (device, size)."""
        if self._equal:
            return per_range.repeat_interleave(self.sizes[0], 1)
        return per_range.repeat_interleave(torch.tensor(self.sizes, device=per_range.device), 1)


def quantise(
    values: torch.Tensor, bits: int, ranges: Ranges, keys: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed moduli, limits (device, range, 2) float32, and delta^2 (device,) float64 of values (device, size)."""
    modulus = values.abs()
    limits = torch.stack([ranges.reduce(modulus, "amin"), ranges.reduce(modulus, "amax")], 2)
    low, width, top = limits[..., 0].double(), (limits[..., 1].double() - limits[..., 0].double()), float(2**bits - 1)
    position = (modulus.double() - ranges.spread(low)) / ranges.spread(torch.where(width > 0, width, 1.0)) * top
    whole = position.floor()
    fraction = position - whole
    codes = whole.long() + (dither(keys, values.shape[1]) < fraction)
    noise = ranges.reduce(fraction * (1.0 - fraction), "sum")
    return pack(codes, bits), limits, ((width / top) ** 2 * noise).sum(1)


def dequantise(packed: torch.Tensor, bits: int, ranges: Ranges, limits: torch.Tensor) -> torch.Tensor:
    """Quantised moduli, float32 (device, size)."""
    low, high = limits[..., 0].double(), limits[..., 1].double()
    step = (high - low) / float(2**bits - 1)
    return (ranges.spread(low) + ranges.spread(step) * unpack(packed, bits, sum(ranges.sizes)).double()).float()


def random_signs(streams: torch.Tensor, size: int) -> torch.Tensor:
    """+-1, float32 (device, size), from the bytes of the devices' streams, uint8 (device, ceil(size / 8))."""
    places = torch.arange(7, -1, -1, device=streams.device)
    bits = (streams[:, :, None] >> places) & 1
    return bits.view(len(streams), -1)[:, :size].float() * 2.0 - 1.0


def hadamard(values: torch.Tensor, block: int) -> torch.Tensor:
    """Orthonormal Walsh-Hadamard transform of every block of (device, size); its own inverse."""
    half, out = 1, values
    while half < block:
        pairs = out.view(len(out), -1, 2, half)
        out = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2)
        half *= 2
    whole: torch.Tensor = out.reshape(values.shape) * (1.0 / block**0.5)
    return whole
