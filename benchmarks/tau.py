"""How much of a device's gradient the others cannot tell: tau of `sp_fl_plus` (model.md, section 11), measured.

    python benchmarks/tau.py --data-dir DIR [--rounds 120] [--out DIR]

Training without loss at the settings of configs/cifar10.toml, and at each stage the gradients of several cohorts on the
model of that round. `about the mean`: |g_k - gbar|^2 / |g_k|^2, gbar the weighted mean of all. `unexplained`: what the
best linear combination of the other devices' gradients leaves of g_k, which is what calibrated weights could still
tell. Each a mean over draws of the batches; then the mean over devices, and the least and the largest device.
`knowing`: what importances with each device's own tau_k gain by the objective over the same tau for all, at -3 dB.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import write

from spfl.allocation.participation import Ladder, allocate_bits
from spfl.config.files import load_config
from spfl.data.sources import load_dataset
from spfl.packets.container import HEADER_BITS
from spfl.packets.ladder import noise
from spfl.radio.outage import Link
from spfl.training import open_fleet, train
from spfl.world.state import ServerState
from spfl.world.world import World

Floats = NDArray[np.float64]
DRAWS = 6  # cohorts whose batches differ
SIDE_BITS = 32 * 26.0  # what a ladder's header carries of blocks and norms; a few per mille of the packet


def gradients(world: World, server: ServerState, draw: int) -> Floats:
    """Gradients of all devices on one model, (device, dim)."""
    with open_fleet(world) as fleet:
        uploads, _ = fleet.uploads(server, world.cohort(1), 10**6 + draw)
    return np.array([u.gradient for u in uploads], np.float64)


def about_the_mean(g: Floats, weight: Floats) -> Floats:
    """|g_k - gbar|^2 / |g_k|^2, (device,)."""
    return np.asarray(((g - weight @ g) ** 2).sum(1) / (g**2).sum(1))


def unexplained(g: Floats) -> Floats:
    """The share of |g_k|^2 that no combination of the others' gradients explains, (device,).

    1 / (G_kk (G^-1)_kk) with G the matrix of products: the residual of a least-squares fit.
    """
    products = g @ g.T
    return np.asarray(1.0 / (np.diag(products) * np.diag(np.linalg.inv(products))))


def gain_of_knowing(tau: Floats, importance: Floats, link: Link, dim: int) -> float:
    """The objective with each device's own tau: allocated with it, less allocated with the mean tau, relative."""

    def worth(taus: Floats) -> float:
        ladder = Ladder(dim, HEADER_BITS + SIDE_BITS, float(tau.mean()))
        found = allocate_bits(importance * taus, link, ladder)
        assert found.bits is not None
        sent = found.bits > 0
        v = noise(np.where(sent, found.bits, dim), dim)
        return float((importance * tau * np.where(sent, found.q_s, 0.0) / (1 + v / tau)).sum())

    return worth(tau) / worth(np.full_like(tau, tau.mean())) - 1


def stage(world: World, server: ServerState, link: Link) -> dict[str, Any]:
    weight = np.array([len(part) for part in world.parts], np.float64)
    weight /= weight.sum()
    found: dict[str, list[Floats]] = {"about the mean": [], "unexplained": []}
    norms = []
    for draw in range(DRAWS):
        g = gradients(world, server, draw)
        found["about the mean"].append(about_the_mean(g, weight))
        found["unexplained"].append(unexplained(g))
        norms.append((g**2).sum(1))
    means = {name: np.mean(values, 0) for name, values in found.items()}
    told: dict[str, Any] = {
        name: {"mean": round(tau.mean(), 3), "least": round(tau.min(), 3), "largest": round(tau.max(), 3)}
        for name, tau in means.items()
    }
    importance = weight**2 * np.mean(norms, 0)
    told["knowing"] = {
        name: round(gain_of_knowing(tau, importance, link, g.shape[1]), 5) for name, tau in means.items()
    }
    return told


def sentence(measured: dict[str, Any]) -> str:
    """What docs/model.md says of it, with the numbers of the file."""
    rounds = ", ".join(f"{stage['about the mean']['mean']:.2f} after {name}" for name, stage in measured.items())
    values = [stage["about the mean"] for stage in measured.values()]
    apart = [stage["unexplained"] for stage in measured.values()]
    gains = [stage["knowing"] for stage in measured.values()]
    most = {name: 100 * max(gain[name] for gain in gains) for name in gains[0]}
    return (
        f"Measured (training without loss, the mean over 20 devices): {rounds}; "
        f"{min(v['least'] for v in values):.1f} to {max(v['largest'] for v in values):.1f} over devices. "
        f"What no combination of the other devices' gradients explains is less, "
        f"{min(v['mean'] for v in apart):.2f} to {max(v['mean'] for v in apart):.2f}. "
        f"An allocation that knew each device's own would gain {most['about the mean']:.1f} % of the objective by "
        f"it at most, or {most['unexplained']:.1f} % by what is not explained.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/cifar10.toml"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    config = load_config(given.config, ["scheme.name=error_free", "channel.median_snr_db=-3"])
    world = World.build(config, load_dataset(config.data, given.data_dir))
    link = world.radio.link(world.cohort(1), 1)  # its packets' bits are not looked at
    measured = {}
    for record in train(world):
        if record.round_ in (10, given.rounds // 2, given.rounds):
            measured[f"round {record.round_}"] = stage(world, record.server, link)
        if record.round_ == given.rounds:
            break
    write(given.out, "tau", measured)
    print(told := sentence(measured))
    if given.out:
        (given.out / "tau.txt").write_text(told)


if __name__ == "__main__":
    main()
