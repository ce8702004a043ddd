"""Aggregation weights that repair an unrepresentative set of received devices, by side information from all.

Which devices are received is decided by the channel, and with few classes a device the mean over the received is then a
gradient for the wrong mixture. Every device also sends a short auxiliary vector over the control channel (here the
gradient of the output layer's bias, one float a class). Its mean over *all* devices is known, so the weights of
the received are moved, as little as possible, until their auxiliary mean agrees: the calibration estimator of survey
sampling (Deville and Sarndal 1992), with a ridge because auxiliary vectors are noisy. Where the auxiliary vector is the
device's label shares (`scheme.auxiliary = "labels"`), it has the aim of FedAuto (Wang et al. 2025, arXiv 2512.22035):
the mixture of classes among the received is to be that of all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Bools, Floats

RIDGE = 0.3  # share of the mean eigenvalue of the auxiliary covariance that is taken for noise


def calibrated_weights(
    weight: Floats,
    auxiliary: NDArray[np.floating],
    received: Bools,
    ridge: float = RIDGE,
    start: Floats | None = None,
) -> Floats:
    """Weights a_k >= 0 of the received devices, summing to one; zero for the others. Shape (device,).

    minimise  sum_k (a_k - n_k)^2 / n_k + || sum_k a_k x_k - sum_j w_j x_j ||^2 / ridge'   over the received,
    where n_k is w_k normalised over the received, x_k = auxiliary[k] of shape (device, aux), and ridge' is `ridge`
    times the mean eigenvalue of sum_k n_k x_k x_k^T; then clipped at zero and normalised. With no auxiliary
    element, or all of them zero, this is the `normalized` weight. Nobody there gives zeros. `start` (device,) takes the
    place of w_k in n_k, where vectors are known to be unequally noisy.
    """
    out = np.zeros(weight.shape)
    initial = (weight if start is None else start)[received]
    total = initial.sum()
    if total <= 0:
        return out
    near = initial / total
    x = np.asarray(auxiliary, np.float64)
    missing = weight @ x / weight.sum() - near @ x[received]
    moment = x[received].T @ (near[:, None] * x[received])
    level = float(np.trace(moment)) / max(x.shape[1], 1)
    if level > 0:
        moved = np.linalg.solve(moment + ridge * level * np.eye(x.shape[1]), missing)
        near = np.maximum(near * (1.0 + x[received] @ moved), 0.0)
    out[received] = near / near.sum() if near.sum() > 0 else initial / total
    return out
