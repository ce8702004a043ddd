"""The wireless uplink: cell geometry, outage, and which packets arrive (model.md, section 3).

All powers are in watt, bandwidths in hertz, gains and gaps linear. Axis vocabulary: `device`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spfl.arrays import Bools, Floats
from spfl.compiled import CACHE, njit, vectorize
from spfl.rng import Purpose, server_stream

Multiplex = Literal["orthogonal", "superposed"]
Fading = Literal["block", "independent", "selective"]
PacketShares = tuple[Floats, Floats, Floats]  # beta, alpha, rho of each device, (device,) each
PacketFades = tuple[Floats, Floats]  # |h|^2 of sign and modulus packet, (device,) or as the link's law takes them

LN2 = math.log(2.0)
MAX_LOG = 709.0  # exp of more overflows float64


@dataclass(frozen=True)
class Link:
    """What the server knows of the uplink of K devices before a round: long-term statistics, no fades.

    Scalars given for arrays are broadcast to (device,). A packet of 0 bits always arrives, so `modulus_bits = 0,
    rho = 1` is the conventional single packet (model.md, section 3).

    Args:
        bandwidth_hz: Bandwidth B that all devices share, in Hz.
        noise_w_per_hz: Noise density N_0, in W/Hz.
        power_w: Transmit power P of each device, in W, (device,).
        gain: Mean power gain zeta of each device, linear, (device,).
        tau_s: Time for the uplink of a round, in s, (device,).
        sign_bits: L_s, bits of the sign packet with its header, (device,).
        modulus_bits: L_m, bits of the modulus packet with its header, (device,).
        snr_gap: Gamma >= 1, linear: how much more SNR a code needs than capacity says.
        fading: `block`: one fade for both packets. `independent`: one each. `selective`: one for each subband.
        rho: Share of a device's bandwidth for its sign packet, (device,); None takes L_s / (L_s + L_m), at which the
            conventional scheme is a feasible point.
        gap_slope: g of a gap that grows with the rate r in bit/s/Hz: Gamma(r) = snr_gap exp(g r).
        law: Success where the closed form does not hold (`spfl.radio.selective`). The allocator uses the closed form
            all the same.
        multiplex: `orthogonal`: each packet in bandwidth of its own. `superposed`: both in all of the device's at
            once, the signs decoded first and then cancelled; `rho` then means nothing.
        phase_error_rad: Standard deviation of the phase at which a device's inverted channel arrives, in rad; of
            analogue uplinks only.

    Raises:
        ValueError: A value is outside its range, or a shape does not broadcast.
    """

    bandwidth_hz: float
    noise_w_per_hz: float
    power_w: Floats
    gain: Floats
    tau_s: Floats
    sign_bits: Floats
    modulus_bits: Floats
    snr_gap: float = 1.0
    fading: Fading = "block"
    rho: Floats | None = None
    gap_slope: float = 0.0
    law: Law | None = None
    multiplex: Multiplex = "orthogonal"
    phase_error_rad: float = 0.0

    def __post_init__(self) -> None:
        shape = np.shape(self.gain)
        rho = self.proportional_rho() if self.rho is None else self.rho
        values = {"power_w": self.power_w, "gain": self.gain, "tau_s": self.tau_s, "rho": rho}
        values |= {"sign_bits": self.sign_bits, "modulus_bits": self.modulus_bits}
        for name, value in values.items():
            array = np.broadcast_to(np.asarray(value, np.float64), shape)
            if not (np.isfinite(array).all() and (array >= 0).all()):
                raise ValueError(f"{name} must be finite and >= 0, got {value}")
            object.__setattr__(self, name, array)
        if (self.split > 1).any():
            raise ValueError(f"rho must lie in [0, 1], got {self.rho}")
        least_gap = 1.0 if self.law is None else 0.0  # with a law, the gap is of the allocator's approximation
        least = {"bandwidth_hz": 0.0, "noise_w_per_hz": 0.0, "snr_gap": least_gap}
        least |= {"gap_slope": 0.0, "phase_error_rad": 0.0}
        for name, bound in least.items():
            value, open_ = getattr(self, name), name in ("bandwidth_hz", "noise_w_per_hz")
            if not (math.isfinite(value) and (value > bound if open_ else value >= bound)):
                raise ValueError(f"{name} must be finite and {'>' if open_ else '>='} {bound:g}, got {value}")
        if self.fading not in ("block", "independent", "selective"):
            raise ValueError(f"fading must be 'block', 'independent' or 'selective', got {self.fading!r}")
        if self.multiplex not in ("orthogonal", "superposed"):
            raise ValueError(f"multiplex must be 'orthogonal' or 'superposed', got {self.multiplex!r}")
        if self.superposed and (self.fading != "block" or self.law is not None):
            raise ValueError(
                "multiplex = 'superposed' needs fading = 'block' and no law of its own: the same bandwidth, one fade"
            )

    @property
    def superposed(self) -> bool:
        """Whether both packets of a device use all of its bandwidth at once."""
        return self.multiplex == "superposed"

    def proportional_rho(self) -> Floats:
        """L_s / (L_s + L_m), shape (device,)."""
        sign, modulus = np.asarray(self.sign_bits, np.float64), np.asarray(self.modulus_bits, np.float64)
        return np.asarray(sign / np.maximum(sign + modulus, 1.0))

    @property
    def split(self) -> Floats:
        """rho as an array of shape (device,), whatever was given."""
        assert self.rho is not None  # __post_init__ filled it in
        return self.rho

    @property
    def size(self) -> int:
        """Number of devices K."""
        return int(np.size(self.gain))

    @property
    def noise_to_signal(self) -> Floats:
        """Gamma B N_0 / (P zeta): the outage exponent's scale with the whole bandwidth and power, (device,)."""
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray(self.snr_gap * self.bandwidth_hz * self.noise_w_per_hz / (self.power_w * self.gain))

    @property
    def sign_load(self) -> Floats:
        """L_s / (B tau): spectral efficiency of a sign packet that has the whole bandwidth, bit/s/Hz, (device,)."""
        return _load(self.sign_bits, self.bandwidth_hz * self.tau_s)

    @property
    def modulus_load(self) -> Floats:
        """L_m / (B tau) in bit/s/Hz, shape (device,)."""
        return _load(self.modulus_bits, self.bandwidth_hz * self.tau_s)


def _load(bits: Floats, symbols: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bits > 0, bits / symbols, 0.0)


@njit(cache=CACHE, nogil=True)
def outage_exponent_scalar(
    load: float, bandwidth: float, power: float, noise_to_signal: float, gap_slope: float = 0.0
) -> float:
    """x of model.md, section 3, with Pr[success] = exp(-x): one packet in these parts of bandwidth and power.

    x = noise_to_signal * bandwidth / power * (2^r - 1) exp(gap_slope r) with r = load / bandwidth, in logarithms: any
    finite input gives a finite x or inf, never NaN. `load` is L / (B tau) in bit/s/Hz. An empty packet gives 0.
    """
    if load <= 0.0:
        return 0.0
    if bandwidth <= 0.0 or power <= 0.0 or not noise_to_signal < math.inf:
        return math.inf
    if load >= 1e300 * bandwidth:  # before load / bandwidth can overflow
        return math.inf
    if noise_to_signal <= 0.0:
        return 0.0
    y = load / bandwidth * LN2
    if y < 1e-12:  # 2^r - 1 -> r ln 2
        log_growth = math.log(load) + math.log(LN2) - math.log(bandwidth)
    else:
        log_growth = y + math.log(-math.expm1(-y))
    log_x = (
        math.log(noise_to_signal) + math.log(bandwidth) - math.log(power) + log_growth + gap_slope * (load / bandwidth)
    )
    return math.exp(log_x) if log_x < MAX_LOG else math.inf


@vectorize(cache=CACHE)
def _outage_exponent(load, bandwidth, power, noise_to_signal, gap_slope):  # type: ignore[no-untyped-def]
    return outage_exponent_scalar(load, bandwidth, power, noise_to_signal, gap_slope)


def outage_exponent(
    load: ArrayLike, bandwidth: ArrayLike, power: ArrayLike, noise_to_signal: ArrayLike, gap_slope: ArrayLike = 0.0
) -> Floats:
    """`outage_exponent_scalar` over arrays that broadcast."""
    x: Floats = _outage_exponent(load, bandwidth, power, noise_to_signal, gap_slope)
    return x


@dataclass(frozen=True)
class Success:
    """Outage exponents and success probabilities, shape (device,): q_s of the sign packet, r_m = Pr[modulus | sign]."""

    x_s: Floats
    x_m: Floats
    q_s: Floats
    r_m: Floats


def success(link: Link, beta: ArrayLike, alpha: ArrayLike, rho: ArrayLike | None = None) -> Success:
    """Success probabilities of an allocation (model.md, section 3).

    Args:
        link: The uplink of K devices.
        beta: Share of the bandwidth, broadcast to (device,).
        alpha: Share of a device's power for its sign packet, likewise.
        rho: Share of a device's bandwidth for its sign packet, likewise; the link's when None.

    Returns:
        Outage exponents x_s, x_m and probabilities q_s, r_m, (device,) each.
    """
    share, sign_power = np.asarray(beta, np.float64), np.asarray(alpha, np.float64)
    if link.superposed:
        x_s, x_m = _superposed_exponents(link, share, sign_power)
        return Success(x_s, x_m, np.exp(-x_s), conditional_modulus_success(x_s, x_m, link.fading))
    split = link.split if rho is None else np.asarray(rho, np.float64)
    noise = link.noise_to_signal
    x_s = outage_exponent(link.sign_load, split * share, sign_power, noise, link.gap_slope)
    x_m = outage_exponent(link.modulus_load, (1 - split) * share, 1 - sign_power, noise, link.gap_slope)
    return Success(x_s, x_m, np.exp(-x_s), conditional_modulus_success(x_s, x_m, link.fading))


def needed_sinr(link: Link, beta: ArrayLike) -> Floats:
    """The SINR at which superposed signs are decoded in shares `beta` of the bandwidth, Gamma (2^r - 1), (device,)."""
    share = np.asarray(beta, np.float64)
    return outage_exponent(link.sign_load, share, share, link.snr_gap, link.gap_slope)


def effective_power(link: Link, beta: ArrayLike, alpha: ArrayLike) -> Floats:
    """alpha - (1 - alpha) gamma, (device,): what superposed signs have left after the moduli that disturb them."""
    power = np.asarray(alpha, np.float64)
    disturbed = np.where(power < 1.0, (1.0 - power) * np.minimum(needed_sinr(link, beta), 1e300), 0.0)
    return np.asarray(power - disturbed)


def sent_power(link: Link, beta: ArrayLike, effective: ArrayLike) -> Floats:
    """The inverse of `effective_power`: alpha, (device,)."""
    gamma = np.minimum(needed_sinr(link, beta), 1e300)
    return np.asarray((np.asarray(effective, np.float64) + gamma) / (1.0 + gamma))


def _superposed_exponents(link: Link, beta: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    """Outage exponents (x_s, x_m) of superposed packets: the signs first, with the moduli as noise, then the moduli."""
    left, noise = np.maximum(effective_power(link, beta, alpha), 0.0), link.noise_to_signal
    x_s = outage_exponent(link.sign_load, beta, left, noise, link.gap_slope)
    return x_s, outage_exponent(link.modulus_load, beta, 1.0 - alpha, noise, link.gap_slope)


def conditional_modulus_success(x_s: Floats, x_m: Floats, fading: Fading) -> Floats:
    """r_m = Pr[modulus | sign]: nested events under block fading, exp(-x_m) under independent fading."""
    if fading != "block":
        return np.exp(-x_m)
    with np.errstate(invalid="ignore"):  # inf - inf: the sign never arrives either
        return np.exp(-np.maximum(np.where(np.isinf(x_m), np.inf, x_m - x_s), 0.0))


def conditional(both: Floats, first: Floats) -> Floats:
    """Pr[both] / Pr[first], (device,); 0 where the first never happens."""
    return np.divide(both, first, out=np.zeros_like(first), where=first > 0)


@dataclass(frozen=True)
class Outcome:
    """What one round's fades let through, shape (device,): sign packets, and modulus packets with their sign.

    `votes` float32 (dim,) is what an analogue uplink superposes in the air in place of packets: a sum of signs, with
    noise; None for every other uplink. Where packets are recovered segment by segment, the segments that arrived,
    (device, segment); `sign` and `modulus` then say whether any did. Where packets have no code, the rates at which
    the bits of both packets have flipped, (2, device).
    """

    sign: Bools
    modulus: Bools
    votes: NDArray[np.float32] | None = None
    sign_segments: Bools | None = None
    modulus_segments: Bools | None = None
    bit_errors: Floats | None = None


def by_segment(sign: Bools, modulus: Bools) -> Outcome:
    """What arrives where segments are recovered one by one: (device, segment) of both packets."""
    received = np.asarray(sign.any(1))
    return Outcome(received, received & np.asarray(modulus.any(1)), sign_segments=sign, modulus_segments=modulus)


class Law(Protocol):
    """Probabilities where the closed form of model.md, section 3, does not hold, and draws that have them."""

    def success(self, link: Link, beta: Floats, alpha: Floats, rho: Floats) -> Success:
        """As `success`."""

    def transmit(self, link: Link, shares: PacketShares, fades: PacketFades, rng: np.random.Generator) -> Outcome:
        """Which packets arrive. `fades`: power fades of both packets, each (device, segment, subband)."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Power fades of this shape, for one packet."""


def draw_fades(seed: int, round_: int, devices: int, fading: Fading) -> tuple[Floats, Floats]:
    """Power fades |h|^2 ~ Exp(1) of the sign and of the modulus packet, each (device,).

    They depend on (seed, round) only, so every scheme meets the same fades. Block fading: one fade for both.
    """
    sign = server_stream(seed, round_, Purpose.FADING_SIGN).exponential(size=devices)
    if fading == "block":
        return sign, sign
    return sign, server_stream(seed, round_, Purpose.FADING_MODULUS).exponential(size=devices)


def level(fade: Floats) -> Floats:
    """The mean fade of a packet, (device,): over its segments and subbands, where it has several."""
    return fade if fade.ndim == 1 else np.asarray(fade.mean(axis=tuple(range(1, fade.ndim))))


def transmit(probabilities: Success, fades: tuple[Floats, Floats]) -> Outcome:
    """Which packets arrive: a packet survives a fade of at least its outage exponent (Pr = exp(-x))."""
    sign = np.asarray(fades[0] >= probabilities.x_s)
    return Outcome(sign, sign & (fades[1] >= probabilities.x_m))
