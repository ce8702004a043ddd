"""Bits of codes that flip on the way: signs change, and the codes of moduli (radio/uncoded.py).

Headers, ranges of quantisers and checksums are side information: they arrive as they were sent, in a code of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spfl.packets.codec import flip_codes
from spfl.radio.outage import Outcome
from spfl.rng import Purpose, stream
from spfl.uplink.upload import Upload


def with_bit_errors(uploads: Sequence[Upload], outcome: Outcome, round_: int, seed: int) -> Sequence[Upload]:
    """The uploads as the server receives them; one stream a device and round, the signs first."""
    if outcome.bit_errors is None:
        return uploads
    return [
        _flipped(upload, outcome.bit_errors[:, k].tolist(), stream(seed, round_, upload.device, Purpose.BIT_ERRORS))
        for k, upload in enumerate(uploads)
    ]


def _flipped(upload: Upload, rates: Sequence[float], rng: np.random.Generator) -> Upload:
    """Where both packets travel as one, both have the rate of the first."""
    first, second = rates
    return replace(
        upload,
        sign_packet=flip_codes(upload.sign_packet, first, rng),
        modulus_packet=flip_codes(upload.modulus_packet, second, rng),
    )
