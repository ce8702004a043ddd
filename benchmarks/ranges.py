"""What one quantiser range a tensor saves over one for all: the quantiser's error over the gradient's squared norm.

    python benchmarks/ranges.py --data-dir DIR [--out DIR]

Gradients of all devices at the settings of configs/cifar10.toml, before the first round and after twenty; b = 3 bits.
`single_packet` quantises the gradient as it is, `single_packet_plus` in the rotated basis, where a tensor is a block.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from results import write

from spfl.config.files import load_config
from spfl.data.sources import load_dataset
from spfl.training import open_fleet, train
from spfl.world.world import World

ROUNDS = 20


def error(world: World, rounds: int) -> dict[str, float]:
    """delta^2 / |g|^2 after so many rounds: least, mean and largest device."""
    server = world.start()
    for record in itertools.islice(train(world), rounds):
        server = record.server
    with open_fleet(world) as fleet:
        uploads, _ = fleet.uploads(server, world.cohort(rounds + 1), rounds + 1)
    found = np.array([u.delta2 / u.v2 for u in uploads])
    return {name: round(float(of(found)), 3) for name, of in (("least", np.min), ("mean", np.mean), ("most", np.max))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    measured = {}
    for scheme, ranges in itertools.product(("single_packet", "single_packet_plus"), ("false", "true")):
        settings = [f"scheme.name={scheme}", f"codec.per_tensor={ranges}", "channel.median_snr_db=9"]
        config = load_config(Path("configs/cifar10.toml"), settings)
        world = World.build(config, load_dataset(config.data, given.data_dir))
        measured[f"{scheme}, per_tensor = {ranges}"] = {n: error(world, n) for n in (0, ROUNDS)}
    write(given.out, "ranges", measured)


if __name__ == "__main__":
    main()
