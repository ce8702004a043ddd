"""Who sends with which bandwidth and power, for any scheme (model.md, section 7)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spfl.allocation.allocator import allocate
from spfl.allocation.bound import Devices, Objective, common_weight, device_cost
from spfl.allocation.participation import allocate_bits
from spfl.allocation.problem import Limits
from spfl.allocation.result import AllocationResult, AllocationStatus
from spfl.arrays import Bools, Floats
from spfl.config.schema import SchemeConfig
from spfl.errors import AllocationError
from spfl.radio import harq, over_the_air
from spfl.radio.outage import Link, PacketFades, Success, conditional, level, success
from spfl.scheme import OwnShares, Scheme, bias_and_noise
from spfl.uplink.format import Format

ALLOCATION_GAP = 1e-3  # of a round's allocation; the objective itself is known less well


def share_resources(
    form: Format, devices: Devices, link: Link, fades: PacketFades, previous: AllocationResult | None = None
) -> AllocationResult:
    """Bandwidth and power of every device for one round, with the success probabilities that follow.

    `fades` are looked at by the schedules that rank instantaneous channels, and by nothing else; their success
    probabilities are still those of the mean gains, so the scheduled are received more often than q_s says.
    """
    scheme, config = form.scheme, form.settings
    if scheme.grants_bits:
        return _participation(form, devices, link, fades)
    own, most = scheme.share is not None, config.max_share or 1.0
    fixed = own or scheme.schedule != "all" or scheme.uplink in ("ideal", "analog")  # equal shares, whatever the solver
    goal = objective(scheme, devices, config, previous)
    limits = Limits(
        max_share=most,
        fixed_alpha=not (scheme.allocate_power and scheme.uplink == "split"),
        fixed_beta=not scheme.allocate_band,
        optimise_rho=scheme.allocate_split and scheme.solver == "exact" and not (fixed or link.superposed),
        tolerance=ALLOCATION_GAP,
    )
    result = allocate(devices, link, goal, limits, solver="uniform" if fixed else scheme.solver, start=previous)
    q_s, r_m = result.q_s, result.r_m
    if scheme.share is not None:
        result = _own_shares(scheme, scheme.share, devices, link, result)
        result = replace(result, beta=np.minimum(result.beta, most))
    if scheme.schedule != "all":
        chosen = schedule(scheme, config, devices, _ranked(scheme, link, level(fades[0])), result.beta > 0)
        result = replace(result, beta=np.where(chosen, min(1.0 / max(int(chosen.sum()), 1), most), 0.0))
    if own or scheme.schedule != "all" or link.law is not None:
        odds, received = probabilities(link, result), result.beta > 0
        q_s, r_m = np.where(received, odds.q_s, 0.0), np.where(received, odds.r_m, 0.0)
    if scheme.combining == "incremental":
        q_s, r_m = harq.harq_success(link, result.beta), np.ones(devices.size)
    elif scheme.attempts > 1:
        both = _ever(q_s * r_m, scheme.attempts)
        q_s = _ever(q_s, scheme.attempts)
        r_m = conditional(both, q_s)
    if scheme.uplink == "analog":
        active = (devices.weight > 0) & (devices.v2 > 0)
        power_w = over_the_air.receive_power(link, active)
        q_s = np.where(active & (power_w > 0), over_the_air.participation(link, power_w), 0.0)
        result = replace(result, beta=np.where(active, 1.0 / devices.size, 0.0))
    if q_s is result.q_s:
        return result
    cost = device_cost(devices, q_s, r_m, goal)
    return replace(result, q_s=q_s, r_m=r_m, cost=cost, objective=float(cost.sum()))


def _participation(form: Format, devices: Devices, link: Link, fades: PacketFades) -> AllocationResult:
    """Bandwidth and bits by the participation objective (model.md, section 11)."""
    importance = devices.weight**2 * devices.v2
    fade = level(fades[0]) if form.instantaneous else None
    if form.scheme.schedule != "all":
        ranked = _ranked(form.scheme, link, level(fades[0]))
        importance = np.where(schedule(form.scheme, form.settings, devices, ranked, importance > 0), importance, 0.0)
    equal, most = form.scheme.solver == "uniform", form.settings.max_share or 1.0
    return allocate_bits(importance, link, form.ladder, fade, equal=equal, most=most)


def _own_shares(
    scheme: Scheme, share: OwnShares, devices: Devices, link: Link, equal: AllocationResult
) -> AllocationResult:
    """A caller's allocation in place of the equal one. Raises AllocationError for shares that are none."""
    beta, alpha = (np.broadcast_to(np.asarray(part, np.float64), equal.beta.shape) for part in share(devices, link))
    if not ((beta >= 0).all() and beta.sum() <= 1 + 1e-9 and ((alpha >= 0) & (alpha <= 1)).all()):
        raise AllocationError(f"share of {scheme.name} must return beta >= 0 with sum <= 1 and alpha in [0, 1]")
    active = (devices.weight > 0) & (devices.v2 > 0)
    return replace(
        equal,
        beta=np.where(active, beta, 0.0),
        alpha=alpha.copy() if scheme.uplink == "split" else equal.alpha,
        status=AllocationStatus.FIXED,
    )


def probabilities(link: Link, allocation: AllocationResult) -> Success:
    """Success probabilities of an allocation by the link's own law, or by the closed form."""
    law = success if link.law is None else link.law.success
    return law(link, allocation.beta, allocation.alpha, allocation.rho)


def objective(scheme: Scheme, devices: Devices, config: SchemeConfig, previous: AllocationResult | None) -> Objective:
    """The scheme's objective. For `error` under normalised weights, c is the common weight at the last round's q."""
    if scheme.objective == "bound" or scheme.weights != "normalized":
        theta, kappa = bias_and_noise(scheme, config)
        return Objective(theta=theta, kappa=kappa, weights=scheme.weights, c=1.0)
    known = previous is not None and previous.q_s.size == devices.size
    q_s, r_m = (previous.q_s, previous.r_m) if previous is not None and known else np.ones((2, devices.size))
    return Objective(theta=0.0, kappa=1.0, weights="plain", c=common_weight(devices, q_s, r_m))


def _ever(probability: Floats, attempts: int) -> Floats:
    """1 - (1 - q)^n without cancellation."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(attempts * np.log1p(-probability)))


def schedule(scheme: Scheme, config: SchemeConfig, devices: Devices, gain: Floats, eligible: Bools) -> Bools:
    """The devices that may send, (device,): `config.scheduled` of the eligible, a quarter of all by default.

    `gain` is the instantaneous power gain (device,). Amiri et al. 2021: `channel` takes the best of it (BC), `norm` the
    largest gradient norms (BN2), `channel_norm` the largest norms among twice as many best channels (BC-BN2).
    `fair` is the proportional-fair ranking, by the gain over its mean.
    Ties go to the first.
    """
    count = config.scheduled or max(1, devices.size // 4)
    if scheme.schedule == "channel_norm":
        eligible = _best(gain, 2 * count, eligible)
    return _best(gain if scheme.schedule in ("channel", "fair") else devices.v2, count, eligible)


def _ranked(scheme: Scheme, link: Link, fade: Floats) -> Floats:
    """By what a schedule ranks channels, (device,): the gain of the round, or (`fair`) that gain over its mean."""
    return fade if scheme.schedule == "fair" else link.gain * fade


def _best(score: Floats, count: int, eligible: Bools) -> Bools:
    order = np.argsort(-np.where(eligible, score, -1.0), kind="stable")
    chosen = np.zeros(eligible.shape, np.bool_)
    chosen[order[:count]] = True
    return chosen & eligible
