"""Slow, obviously correct twins of the package's numerics: loops over elements, no shared code with `spfl`."""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, Decimal, localcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

# --- codec: packets bit by bit -----------------------------------------------------------------------------------


def dither(key: int, size: int) -> NDArray[np.float64]:
    """The first `size` outputs of SplitMix64 seeded with `key`, top 53 bits as a fraction; plain Python integers."""
    mask, values = 2**64 - 1, []
    for i in range(size):
        z = (key + (i + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        values.append(((z ^ (z >> 31)) >> 11) / 2**53)
    return np.array(values)


def pack_codes(codes: NDArray[np.integer], bits: int) -> bytes:
    """Codes of `bits` bits, least significant bit first, padded with zeros to a byte."""
    one_bit_a_row = np.array([[int(code) >> k & 1 for k in range(bits)] for code in codes], np.uint8)
    return np.packbits(one_bit_a_row.ravel(), bitorder="little").tobytes()


def quantise(
    gradient: NDArray[np.float32], bits: int, edges: Sequence[int], uniform: NDArray[np.float64]
) -> tuple[list[int], list[tuple[np.float32, np.float32]], list[np.float32], float]:
    """Codes, ranges, decoded moduli and delta^2, an element at a time; range r is elements edges[r] .. edges[r + 1]."""
    top = 2**bits - 1
    codes, ranges, decoded, delta2 = [], [], [], 0.0
    for first, last in pairwise(edges):
        v = np.abs(gradient[first:last])
        low, high = (v.min(), v.max()) if v.size else (np.float32(0), np.float32(0))
        width = float(high) - float(low)
        ranges.append((low, high))
        for x, u in zip(v, uniform[first:last], strict=True):
            position = (float(x) - float(low)) / width * top if width else 0.0
            f = position - math.floor(position)
            codes.append(math.floor(position) + (1 if u < f else 0))
            decoded.append(np.float32(float(low) + width / top * codes[-1]))
            delta2 += f * (1 - f) * (width / top) ** 2
    return codes, ranges, decoded, delta2


def packet(
    kind: int, bits: int, round_: int, device: int, digest: bytes, codes: Sequence[int], ranges: Sequence
) -> bytes:
    """The wire format, field by field."""
    header = b"SPFL" + bytes([1, kind]) + bits.to_bytes(2, "little")
    header += round_.to_bytes(4, "little") + device.to_bytes(4, "little")
    header += len(codes).to_bytes(8, "little") + len(ranges).to_bytes(4, "little") + digest
    body = header + np.array(ranges, "<f4").tobytes() + pack_codes(np.array(codes, np.int64), bits)
    return body + zlib.crc32(body).to_bytes(4, "little")


def sparse_packet(
    gradient: NDArray[np.float32], kept: int, round_: int, device: int, digest: bytes
) -> tuple[bytes, NDArray[np.float32]]:
    """The sparse packet field by field, and the gradient that it stands for."""
    order = sorted(range(gradient.size), key=lambda i: (-abs(float(gradient[i])), i))
    places = sorted(order[:kept])
    dense = np.array([x if i in places else 0 for i, x in enumerate(gradient)], np.float32)
    bits = math.ceil(math.log2(gradient.size))
    header = b"SPFL" + bytes([1, 3]) + bits.to_bytes(2, "little")
    header += round_.to_bytes(4, "little") + device.to_bytes(4, "little")
    header += gradient.size.to_bytes(8, "little") + kept.to_bytes(4, "little") + digest
    body = header + np.array([gradient[i] for i in places], "<f4").tobytes() + pack_codes(np.array(places), bits)
    return body + zlib.crc32(body).to_bytes(4, "little"), dense


# --- the model: link, aggregate, cost ------------------------------------------------------------------------------


def outage_exponent(load: float, band: float, power: float, noise_to_signal: float) -> float:
    """x of model.md, section 3 as it is written, in 60-digit decimals; for band and power > 0."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 60, MAX_EMAX, MIN_EMIN
        rate = Decimal(load) / Decimal(band)
        x = Decimal(noise_to_signal) * Decimal(band) / Decimal(power) * (Decimal(2) ** rate - 1)
        return float(x) if x < Decimal("1.7e308") else math.inf


def packet_arrives(
    bits: float, band_hz: float, power_w: float, gain: float, fade: float, tau_s: float, noise: float, gap: float
) -> bool:
    """Whether a packet gets through: bits <= time x bandwidth x log2(1 + SNR / gap), Shannon's formula."""
    snr = power_w * gain * fade / (noise * band_hz)
    return bits <= tau_s * band_hz * math.log2(1.0 + snr / gap)


def side_packet_arrives(bits, device, fade, cell):
    """Whether a device's floats arrive: `cell` has the bandwidth, devices, side time, power, noise, gap and gains."""
    band_hz = cell["bandwidth_hz"] / cell["devices"]
    return packet_arrives(
        bits, band_hz, cell["power_w"], cell["gain"][device], fade, cell["time_s"], cell["noise"], cell["gap"]
    )


def last_told(rounds):
    """What a server knows of each device after rounds of {device: value told, or None}: the last value, or nothing."""
    known = {}
    for told in rounds:
        for device, value in told.items():
            if value is not None:
                known[device] = value
    return known


def simulate_aggregate(
    gradients: NDArray[np.float64],
    vbar: NDArray[np.float64],
    quantised: NDArray[np.float64],
    scale: NDArray[np.float64],
    sign: NDArray[np.bool_],
    modulus: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """ghat of model.md, section 4 for n draws at once, (n, dim): sum_k scale_k C^s s (C^m Q(v) + (1 - C^m) vbar).

    gradients, vbar (device, dim); quantised (n, device, dim); scale = w c (device,); sign, modulus (n, device).
    """
    signs = np.where(gradients >= 0, 1.0, -1.0)
    used = np.where(modulus[:, :, None], quantised, vbar)
    return np.einsum("k,nk,kd,nkd->nd", scale, sign, signs, used, optimize=True)


def quantise_draws(
    gradients: NDArray[np.float64], bits: int, uniform: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Q(v) of n draws (n, device, dim), and delta^2 (device,); `uniform` (n, device, dim) is the dither."""
    v, top = np.abs(gradients), 2**bits - 1
    low = v.min(axis=1, keepdims=True)
    step = (v.max(axis=1, keepdims=True) - low) / top
    position = (v - low) / step
    f = position - np.floor(position)
    return low + step * (np.floor(position) + (uniform < f)), (f * (1 - f) * step**2).sum(axis=1)


def device_cost(
    w: float,
    v: NDArray[np.float64],
    vbar: NDArray[np.float64],
    delta2: float,
    q_s: float,
    r_m: float,
    c: float,
    theta: float,
    kappa: float,
) -> float:
    """J_k of model.md, section 6 from the vectors, summed element by element."""
    bias, second, square = 0.0, 0.0, 0.0
    for a, b in zip(v, vbar, strict=True):
        m = r_m * a + (1 - r_m) * b
        bias += (c * q_s * m - a) ** 2
        second += r_m * a * a + (1 - r_m) * b * b
        square += m * m
    variance = c * c * (q_s * (second + r_m * delta2) - q_s * q_s * square)
    return (theta * w + (1 - theta) * w * w) * bias + kappa * w * w * variance


def local_sgd(
    module: torch.nn.Module,
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    rate: float,
) -> NDArray[np.float32]:
    """(w - w^E) / rate after one step of torch's own SGD on each batch, parameters in order; changes `module`."""
    before = torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    optimiser = torch.optim.SGD(module.parameters(), lr=rate)
    for inputs, labels in batches:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), labels).backward()
        optimiser.step()
    after = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
    return ((before - after) / rate).numpy()


# --- allocation: brute force -----------------------------------------------------------------------------------------
# Only the formulas of the model, evaluated on grids: psi by a table over alpha that is zoomed in, the shares by
# dynamic programming over units of the band, then again with ever finer units around the best point.


def allocation_cost(device, alpha, beta, rho):
    """J_k of one device on arrays of alpha and beta; inf where the signs succeed with less than 1e-12.

    `device` is a dict: noise = Gamma B N_0 / (P zeta), l_s and l_m = L / (B tau), w, v2, vbar2, v_vbar, delta2,
    theta, kappa, weights, c, fading.
    """
    d = device
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        x_s = d["noise"] * rho * beta * np.expm1(np.log(2) * d["l_s"] / (rho * beta)) / alpha
        x_m = d["noise"] * (1 - rho) * beta * np.expm1(np.log(2) * d["l_m"] / ((1 - rho) * beta)) / (1 - alpha)
        q = np.exp(-x_s)
        lost = x_m - x_s if d["fading"] == "block" else x_m
        r = np.exp(-np.maximum(np.where(np.isinf(x_m), np.inf, lost), 0))
        big_w, w2 = d["theta"] * d["w"] + (1 - d["theta"]) * d["w"] ** 2, d["kappa"] * d["w"] ** 2
        m2 = r**2 * d["v2"] + 2 * r * (1 - r) * d["v_vbar"] + (1 - r) ** 2 * d["vbar2"]
        m_v = r * d["v2"] + (1 - r) * d["v_vbar"]
        e = r * (d["v2"] + d["delta2"]) + (1 - r) * d["vbar2"]
        c = {"unbiased": lambda: 1 / q, "plain": lambda: d["c"] * np.ones_like(q)}.get(
            d["weights"], lambda: big_w * m_v / (big_w * q * m2 + w2 * (e - q * m2))
        )()
        bias = (c * q) ** 2 * m2 - 2 * c * q * m_v + d["v2"]
        cost = big_w * bias + w2 * c**2 * (q * e - q**2 * m2)
    return np.where(q >= 1e-12, cost, np.inf)


def allocation_psi(device, beta, rho):
    """min over alpha of J_k for an array of shares: a grid over (0, 1], with the kink, zoomed in twice."""
    grid = 1 / (1 + np.exp(-np.linspace(-18, 18, 181)))
    beta = np.asarray(beta, float)[:, None]
    alpha = np.concatenate([grid, [rho, 1.0]])[None, :] * np.ones_like(beta)
    order = np.argsort(alpha, axis=1)
    alpha = np.take_along_axis(alpha, order, axis=1)
    best = np.full(len(beta), np.inf)
    for _ in range(3):
        cost = allocation_cost(device, alpha, beta, rho)
        i = np.argmin(cost, axis=1)
        best = np.minimum(best, cost.min(axis=1))
        low = np.take_along_axis(alpha, np.maximum(i - 1, 0)[:, None], axis=1)
        high = np.take_along_axis(alpha, np.minimum(i + 1, alpha.shape[1] - 1)[:, None], axis=1)
        alpha = low + (high - low) * np.linspace(0, 1, 31)
    return best


def allocation_optimum(devices, rhos, droppable, units=400, tolerance=1e-6):
    """Least sum of J_k over shares that sum to at most one: dynamic programming, refined until it has converged.

    Starts from units of 1 / `units` of the band; then, again and again, a unit 8 times smaller and up to 16 units
    around the best point. No band costs W ||v||^2 where dropping is allowed.
    """
    unit, total, value, settled = 1.0 / units, units, math.inf, 0
    options = [np.arange(0, units + 1) for _ in devices]
    for _ in range(12):
        costs = []
        for d, rho, sizes in zip(devices, rhos, options, strict=True):
            dropped = (d["theta"] * d["w"] + (1 - d["theta"]) * d["w"] ** 2) * d["v2"] if droppable else math.inf
            psi = allocation_psi(d, np.maximum(sizes, 1) * unit, rho)
            costs.append(np.where(sizes == 0, dropped, psi))
        found, picked = _knapsack(options, costs, total)
        settled = settled + 1 if value < math.inf and value - found <= tolerance * abs(found) else 0
        if settled == 2:
            return min(value, found)
        value, unit, total = min(value, found), unit / 8, total * 8
        options = [np.arange(max(0, 8 * p - 16), 8 * p + 17) for p in picked]
    return value


def _knapsack(options, costs, total):
    """(least sum of costs, size of each) with sizes, taken from consecutive numbers, that sum to at most `total`."""
    spare = min(total - sum(int(sizes[0]) for sizes in options), sum(len(sizes) - 1 for sizes in options))
    best, choices = np.full(spare + 1, math.inf), []  # least cost with so many units more than the first sizes
    best[0] = 0.0
    for cost in costs:
        fresh, choice = np.full_like(best, math.inf), np.zeros(len(best), int)
        for extra in np.flatnonzero(np.isfinite(cost[: spare + 1])):
            value = np.full_like(best, math.inf)
            value[extra:] = best[: len(best) - extra] + cost[extra]
            choice[value < fresh] = extra
            fresh = np.minimum(fresh, value)
        best = fresh
        choices.append(choice)
    state = int(np.argmin(best))
    found, picked = float(best[state]), []
    for sizes, choice in zip(reversed(options), reversed(choices), strict=True):
        picked.append(int(sizes[0]) + int(choice[state]))
        state -= int(choice[state])
    return found, picked[::-1]


# --- rotation and calibration -------------------------------------------------------------------------------


def hadamard_matrix(size):
    """Orthonormal Walsh-Hadamard matrix by Kronecker products."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.kron([[1, 1], [1, -1]], matrix) / np.sqrt(2)
    return matrix


def calibrated_weights_by_minimisation(weight, auxiliary, received, ridge):
    """The stated objective, minimised by a general-purpose optimiser; not yet normalised."""
    from scipy.optimize import minimize

    start = weight[received] / weight[received].sum()
    x, target = auxiliary[received], weight @ auxiliary / weight.sum()
    level = ridge * np.trace(x.T @ np.diag(start) @ x) / x.shape[1]

    def objective(a):
        return np.sum((a - start) ** 2 / start) + np.sum((a @ x - target) ** 2) / level

    out = np.zeros(len(weight))
    out[received] = minimize(objective, start, tol=1e-14).x
    return out


# --- the radio -------------------------------------------------------------------------------------------------------


def two_subbands_below(rate: float, snr: float) -> float:
    """Pr[log2(1 + snr g1) + log2(1 + snr g2) < 2 rate] by quadrature over g1."""
    from scipy.integrate import quad

    product = 4.0**rate

    def given(first: float) -> float:
        return math.exp(-first) * -math.expm1(-(product / (1.0 + snr * first) - 1.0) / snr)

    return quad(given, 0.0, (product - 1.0) / snr, limit=500)[0]


def update_of_segments(world: Any, outcome: Any) -> NDArray[np.float64]:
    """The normalised mean of what arrived in round 1, element by element; unrotated packets, `layer` compensation."""
    from spfl.fleet.threads import ThreadFleet
    from spfl.packets.codec import decode_modulus, decode_signs

    with ThreadFleet(world) as fleet:
        uploads, _ = fleet.uploads(world.start(), world.cohort(1), 1)
    total = sum(u.samples for u in uploads)
    layout, out = world.layout, np.zeros(world.layout.size)
    tensor_of = np.repeat(np.arange(len(layout.names)), layout.sizes)
    for i in range(layout.size):
        received = 0.0
        for k, u in enumerate(uploads):
            signs = outcome.sign_segments[k]
            if not signs[i * len(signs) // layout.size]:
                continue
            sign = decode_signs(u.sign_packet, layout=layout, round_=1, device=u.device)[i]
            modulus, moduli = u.tensor_means[tensor_of[i]], outcome.modulus_segments[k]
            together = world.scheme.uplink == "single"
            if u.modulus_packet and (together or moduli[i * len(moduli) // layout.size]):
                modulus = decode_modulus(u.modulus_packet, layout=layout, round_=1, device=u.device)[i]
            out[i] += u.samples / total * sign * modulus
            received += u.samples / total
        out[i] /= received or 1.0
    return out


# --- robust aggregation, one coordinate at a time -------------------------------------------------------------


def combine(rule, vectors, trim):
    """`robust.combine` by sorted lists of Python floats."""
    out = []
    for values in zip(*[[float(x) for x in vector] for vector in vectors], strict=True):
        if rule == "trimmed_mean":
            cut = min(int(trim * len(values)), (len(values) - 1) // 2)
            kept = sorted(values)[cut : len(values) - cut]
            out.append(math.fsum(kept) / len(kept))
        elif rule == "median":
            out.append(statistics.median(values))
        else:
            votes = sum((x > 0) - (x < 0) for x in values)
            out.append(((votes > 0) - (votes < 0)) * statistics.median([abs(x) for x in values]))
    return out


def ladder_estimate(vector: np.ndarray, block: int, bits: int) -> np.ndarray:
    """What the first bits of a ladder tell of a vector, coordinate by coordinate (packets.ladder)."""
    from spfl.packets.ladder import codebook

    blocks = vector.size // block
    order = [(b, i) for i in range(block) for b in range(blocks)]
    estimate = np.zeros((blocks, block))
    for place, (b, i) in enumerate(order):
        planes = bits // vector.size + (place < bits % vector.size)
        part, x = vector[b * block : (b + 1) * block].astype(np.float64), float(vector[b * block + i])
        if planes == 0 or not part.any():
            continue
        spread = np.float32(np.sqrt(np.mean(part**2)))
        scale = (part @ part) / (np.abs(part).sum() * codebook(1).values[0])
        book = codebook(min(planes, 4))
        cell = sum(abs(np.float32(x) / spread) >= edge for edge in book.edges[1:-1])
        thinned = vector.size / bits if bits < vector.size else 1.0
        estimate[b, i] = (-1 if x < 0 else 1) * book.values[cell] * scale * thinned
    return estimate.ravel()


def _graded(size: int, block: int, bits: int, begin: int) -> list:
    """(block, first coordinate, grade) of each group, in the order of a packet (packets.peaks)."""
    from spfl.packets.peaks import grades

    group = min(128, block)
    groups, steps = size // group, grades(min(128, block))
    at = max(i for i, grade in enumerate(steps) if round(grade.share * group) * groups <= bits)
    left, out = bits - round(steps[at].share * group) * groups, []
    more = round((steps[at + 1].share - steps[at].share) * group) if at + 1 < len(steps) else math.inf
    for place in range(groups):
        start = (place + begin) % groups * group
        better = left >= more
        left -= more if better else 0
        out.append((start // block, start % block, steps[at + better]))
    return out


def peaks_code(vector: np.ndarray, block: int, bits: int, begin: int) -> list[int]:
    """The packet of `packets.peaks` of at most so many bits, written bit by bit."""
    from spfl.packets.ladder import codebook
    from spfl.packets.peaks import order_of

    code: list[int] = []
    for b, first, grade in _graded(vector.size, block, bits, begin):
        whole = vector[b * block : (b + 1) * block].astype(np.float64)[order_of(block)]
        x, spread = whole[first : first + min(128, block)], np.float32(np.sqrt(np.mean(whole**2)) or 1.0)
        if grade.planes:
            code += [int(value < 0) for value in x]
        if grade.planes > 1:
            for value in x:
                cell = sum(abs(np.float32(value)) / spread >= edge for edge in codebook(grade.planes).edges[1:-1])
                code += [int(digit) for digit in f"{cell:0{grade.planes - 1}b}"]
        if grade.peak > 1:
            for start in range(0, x.size, grade.peak):
                place = int(np.abs(x[start : start + grade.peak]).argmax())
                code += [int(digit) for digit in f"{place:0{grade.peak.bit_length() - 1}b}"]
                code += [] if grade.planes else [int(x[start + place] < 0)]
    return code


def peaks_estimate(code: list[int], deviation: np.ndarray, block: int, bits: int, begin: int) -> np.ndarray:
    """What such a packet tells, bit by bit."""
    from spfl.packets.peaks import order_of

    size, group = block * len(deviation), min(128, block)
    plan, rest = _graded(size, block, bits, begin), iter(code)
    kept, estimate = sum(grade.kept for *_, grade in plan) / len(plan), np.zeros(size)
    for b, first, grade in plan:
        x = np.ones(group)
        if grade.planes:
            x = np.array([1.0 - 2.0 * next(rest) for _ in range(group)])
        if grade.planes > 1:
            cells = [int("".join(str(next(rest)) for _ in range(grade.planes - 1)), 2) for _ in range(group)]
            x *= grade.values[cells]
        elif grade.peak == 1:
            x *= grade.values[0]
        else:
            told = np.full(group, grade.values[1])
            for start in range(0, group, grade.peak):
                place = start + int("".join(str(next(rest)) for _ in range(grade.peak.bit_length() - 1)), 2)
                told[place] = grade.values[0]
                x[place] *= 1.0 if grade.planes else 1.0 - 2.0 * next(rest)
            x *= told
        places = b * block + order_of(block)[first : first + group]
        estimate[places] = x * deviation[b] / (kept or 1.0)
    return estimate


def best_participation(importance: np.ndarray, gains: np.ndarray, shares: np.ndarray) -> float:
    """The largest sum of importance times gain over all combinations of these shares that sum to one at most."""
    from itertools import product

    best = 0.0
    for choice in product(range(shares.size), repeat=importance.size):
        if shares[list(choice)].sum() <= 1.0 + 1e-12:
            best = max(
                best, float(sum(a * gains[k, j] for k, (a, j) in enumerate(zip(importance, choice, strict=True))))
            )
    return best


def participation_table(link, ladder, fade, shares):
    """max over n of q(beta, n) / (1 + v(n) / tau), device by device, share by share, rung by rung; never falling."""
    table = np.zeros((link.size, len(shares)))
    for k in range(link.size):
        symbols, scale = link.bandwidth_hz * link.tau_s[k], float(link.noise_to_signal[k])
        best = 0.0
        for s, beta in enumerate(shares):
            if beta > 0 and fade is not None:
                carried = beta * symbols * np.log2(1 + fade[k] / (scale * beta))
                bits = min(np.floor(carried * (1 - 1e-9) - ladder.overhead), ladder.rungs[-1])
                best = max(best, float(ladder.gain(bits)) if bits >= ladder.rungs[0] else 0.0)
            elif beta > 0:
                for bits in ladder.rungs:
                    cut, count = ladder.cut, 1
                    if cut.limit is not None:
                        count = max(1, math.ceil((ladder.overhead + bits) / cut.limit))
                    rate = (ladder.overhead + bits + (count - 1) * (64 + ladder.repeated)) / (beta * symbols)
                    x = scale * beta * np.expm1(min(rate * np.log(2), 700.0)) * np.exp(link.gap_slope * min(rate, 1e3))
                    q = np.exp(-x) ** (1 if cut.alone or cut.one_fade else count)
                    best = max(best, q * float(ladder.gain(bits)))
            table[k, s] = best
    return table


# --- asynchronous rounds: an event at a time -------------------------------------------------------------------------


def asynchronous_models(
    start: NDArray[np.float32],
    compute_s: Any,
    airtime_s: float,
    local: Any,
    *,
    count: int,
    slots: int,
    weight: Any,
    mixing: float | None = None,
    buffer: tuple[int, float] | None = None,
    reached: Any = lambda device, slot: True,
) -> list[tuple[float, NDArray[np.float64]]]:
    """(seconds, the server's model) after each slot; all devices of equal size, nothing lost.

    `compute_s(device, slot)` and `reached(device, slot)` are of the slot from which on a device works on its model.
    `local(model, device, slot)` is a device's new model, `weight(age)` that of an update so many server steps old.
    FedAsync (Xie et al. 2019, algorithm 1): x <- (1 - mixing s) x + mixing s x_new. FedBuff (Nguyen et al. 2022): the
    mean of s (x_new - x_old) over `buffer[0]` updates or more, times `buffer[1]`.
    """
    x, version, free, told, waiting = start.astype(np.float64), 0, 0.0, [], []
    start_with = [k for k in range(count) if reached(k, 1)]
    devices = [(compute_s(k, 1), k, x, 0) for k in start_with]  # ready, who, its model, of which version
    for slot in range(1, slots + 1):
        begin = max(free, min(device[0] for device in devices))
        free = begin + airtime_s
        sending = sorted((d for d in devices if d[0] <= begin), key=lambda d: d[1])
        devices = [d for d in devices if d[0] > begin]
        news = [(local(old, k, slot), old, weight(version - v)) for _, k, old, v in sending]
        if mixing is not None:
            x = sum((1 - mixing * s) * x + mixing * s * new for new, _, s in news) / len(news)
            version += 1
        elif buffer is not None:
            waiting += [s * (new - old) for new, old, s in news]
            if len(waiting) >= buffer[0]:
                x = x + buffer[1] * sum(waiting) / len(waiting)
                version, waiting = version + 1, []
        idle = set(range(count)) - {k for _, k, _, _ in devices}
        devices += [(free + compute_s(k, slot + 1), k, x, version) for k in sorted(idle) if reached(k, slot + 1)]
        assert devices, "nobody is at work: the twin does not know who is called all the same"
        told.append((free, x))
    return told


def loss_at(module: torch.nn.Module, flat: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of a network whose parameters are cut from one vector, in their order."""
    parts, at = {}, 0
    for name, parameter in module.named_parameters():
        parts[name] = flat[at : at + parameter.numel()].view(parameter.shape)
        at += parameter.numel()
    return F.cross_entropy(torch.func.functional_call(module, parts, (inputs,)), labels)
