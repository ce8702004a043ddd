"""Compiled loops under the codec: signs and moduli to packed bits and back (model.md, section 2).

Each is one pass over memory, a block of elements at a time, so that dither, codes and packing never leave the cache.
Arrays are contiguous and already checked: callers are in `packets.codec`. Float32 values travel as bit patterns where
only sign, order or finiteness matters: the patterns of moduli order like the moduli, denormals included.
"""

from __future__ import annotations

import math

import numpy as np

from spfl.compiled import CACHE, njit

BLOCK = 2048  # a multiple of 8; the work arrays stay in the L1 cache
SIGN_BIT = np.uint32(0x80000000)
MODULUS = np.uint32(0x7FFFFFFF)
INFINITY = np.uint32(0x7F800000)  # the patterns of NaN are larger
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=CACHE, nogil=True)
def _dither(key, index):  # type: ignore[no-untyped-def]
    """Uniform on [0, 1), 53 bits: output `index` of the public-domain SplitMix64 seeded with `key`."""
    z = key + np.uint64(index + 1) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64(np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(11))) * 2.0**-53


@njit(cache=CACHE, nogil=True)
def _pack(codes, bits, packed):  # type: ignore[no-untyped-def]
    """Codes, padded with zeros to a multiple of 8, to bits; eight codes fill `bits` bytes, the last group fewer."""
    at = 0
    for group in range(0, codes.size, 8):
        word = np.uint64(0)
        for k in range(8):
            word |= np.uint64(codes[group + k]) << np.uint64(k * bits)
        for k in range(min(bits, packed.size - at)):
            packed[at + k] = np.uint8(word >> np.uint64(8 * k))
        at += bits


@njit(cache=CACHE, nogil=True)
def _unpack(packed, bits, codes):  # type: ignore[no-untyped-def]
    """Inverse of `_pack`; fills `codes`, whose length is a multiple of 8."""
    mask = np.uint64((1 << bits) - 1)
    at = 0
    for group in range(0, codes.size, 8):
        word = np.uint64(0)
        for k in range(min(bits, packed.size - at)):
            word |= np.uint64(packed[at + k]) << np.uint64(8 * k)
        for k in range(8):
            codes[group + k] = np.uint8((word >> np.uint64(k * bits)) & mask)
        at += bits


@njit(cache=CACHE, nogil=True)
def _padded(size):  # type: ignore[no-untyped-def]
    return (size + 7) // 8 * 8


@njit(cache=CACHE, nogil=True)
def pack_signs(patterns, packed):  # type: ignore[no-untyped-def]
    """Pack the signs of float32 bit patterns; False when one is not finite."""
    codes = np.empty(BLOCK, np.uint8)
    largest = np.uint32(0)
    for start in range(0, patterns.size, BLOCK):
        block = patterns[start : start + BLOCK]
        for i in range(block.size):
            codes[i] = block[i] > SIGN_BIT  # negative, and not the negative zero
            largest = max(largest, block[i] & MODULUS)
        length = _padded(block.size)
        codes[block.size : length] = 0
        _pack(codes[:length], 1, packed[start // 8 :])
    return largest < INFINITY


@njit(cache=CACHE, nogil=True)
def unpack_signs(packed, out):  # type: ignore[no-untyped-def]
    codes = np.empty(BLOCK, np.uint8)
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        _unpack(packed[start // 8 :], 1, codes[: _padded(block.size)])
        for i in range(block.size):
            block[i] = np.float32(1 - 2 * np.int32(codes[i]))


@njit(cache=CACHE, nogil=True)
def find_ranges(patterns, edges, ranges):  # type: ignore[no-untyped-def]
    """Least and largest modulus of each range, as bit patterns, which order like the moduli; False if not finite."""
    largest = np.uint32(0)
    for r in range(edges.size - 1):
        block = patterns[edges[r] : edges[r + 1]]
        low, high = MODULUS, np.uint32(0)
        for i in range(block.size):
            modulus = block[i] & MODULUS
            low = min(low, modulus)
            high = max(high, modulus)
        ranges[r, 0], ranges[r, 1] = min(low, high), high  # an empty range is (0, 0)
        largest = max(largest, high)
    return largest < INFINITY


@njit(cache=CACHE, nogil=True, fastmath={"reassoc"})
def _sum(values):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(values.size):
        total += np.float64(values[i])
    return total


@njit(cache=CACHE, nogil=True, error_model="numpy")
def _quantise_run(values, first, key, low, width, top, codes, noise):  # type: ignore[no-untyped-def]
    """Codes of a run of elements of one range, and f (1 - f) of each; all in float64, where nothing overflows."""
    for i in range(values.size):
        position = (np.float64(abs(values[i])) - low) / width * top
        whole = math.floor(position)
        f = position - whole
        codes[i] = np.uint8(np.int32(whole) + np.int32(_dither(key, first + i) < f))
        noise[i] = f * (1.0 - f)


@njit(cache=CACHE, nogil=True, error_model="numpy")
def quantise(values, bits, edges, ranges, key, packed):  # type: ignore[no-untyped-def]
    """Quantise and pack; returns delta^2, the sum over elements of f (1 - f) step^2."""
    codes, noise = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.float64)
    top = np.float64((1 << bits) - 1)
    delta2 = 0.0
    r = 0
    for start in range(0, values.size, BLOCK):
        stop = min(start + BLOCK, values.size)
        at = start
        while at < stop:
            while edges[r + 1] <= at:
                r += 1
            end = min(stop, edges[r + 1])
            low = np.float64(ranges[r, 0])
            width = np.float64(ranges[r, 1]) - low
            here = slice(at - start, end - start)
            _quantise_run(values[at:end], at, key, low, width if width > 0 else 1.0, top, codes[here], noise[here])
            delta2 += (width / top) ** 2 * _sum(noise[here])
            at = end
        length = _padded(stop - start)
        codes[stop - start : length] = 0
        _pack(codes[:length], bits, packed[start // 8 * bits :])
    return delta2


@njit(cache=CACHE, nogil=True, error_model="numpy")
def dequantise(packed, bits, edges, ranges, out):  # type: ignore[no-untyped-def]
    codes = np.empty(BLOCK, np.uint8)
    top = np.float64((1 << bits) - 1)
    r = 0
    for start in range(0, out.size, BLOCK):
        stop = min(start + BLOCK, out.size)
        _unpack(packed[start // 8 * bits :], bits, codes[: _padded(stop - start)])
        at = start
        while at < stop:
            while edges[r + 1] <= at:
                r += 1
            end = min(stop, edges[r + 1])
            low = np.float64(ranges[r, 0])
            step = (np.float64(ranges[r, 1]) - low) / top
            for i in range(at, end):
                out[i] = np.float32(low + step * np.float64(codes[i - start]))
            at = end


@njit(cache=CACHE, nogil=True)
def segment_means(values, edges, means):  # type: ignore[no-untyped-def]
    for t in range(means.size):
        if edges[t + 1] > edges[t]:
            means[t] = _sum(values[edges[t] : edges[t + 1]]) / (edges[t + 1] - edges[t])


@njit(cache=CACHE, nogil=True, fastmath={"reassoc", "contract"})
def moments(gradient, vbar):  # type: ignore[no-untyped-def]
    v2, vbar2, v_vbar = 0.0, 0.0, 0.0
    for i in range(gradient.size):
        v, mean = np.float64(abs(gradient[i])), np.float64(vbar[i])
        v2 += v * v
        vbar2 += mean * mean
        v_vbar += v * mean
    return v2, vbar2, v_vbar
