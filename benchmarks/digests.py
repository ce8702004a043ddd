"""Digests of the metrics of configurations that together touch every scheme and most options of the uplink.

A change that is to leave every result as it is, such as moving code, is checked by running this before and after:

    python benchmarks/digests.py before.json
    python benchmarks/digests.py after.json --against before.json     # exit code 1 and the names, where they differ

Digests hold on one machine with one set of versions only, so no file of them is kept here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import spfl

BASE: dict[str, Any] = {
    "seed": 3,
    "data.devices": 8,
    "model.name": "mlp",
    "model.width": 24,
    "training.rounds": 6,
    "training.eval_every": 3,
    "training.rate": 0.1,
    "channel.median_snr_db": 0.0,
    "channel.side_information": "reliable",
}
SPLIT, PLUS = {"scheme.name": "sp_fl"}, {"scheme.name": "sp_fl_plus_1"}
OPTIONS: dict[str, dict[str, Any]] = {
    "independent": SPLIT | {"channel.fading": "independent"},
    "selective": SPLIT | {"channel.fading": "selective", "channel.subbands": 3},
    "doppler": SPLIT | {"channel.doppler_hz": 5.0},
    "segments": PLUS | {"channel.segment_bits": 1024, "channel.recovery": "segment", "channel.fading": "independent"},
    "parity": SPLIT | {"channel.segment_bits": 1024, "channel.sign_parity": 2, "channel.fading": "selective"},
    "gap": SPLIT | {"channel.link": "gap"},
    "bler": PLUS | {"channel.link": "bler"},
    "csi_error": PLUS | {"channel.csi_error_db": 3.0},
    "per_round": SPLIT | {"channel.drop": "per_round"},
    "stale": SPLIT | {"channel.downlink": "stale", "channel.downlink_power_dbm": -20.0},
    "sit_out": SPLIT | {"channel.downlink": "sit_out", "channel.downlink_power_dbm": -20.0},
    "cohort": PLUS | {"data.cohort_size": 5},
    "sampled": PLUS | {"data.partition": "sampled", "data.devices": 40, "data.cohort_size": 6},
    "iid": SPLIT | {"data.partition": "iid"},
    "shards": SPLIT | {"data.partition": "shards"},
    "local_steps": PLUS | {"training.local_steps": 3, "training.momentum": 0.9, "training.schedule": "cosine"},
    "cnn": PLUS | {"model.name": "small_cnn", "model.width": 4, "training.rounds": 3},
    "error_feedback": SPLIT | {"scheme.error_feedback": True, "scheme.remembered_devices": 4},
    "last": SPLIT | {"scheme.compensation": "last"},
    "ema": SPLIT | {"scheme.compensation": "ema"},
    "scaled_ema": SPLIT | {"scheme.compensation": "scaled_ema", "scheme.shrink": 0.5},
    "mmse": SPLIT | {"scheme.weights": "mmse", "scheme.rho": 0.4},
    "per_tensor": PLUS | {"codec.per_tensor": True, "codec.bits": 2},
    "median": PLUS | {"scheme.aggregation": "median", "scheme.device_clip": 2.0, "scheme.max_samples": 3.0},
    "attack": PLUS | {"attack.kind": "sign_flip", "attack.devices": 2, "scheme.aggregation": "trimmed_mean"},
    "replay": SPLIT | {"attack.kind": "replay", "attack.devices": 2},
    "max_share": PLUS | {"scheme.max_share": 0.3},
    "torch": PLUS | {"torch_device": "cpu"},
    "torch_sp_fl": SPLIT | {"torch_device": "cpu"},
    "processes": PLUS | {"processes": 2},
    "workers": PLUS | {"workers": 1},
    "energy": SPLIT | {"device.cycles_per_sample": 1e6, "device.cpu_spread": 3.0},
    "validation": SPLIT | {"data.validation_fraction": 0.2},
    "pool": SPLIT | {"data.pool": 2},
}


def cases() -> dict[str, dict[str, Any]]:
    """Overrides of each configuration by name: every scheme, and every option on top of a scheme that uses it."""
    return {f"scheme:{name}": {"scheme.name": name} for name in spfl.SCHEMES} | OPTIONS


def command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "spfl", *words], check=True, capture_output=True)


def by_command(folder: Path) -> dict[str, str]:
    """Digests of a run on Flower in process, of a resumed run, and of a sweep."""
    sets = [word for key, value in (BASE | PLUS).items() for word in ("--set", f"{key}={value}")]
    flower, resumed, swept = folder / "flower", folder / "resumed", folder / "swept"
    command("flower", "run", *sets, "--out", str(flower))
    command("run", *sets, "--out", str(resumed))
    for name in ("summary.json", "weights.safetensors"):
        (resumed / name).unlink()
    command("run", "--resume", "--out", str(resumed))
    plan = ['[base]\nconfig = "base.toml"\n[[grid]]\nseed = [0, 1]\n"scheme.name" = ["sp_fl", "sp_fl_plus_1"]\n']
    (folder / "base.toml").write_text("[model]\nwidth = 16\n[data]\ndevices = 6\n[training]\nrounds = 4\n")
    (folder / "plan.toml").write_text("".join(plan))
    command("sweep", str(folder / "plan.toml"), "--out", str(swept))
    lines = [json.loads(line) for line in (swept / "results.jsonl").read_text().splitlines()]
    points = {f"sweep:{line['point']}" if "point" in line else f"sweep:{i}": line for i, line in enumerate(lines)}
    sweep = json.dumps(sorted(str(line.get("summary", line).get("digest", "")) for line in points.values()))
    return {
        "flower": json.loads((flower / "summary.json").read_text())["digest"],
        "resume": json.loads((resumed / "summary.json").read_text())["digest"],
        "sweep": sweep,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    found = {}
    for name, overrides in cases().items():
        found[name] = str(spfl.run(overrides=BASE | overrides).summary["digest"])
    with tempfile.TemporaryDirectory() as folder:
        found |= by_command(Path(folder))
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} digests in {arguments.out}")
    if arguments.against is not None:
        before = json.loads(arguments.against.read_text())
        changed = [name for name in before if found.get(name) != before[name]]
        if changed:
            sys.exit(f"changed: {', '.join(changed)}")
        print(f"all {len(before)} as in {arguments.against}")


if __name__ == "__main__":
    main()
