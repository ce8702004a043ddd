"""The broadcast of the model, which a device may miss: it then trains on the last one it received, or sits out.

Who hears is a function of (seed, round) alone. The server's memory holds the old models that are still trained on.
Axis vocabulary: `device`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spfl.arrays import Bools, Floats, Indices, State, Vector
from spfl.radio.outage import outage_exponent
from spfl.rng import Purpose, server_stream

PREFIX = "downlink/model/"  # + the round whose broadcast it was


@dataclass(frozen=True)
class Broadcast:
    """What the base station sends to all: `bits` in tau over the whole bandwidth; the noise is that of a device."""

    bits: float
    bandwidth_hz: float
    tau_s: float
    power_w: float
    noise_w_per_hz: float


def misses(sent: Broadcast, gain: Floats, seed: int, round_: int) -> Bools:
    """Who misses the broadcast, (device,): its outage at these mean gains, linear, under a Rayleigh fade."""
    with np.errstate(divide="ignore"):
        noise = sent.noise_w_per_hz * sent.bandwidth_hz / (sent.power_w * gain)
    x = outage_exponent(sent.bits / (sent.bandwidth_hz * sent.tau_s), 1.0, 1.0, noise)
    fade = server_stream(seed, round_, Purpose.DOWNLINK).exponential(size=gain.size)
    return np.asarray(fade < x)


class LastHeard:
    """The round whose broadcast each device received last, (device,); 1 if none: the initial model is known to all.

    `missed(round)` tells who misses a broadcast, (device,). What is remembered saves time only.
    """

    def __init__(self, devices: int, missed: Callable[[int], Bools]) -> None:
        self._missed, self._start = missed, np.ones(devices, np.int64)
        self._at: tuple[int, Indices] = (1, self._start)

    def at(self, round_: int) -> Indices:
        """After the broadcast of a round = 1, 2, ..."""
        begin, last = self._at if self._at[0] <= round_ else (1, self._start)
        for t in range(begin + 1, round_ + 1):
            last = np.where(self._missed(t), last, t)
        self._at = (round_, last)
        return last


def keep_models(memory: State, last_heard: Indices, round_: int, weights: Vector) -> State:
    """The memory after a round: the models that devices received last, of this round's broadcast `weights` or older."""
    needed = {int(t) for t in last_heard}
    kept = {name: value for name, value in memory.items() if not name.startswith(PREFIX)}
    old = {f"{PREFIX}{t}": memory[f"{PREFIX}{t}"] for t in sorted(needed) if f"{PREFIX}{t}" in memory}
    return kept | old | ({f"{PREFIX}{round_}": weights} if round_ in needed else {})


def model_heard(memory: State, last_heard: int, round_: int, weights: Vector) -> Vector:
    """The model that a device trains on in a round, (dim,): the broadcast, or an old one from the memory."""
    return weights if last_heard == round_ else memory[f"{PREFIX}{last_heard}"]
