"""The figures of docs/radio.md: links against each other, and what each radio option does to accuracy (digits).

python benchmarks/radio_figures.py [OUT]       default docs/radio; some minutes on two cores
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from spfl.config import build_config
from spfl.data import load_dataset
from spfl.radio.calibrate import block_error_rate, gap_table
from spfl.radio.law import Packet, RadioLaw
from spfl.runlog import metrics, summarise
from spfl.training import run

SEEDS = range(5)
BASE = {"data": {"devices": 20}, "model": {"name": "softmax"}, "training": {"rounds": 40, "eval_every": 5, "rate": 0.1}}
SCHEMES = {"single_packet": {}, "sp_fl_normalized": {}, "sp_fl_plus": {}}
CUT = {"fading": "independent", "segment_bits": 640}
OPTIONS = {
    "block fading": {},
    "LDPC gap": {"link": "gap"},
    "LDPC error rates": {"link": "bler"},
    "4 subbands": {"fading": "selective"},
    "Doppler: correlation 0.9": {"doppler_hz": 1.0, "round_s": 0.1},
    "gains off by 6 dB": {"csi_error_db": 6.0},
    "85 % of the broadcasts missed: stale": {"downlink": "stale", "downlink_power_dbm": 13.0},
    "85 % of the broadcasts missed: sit out": {"downlink": "sit_out", "downlink_power_dbm": 13.0},
    "independent fades": {"fading": "independent"},
    "segments, all or nothing": CUT,
    "segments, one by one": CUT | {"recovery": "segment"},
}


def links(out: Path) -> None:
    """Failure probability of a packet under Rayleigh fading against mean SNR, for two rates, by four models."""
    table, figure = gap_table(), plt.figure(figsize=(9, 3.8), layout="constrained")
    snr_db = np.linspace(0, 35, 60)
    snr = 10 ** (snr_db / 10)
    fade = -np.log1p(-(np.arange(4000) + 0.5) / 4000)
    for i, (name, rate, bits) in enumerate((("sign packet, R = 1", 1.0, 500), ("modulus packet, R = 3", 2.9939, 500))):
        axes, packet = figure.add_subplot(1, 2, i + 1), Packet(np.full(snr.size, rate), snr)
        gap = RadioLaw(snr_gap=table["snr_gap"], gap_slope=table["gap_slope"])
        measured = 1 - np.mean(1 - block_error_rate(np.array([[rate]]), snr[:, None] * fade), axis=1)
        use, level = bits / rate, snr[:, None] * fade
        spread = np.sqrt(level * (level + 2) / (2 * (level + 1) ** 2) / use) / np.log(2)
        margin = np.log2(1 + level) - rate + np.log2(use) / (2 * use)
        normal = norm.sf(margin / np.maximum(spread, 1e-9)).mean(axis=1)
        axes.semilogy(snr_db, measured, label="LDPC, measured (500 bits)", lw=2.5)
        axes.semilogy(snr_db, 1 - gap.segment_success(packet), "--", label="outage with fitted gap")
        axes.semilogy(snr_db, normal, "-.", label="normal approximation (500 bits)")
        axes.semilogy(snr_db, 1 - RadioLaw().segment_success(packet), ":", label="outage at capacity", lw=2)
        axes.set(title=name, xlabel="mean SNR (dB)", ylabel="Pr[packet lost]", ylim=(1e-3, 1.1))
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(out / "links.png", dpi=130)


def effects(out: Path) -> None:
    """Accuracy of three schemes under each option: mean and extremes over the seeds."""
    digits, rows = load_dataset("digits"), []
    for option, channel in OPTIONS.items():
        for scheme in SCHEMES:
            values = []
            for seed in SEEDS:
                channel_ = {"median_snr_db": 0.0, "symbols_per_parameter": 2.0} | channel
                config = build_config({"seed": seed} | BASE | {"channel": channel_, "scheme": {"name": scheme}})
                values.append(summarise(metrics(r) for r in run(config, digits))["accuracy_last"])
            rows.append({"option": option, "scheme": scheme, "accuracy": values})
        print(
            option, *[f"{r['scheme']} {statistics.fmean(r['accuracy']):.3f}" for r in rows[-len(SCHEMES) :]], flush=True
        )
    (out / "effects.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, out)


def draw(rows: list[dict], out: Path) -> None:
    figure, axes = plt.subplots(figsize=(8.5, 4.8), layout="constrained")
    for j, scheme in enumerate(SCHEMES):
        mine = [100 * np.array(r["accuracy"]) for r in rows if r["scheme"] == scheme]
        mean = np.array([m.mean() for m in mine])
        error = [mean - [m.min() for m in mine], [m.max() for m in mine] - mean]
        axes.errorbar(mean, np.arange(len(mine)) + 0.22 * (j - 1), xerr=error, fmt="os^"[j], label=scheme, capsize=2)
    axes.set_yticks(range(len(OPTIONS)), list(OPTIONS))
    axes.invert_yaxis()
    axes.set_xlabel(f"test accuracy (%), digits, 40 rounds: mean and extremes of {len(SEEDS)} seeds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(out / "effects.png", dpi=130)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "radio"
    folder.mkdir(parents=True, exist_ok=True)
    links(folder)
    effects(folder)
