"""Time, gap and memory of the allocator, against SciPy and CVXPY where they finish.

    python benchmarks/allocation.py [--sizes 20 200 1000 2000 20000 100000] [--repeats 5] [--out DIR]

Times are minima over the repeats, after one call that loads the compiled kernels. The general solvers minimise the
same objective over (beta, alpha) in logarithmic variables, from the conventional point; CVXPY solves the convex
special case (signs only), for which it has a cone. `--quality` reports how far `alternating` ends from `exact`.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from results import write
from scipy.optimize import NonlinearConstraint, minimize

from spfl.allocation.allocator import allocate
from spfl.allocation.bound import Devices, Objective, device_cost
from spfl.allocation.participation import Ladder, allocate_bits
from spfl.allocation.problem import Limits
from spfl.radio.outage import Link, success

GENERAL_SOLVERS_UP_TO = {"SLSQP": 50, "trust-constr": 20, "cvxpy": 20000}


def problem(size: int, seed: int = 0, *, signs_only: bool = False) -> tuple[Devices, Link]:
    """Devices of lognormal importance at a median SNR of 10 dB, gains over 30 dB, about 4 bit/s/Hz at equal shares."""
    g = np.random.default_rng(seed)
    bandwidth_hz, noise, power_w, bits = 10e6, 4e-21, 0.1, 62006.0
    gain = 10 ** (g.uniform(-1.5, 1.5, size) + 1.0) * noise * bandwidth_hz / size / power_w
    v2 = g.lognormal(0, 1, size)
    vbar2 = v2 * g.uniform(0.3, 1.2, size)
    v_vbar = np.sqrt(v2 * vbar2) * g.uniform(0.5, 1, size)
    devices = Devices(g.dirichlet(np.ones(size)), v2, vbar2, v_vbar, 0.05 * v2)
    moduli, rho = (0.0, np.ones(size)) if signs_only else (3 * bits + 64, None)
    link = Link(
        bandwidth_hz, noise, np.full(size, power_w), gain, np.full(size, 0.1 * size / 16), np.full(size, bits),
        np.full(size, moduli), rho=rho,
    )  # fmt: skip
    return devices, link


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Least wall-clock seconds of several calls."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def free_split(size: int, repeats: int) -> dict[str, object]:
    """Time and certificate where the split of the bandwidth is free, and that of a given one for comparison."""
    devices, link = problem(size)
    objective, free = Objective(weights="mmse"), Limits(optimise_rho=True)
    result, given = allocate(devices, link, objective, free), allocate(devices, link, objective)
    seconds = fastest(lambda: allocate(devices, link, objective, free), repeats)
    return {
        "devices": size, "solver": "exact, free split", "weights": "mmse", "ms": 1e3 * seconds,
        "us_per_device": 1e6 * seconds / size, "objective": result.objective, "gap": result.gap,
        "given_split_objective": given.objective,
    }  # fmt: skip


def ours(size: int, repeats: int, solver: str, weights: str) -> dict[str, object]:
    """Time, certificate, and peak of the memory that one call allocates."""
    devices, link = problem(size)
    result = allocate(devices, link, Objective(weights=weights), solver=solver)
    seconds = fastest(lambda: allocate(devices, link, Objective(weights=weights), solver=solver), repeats)
    drifted = replace(devices, v2=devices.v2 * np.random.default_rng(1).uniform(0.95, 1.05, size))
    warm = fastest(lambda: allocate(drifted, link, Objective(weights=weights), solver=solver, start=result), repeats)
    tracemalloc.start()
    allocate(devices, link, Objective(weights=weights), solver=solver)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "devices": size, "solver": solver, "weights": weights, "ms": 1e3 * seconds, "warm_ms": 1e3 * warm,
        "us_per_device": 1e6 * seconds / size, "objective": result.objective, "gap": result.gap,
        "peak_mib": peak / 2**20,
    }  # fmt: skip


def participation(size: int, repeats: int, instantaneous: bool) -> dict[str, object]:
    """Time, certificate and memory of the participation objective (model.md, section 11)."""
    devices, link = problem(size)
    importance, ladder = devices.weight**2 * devices.v2, Ladder(62006, 300.0)
    fade = np.random.default_rng(2).exponential(size=size) if instantaneous else None
    result = allocate_bits(importance, link, ladder, fade)
    seconds = fastest(lambda: allocate_bits(importance, link, ladder, fade), repeats)
    tracemalloc.start()
    allocate_bits(importance, link, ladder, fade)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "devices": size, "solver": "participation", "csi": "instantaneous" if instantaneous else "mean",
        "ms": 1e3 * seconds, "us_per_device": 1e6 * seconds / size, "gap": result.gap, "peak_mib": peak / 2**20,
    }  # fmt: skip


def scipy_general(size: int, method: str) -> dict[str, object]:
    """SLSQP or trust-constr on (ln beta, logit alpha) of the non-convex problem, finite differences for gradients."""
    devices, link = problem(size)

    def objective(z: np.ndarray) -> float:
        beta, alpha = np.exp(z[:size]), 1 / (1 + np.exp(-z[size:]))
        chances = success(link, beta, alpha)
        cost = device_cost(devices, np.maximum(chances.q_s, 1e-140), chances.r_m).sum()
        return float(np.log(cost))  # the cost spans tens of decades

    start = np.concatenate([np.full(size, -np.log(size)), np.log(link.split / (1 - link.split))])
    budget = {"type": "ineq", "fun": lambda z: 1 - np.exp(z[:size]).sum()}
    limits = [(-20, 0)] * size + [(-20, 20)] * size
    options = {"maxiter": 300}
    began = time.perf_counter()
    if method == "SLSQP":
        found = minimize(objective, start, method=method, bounds=limits, constraints=budget, options=options)
    else:
        linear = NonlinearConstraint(lambda z: np.exp(z[:size]).sum(), -np.inf, 1)
        found = minimize(objective, start, method=method, bounds=limits, constraints=[linear], options=options)
    seconds = time.perf_counter() - began
    reference = allocate(devices, link).objective
    return {
        "devices": size, "solver": method, "ms": 1e3 * seconds, "objective": float(np.exp(found.fun)),
        "above_exact": float(np.exp(found.fun)) / reference - 1, "success": bool(found.success),
    }  # fmt: skip


def cvxpy_special(size: int, repeats: int) -> list[dict[str, object]]:
    """The convex special case (signs only, all power on them) by CVXPY and by us."""
    import cvxpy

    devices, link = problem(size, signs_only=True)
    began = time.perf_counter()
    beta, x = cvxpy.Variable(size), cvxpy.Variable(size)
    cone = cvxpy.ExpCone(link.sign_load * np.log(2), beta, cvxpy.multiply(1 / link.noise_to_signal, x) + beta)
    scale = devices.weight**2 * (devices.v2 + devices.delta2)
    programme = cvxpy.Problem(cvxpy.Minimize(scale @ cvxpy.exp(x)), [cone, cvxpy.sum(beta) <= 1])
    programme.solve(solver="CLARABEL")
    seconds = time.perf_counter() - began
    value = programme.value - float((devices.weight**2 * devices.v2).sum())
    result = allocate(devices, link)
    ms = 1e3 * fastest(lambda: allocate(devices, link), repeats)
    return [
        {
            "devices": size,
            "solver": "cvxpy, signs only",
            "ms": 1e3 * seconds,
            "above_exact": value / result.objective - 1,
        },
        {"devices": size, "solver": "exact, signs only", "ms": ms, "objective": result.objective},
    ]


def quality(size: int = 10, instances: int = 200) -> dict[str, object]:
    """How far `alternating` and the conventional point end above `exact`, as quantiles over random problems."""
    loss, conventional = [], []
    for seed in range(instances):
        devices, link = problem(size, seed)
        best = allocate(devices, link).objective
        loss.append(allocate(devices, link, solver="alternating").objective / best - 1)
        conventional.append(allocate(devices, link, solver="uniform").objective / best)
    return {
        "devices": size, "instances": instances, "within_1_percent": float((np.array(loss) <= 0.01).mean()),
        "loss_quantiles_50_90_99_100": np.quantile(loss, [0.5, 0.9, 0.99, 1]).tolist(),
        "conventional_over_exact_quantiles_10_50_90": np.quantile(conventional, [0.1, 0.5, 0.9]).tolist(),
    }  # fmt: skip


def show(row: dict[str, object]) -> dict[str, object]:
    """Print a row as it comes, and pass it on."""
    text = "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
    print(text, file=sys.stderr, flush=True)
    return row


def main() -> None:
    """Run everything and print one row per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 200, 1000, 2000, 20000, 100000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quality", action="store_true", help="only the distance of alternating from exact")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    if not arguments.quality:
        for size in arguments.sizes:
            repeats = arguments.repeats if size <= 20000 else min(arguments.repeats, 3)
            rows += [show(ours(size, repeats, "exact", weights)) for weights in ("unbiased", "mmse", "plain")]
            rows.append(show(free_split(size, min(repeats, 2))))
            rows += [show(participation(size, repeats, known)) for known in (False, True)]
            if size <= 2000:
                rows.append(show(ours(size, min(repeats, 2), "alternating", "unbiased")))
            for method in ("SLSQP", "trust-constr"):
                if size <= GENERAL_SOLVERS_UP_TO[method]:
                    rows.append(show(scipy_general(size, method)))
            if size <= GENERAL_SOLVERS_UP_TO["cvxpy"]:
                rows += [show(row) for row in cvxpy_special(size, repeats)]
    rows += [show(quality(size)) for size in (5, 10, 50)]
    write(arguments.out, "allocation", rows)


if __name__ == "__main__":
    main()
