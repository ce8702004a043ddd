"""Compiled loops under the peaks of a ladder: groups to digits, and back (`packets.peaks` has the rules)."""

from __future__ import annotations

import numpy as np

from spfl.compiled import CACHE, njit
from spfl.packets.ladder_kernels import cells_of


@njit(cache=CACHE, nogil=True)
def write_digits(vector, spread, edges, order, group, out):  # type: ignore[no-untyped-def]
    """Signs, three planes of the magnitude and the matches of each group, uint8 (5, dim), in the mixed order."""
    block = order.size
    mixed, modulus, cells = np.empty(block, np.float32), np.empty(block, np.float32), np.empty(block, np.float32)
    left = np.empty(group, np.float32)
    for b in range(spread.size):
        start = b * block
        x = vector[start : start + block]
        for i in range(block):
            mixed[i] = x[order[i]]
        cells_of(mixed, spread[b], edges, modulus, cells)
        for i in range(block):
            cell = np.uint8(np.int32(cells[i]))
            out[0, start + i] = np.uint8(mixed[i] < 0)
            out[1, start + i] = cell >> 2 & 1
            out[2, start + i] = cell >> 1 & 1
            out[3, start + i] = cell & 1
        for first in range(start, start + block, group):
            for i in range(group):
                left[i] = np.abs(mixed[first - start + i])
            half = group // 2
            out[4, first] = 0
            while half > 0:
                won = out[4, first + half : first + 2 * half]
                for i in range(half):
                    won[i] = np.uint8(left[2 * i + 1] > left[2 * i])
                for i in range(half):
                    left[i] = max(left[2 * i], left[2 * i + 1])
                half //= 2


@njit(cache=CACHE, nogil=True)
def read_groups(digits, scale, order, rows, told, out):  # type: ignore[no-untyped-def]
    """E[x | code] times the scale of the block, float32 (dim,), for groups `rows` = (first, count) on, cyclically.

    `told` = (coordinates of a group, planes, peak, values) of their grade. Other coordinates stay as they are.
    """
    group, planes, peak, values = told
    block, groups = order.size, out.size // group
    for g in range(rows[0], rows[0] + rows[1]):
        start = g % groups * group
        b = start // block
        inside, here = order[start - b * block : start - b * block + group], out[b * block : (b + 1) * block]
        for i in range(group):
            value = np.float32(0)
            if peak == 1 and planes > 0:
                cell = 0
                for plane in range(1, planes):
                    cell = 2 * cell + digits[plane, start + i]
                value = values[cell] * scale[b]
            elif planes > 0:
                value = values[1] * scale[b]
            here[inside[i]] = -value if digits[0, start + i] else value
        if peak > 1:
            for final in range(group // peak, 2 * group // peak):
                match = final
                while match < group:
                    match = 2 * match + digits[4, start + match]
                top = values[0] * scale[b]
                here[inside[match - group]] = -top if digits[0, start + match - group] else top
