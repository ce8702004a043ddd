"""Bring your own scheme, and hold it to the contract.

Run it with `python examples/own_scheme.py`, test it with `pytest examples/own_scheme.py`.
"""

import numpy as np

import spfl
from spfl.testing import SchemeContract


def better_half(devices, link):
    """Equal bands for the half with the better mean gains; nine tenths of the power for signs."""
    active = (devices.weight > 0) & (link.gain >= np.median(link.gain))
    return active / max(active.sum(), 1), 0.9


MINE = spfl.Scheme("better_half", "ours", "sign and modulus packets, bandwidth for the better half", share=better_half)


class TestBetterHalf(SchemeContract):
    scheme = MINE


if __name__ == "__main__":
    print(spfl.compare("configs/demo.toml", [MINE, "single_packet"], overrides={"training.rounds": 30}))
