"""Bring your own partition: here, most devices are small and a few are large. `python examples/own_partition.py`"""

import numpy as np

import spfl


def long_tail(labels, devices, rng):
    """Device k gets a share of the samples in proportion to 1 / (k + 1)."""
    shares = 1 / np.arange(1, devices + 1)
    cuts = np.cumsum(shares / shares.sum())[:-1] * len(labels)
    return np.split(rng.permutation(len(labels)), cuts.astype(int))


run = spfl.run("configs/demo.toml", partition=long_tail, scheme="sp_fl_plus", overrides={"training.rounds": 30})
print(run)
