"""The figures of docs/radio.md: links against each other, and what each radio option does to accuracy (digits).

python benchmarks/radio_figures.py [OUT]       default docs/radio; some minutes on two cores
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from spfl.config.schema import build_config
from spfl.data.sources import load_dataset
from spfl.radio.coded import block_error_rate, gap_table, measured_curves
from spfl.radio.nr_blocks import SNR_DB, transport_curves
from spfl.radio.selective import Packet, RadioLaw
from spfl.runs.metrics import metrics, summarise
from spfl.training import run

SEEDS = range(5)
BASE = {"data": {"devices": 20}, "model": {"name": "softmax"}, "training": {"rounds": 40, "eval_every": 5, "rate": 0.1}}
SCHEMES = ("single_packet", "sp_fl_normalized", "sp_fl_plus_1")
Settings = dict[float, dict[str, Any]]


class Panel(NamedTuple):
    """An option: its axis, and for each line style the settings along it."""

    title: str
    xlabel: str
    lines: dict[str, Settings]
    log: bool = False


def segments(recovery: str) -> Settings:
    """By the number of segments of the modulus packet (d = 650, b = 3: 2,178 bits with header)."""
    cuts = {1: {}, 2: {"segment_bits": 1280}, 4: {"segment_bits": 640}, 5: {"segment_bits": 512}}
    return {n: {"fading": "independent", "recovery": recovery if cut else "all"} | cut for n, cut in cuts.items()}


def powers(downlink: str) -> Settings:
    return {p: {"downlink": downlink, "downlink_power_dbm": p} for p in (6.0, 13.0, 20.0, 27.0)}


PANELS = (
    Panel(
        "Several fades a packet",
        "subbands",
        {"": {n: {"fading": "selective", "subbands": n} if n > 1 else {"fading": "independent"} for n in (1, 2, 4, 8)}},
    ),
    Panel(
        "Fades that remember",
        "Doppler frequency x time between rounds",
        {"": {f: {"doppler_hz": f, "round_s": 1.0} for f in (0.003, 0.01, 0.03, 0.1, 0.3)}},
        log=True,
    ),
    Panel(
        "Noisy gains", "error of the known gains (dB)", {"": {e: {"csi_error_db": e} for e in (0.0, 3.0, 6.0, 12.0)}}
    ),
    Panel("Broadcasts missed", "base station's power (dBm)", {"stale": powers("stale"), "sit out": powers("sit_out")}),
    Panel(
        "Segments",
        "segments of the modulus packet",
        {"all or nothing": segments("all"), "one by one": segments("segment")},
    ),
    Panel(
        "Coded links",
        "median SNR (dB)",
        {
            "capacity": {snr: {"median_snr_db": snr} for snr in (-4.0, 0.0, 4.0)},
            "error rates": {snr: {"median_snr_db": snr, "link": "bler"} for snr in (-4.0, 0.0, 4.0)},
        },
    ),
)


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


def gaps(out: Path) -> None:
    """SNR above capacity at which 10 % of the packets are lost, by rate: our simulation and Sionna's tables."""
    figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    ours = [(c.rate, np.interp(-0.1, -c.bler, 10 * np.log10(c.snr))) for c in measured_curves()]
    lines = {"our LDPC, 500 bits": np.array(ours)}
    for bits in (500, 2000, 34138):
        curves = transport_curves(bits)
        at = [np.interp(-0.1, -row, SNR_DB) for row in curves.tbler]
        lines[f"Sionna's transport blocks, {bits:,} bits"] = np.column_stack([curves.rates, at])
    for (label, points), marker in zip(lines.items(), "os^D", strict=True):
        axes.plot(points[:, 0], points[:, 1] - 10 * np.log10(2 ** points[:, 0] - 1), marker + "-", label=label, ms=4)
    axes.set(xlabel="rate (bit/s/Hz)", ylabel="dB above capacity at 10 % loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(out / "gaps.png", dpi=130)


def accuracy(point: tuple[str, dict[str, Any], int]) -> float:
    scheme, channel, seed = point
    channel = {"median_snr_db": 0.0, "symbols_per_parameter": 2.0} | channel
    config = build_config({"seed": seed, "workers": 1, "channel": channel, "scheme": {"name": scheme}} | BASE)
    return summarise(metrics(r) for r in run(config, load_dataset("digits")))["accuracy_last"]


def effects(out: Path) -> None:
    """Accuracy of three schemes along each option: mean and extremes over the seeds."""
    rows = []
    for panel in PANELS:
        for style, settings in panel.lines.items():
            for x, channel in settings.items():
                for scheme in SCHEMES:
                    values = [accuracy((scheme, channel, seed)) for seed in SEEDS]
                    rows.append(
                        {"option": panel.title, "style": style, "x": x, "scheme": scheme, "accuracy": values}
                        | {"channel": channel}
                    )
        print(panel.title, flush=True)
    (out / "effects.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, out)


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    figure, grid = plt.subplots(2, 3, figsize=(12, 7), layout="constrained", sharey=True)
    for panel, axes in zip(PANELS, grid.flat, strict=True):
        for i, style in enumerate(panel.lines):
            for j, scheme in enumerate(SCHEMES):
                mine = [r for r in rows if (r["option"], r["style"], r["scheme"]) == (panel.title, style, scheme)]
                x, y = [r["x"] for r in mine], 100 * np.array([r["accuracy"] for r in mine])
                label = ", ".join(part for part in (scheme, style) if part)
                axes.plot(x, y.mean(1), "os^"[j] + ("-", "--")[i], color=f"C{j}", label=label, ms=4)
                axes.fill_between(x, y.min(1), y.max(1), color=f"C{j}", alpha=0.1, lw=0)
        axes.set(title=panel.title, xlabel=panel.xlabel, xscale="log" if panel.log else "linear")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6.5, handlelength=3.5)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    figure.suptitle(f"Digits, softmax, 40 rounds: mean and extremes of {len(SEEDS)} seeds", fontsize=10)
    figure.savefig(out / "effects.png", dpi=130)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "radio"
    folder.mkdir(parents=True, exist_ok=True)
    links(folder)
    gaps(folder)
    effects(folder)
