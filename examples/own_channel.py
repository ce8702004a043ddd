"""Bring your own channel: mean gains and fades, from a model or from measurements. `python examples/own_channel.py`"""

import spfl


def gains(round_, rng):
    """Twenty devices in a corridor, 20 m apart: free-space loss at 5 GHz, linear. A fixed cell asks once."""
    return [(0.06 / (4 * 3.1416 * 20 * (k + 1))) ** 2 for k in range(20)]


def fades(round_, devices, rng):
    """Nakagami-m power fades, m = 3, mean one; the same for both packets of a device."""
    fade = rng.gamma(3.0, 1 / 3.0, devices)
    return fade, fade


run = spfl.run("configs/demo.toml", gains=gains, fades=fades, scheme="sp_fl_plus", overrides={"training.rounds": 30})
print(run)
