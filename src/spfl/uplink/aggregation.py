"""From received packets to the update: aggregation weights and the compensatory modulus (model.md, sections 4 and 5).

What both ends remember between rounds is a plain `State`, a dictionary of arrays, so that it can be written to
disk as it stands. Axis vocabulary: `dim` (parameters), `tensor` (parameter tensors), `device`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spfl.allocation.bound import Weights
from spfl.arrays import Vector


@dataclass(frozen=True)
class Contribution:
    """What the server holds of one heard device: scale w_k c_k, signs and the modulus it uses, float32 (dim,).

    `share` of it was heard: a number, or 0 and 1 by element (dim,); the signs are 0 where nothing was.
    """

    scale: float
    signs: Vector
    modulus: Vector
    share: float | Vector = 1.0


def aggregate(contributions: Iterable[Contribution], dim: int, weights: Weights) -> Vector:
    """ghat = sum_k w_k c_k s_k * modulus_k over received devices, float32 (dim,), in their order (model.md, section 4).

    Each contribution is added and forgotten, so memory does not grow with the number of devices. `normalized`
    divides by the weight that was heard: one common scale, known only after reception, or one an element where parts
    of vectors were heard. Nothing heard gives zero.
    """
    total, heard = np.zeros(dim, np.float32), np.zeros(1)
    for part in contributions:
        total += np.float32(part.scale) * (part.signs * part.modulus)
        heard = heard + part.scale * part.share
    if weights == "normalized":
        divisor = heard.astype(np.float32)
        np.divide(total, divisor, out=total, where=divisor > 0)
    return total
