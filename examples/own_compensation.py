"""Bring your own compensatory modulus, what stands in for lost ones. `python examples/own_compensation.py`"""

import numpy as np

import spfl


def capped(state, device, tensor_means, layout):
    """The last update's moduli, and nowhere more than twice the device's own mean."""
    mean = layout.expand(tensor_means)
    return np.minimum(state.get("compensation/mine", mean), 2 * mean)


def remember(state, received, update):
    return state | {"compensation/mine": np.abs(update)} if update.any() else state


rule = spfl.CompensationRule("capped", capped, remember)
run = spfl.run("configs/demo.toml", scheme="sp_fl", compensation=rule, overrides={"training.rounds": 30})
print(run)
