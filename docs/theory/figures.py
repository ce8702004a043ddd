"""The pictures of docs/theory.md, from the package's own functions: `python docs/theory/figures.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from spfl.allocation.allocator import allocate
from spfl.allocation.bound import Devices, Objective, device_cost
from spfl.allocation.problem import Limits
from spfl.figures.looks import COLOURS
from spfl.radio.outage import Link, success

HERE = Path(__file__).parent
SIGN, MODULUS, SINGLE = COLOURS[0], COLOURS[4], COLOURS[3]
D, BITS = 34_000, 3


def link(snr_db: Any) -> Link:
    """Devices with these SNRs on an equal share, two symbols a parameter."""
    snr = 10 ** (np.atleast_1d(np.asarray(snr_db, float)) / 10)
    ones = np.ones(snr.size)
    band = 1e6 * snr.size
    return Link(band, 1e-9, ones * 1e-3, snr, ones * 2 * D * snr.size / band, ones * D, ones * BITS * D)


def packets() -> Figure:
    figure = Figure(figsize=(8.6, 3.3), dpi=160)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 40))
    axes.axis("off")

    def box(x: float, y: float, w: float, h: float, text: str, colour: str) -> None:
        axes.add_patch(
            FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.4", facecolor=colour, edgecolor="none", alpha=0.22)
        )
        axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=9)

    def arrow(x0: float, y0: float, x1: float, y1: float, style: str = "-") -> None:
        axes.add_patch(
            FancyArrowPatch((x0, y0), (x1, y1), arrowstyle="-|>", mutation_scale=11, color="#444", linestyle=style)
        )

    box(1, 15, 15, 10, "gradient of\ndevice k\ng = s · v", "#777777")
    box(24, 25, 20, 9, "sign packet\n1 bit an element", SIGN)
    box(24, 6, 20, 9, f"modulus packet\nb = {BITS} bits an element", MODULUS)
    arrow(17, 21, 23.3, 28.5)
    arrow(17, 19, 23.3, 11.5)
    axes.text(55.5, 36, "fading uplink", ha="center", fontsize=9, style="italic")
    axes.text(55.5, 31.2, "band βρ, power αP", ha="center", fontsize=8, color=SIGN)
    axes.text(55.5, 7.0, "band β(1-ρ), power (1-α)P", ha="center", fontsize=8, color="#a06b00")
    arrow(45, 29.5, 66, 29.5)
    arrow(45, 10.5, 66, 10.5, "--")
    box(67, 25, 30, 9, "both arrive:  s · v\nsign alone:  s · v̄  (stand-in)", SIGN)
    box(67, 6, 30, 9, "modulus lost: the sign still counts\nsign lost: device is left out", MODULUS)
    axes.text(82, 19.8, "weighted sum over devices, one step", ha="center", fontsize=9)
    arrow(82, 24, 82, 21.8)
    return figure


def odds() -> Figure:
    figure = Figure(figsize=(7.2, 3.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    snr_db = np.linspace(-15, 15, 241)
    one = link(snr_db)
    share = 1.0 / one.size
    single = success(one, share, one.split)
    signs = success(one, share, 1.0, 1.0)
    half = success(one, share, 0.7)
    axes.plot(snr_db, single.q_s, color=SINGLE, ls="--", label="single packet: sign and modulus")
    axes.plot(snr_db, signs.q_s, color=SIGN, label="sign packet with all band and power")
    axes.plot(snr_db, half.q_s, color=SIGN, ls=":", label="sign packet with 0.7 of the power, 1/4 of the band")
    axes.plot(snr_db, half.q_s * half.r_m, color=MODULUS, ls=":", label="and its modulus packet")
    axes.set(xlabel="SNR of a device on its equal share (dB)", ylabel="Pr[packet arrives]", ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def problem(devices: int) -> tuple[Devices, Link, Any]:
    """Devices from -15 to 15 dB with equal gradients; what a sign alone stands for has 2/pi of the squared norm."""
    snr_db = np.linspace(15, -15, devices)
    ones = np.ones(devices)
    v2 = ones
    return Devices(ones / devices, v2, 2 / np.pi * v2, 2 / np.pi * v2, 0.02 * ones), link(snr_db), snr_db


def cost() -> Figure:
    figure = Figure(figsize=(7.2, 3.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    devices, one, snr_db = problem(3)
    alpha = np.linspace(0.02, 0.999, 400)
    for k, colour in enumerate((COLOURS[2], COLOURS[0], COLOURS[1])):
        values = []
        for a in alpha:
            chance = success(one, 1 / 3, np.full(3, a))
            values.append(device_cost(devices, chance.q_s, chance.r_m, Objective(weights="plain", theta=0.0))[k])
        values = np.array(values) * 9
        axes.plot(alpha, values, color=colour, label=f"{snr_db[k]:+.0f} dB")
        axes.plot(alpha[values.argmin()], values.min(), "o", color=colour)
    axes.axvline(0.25, color="#888", lw=0.8, ls="--")
    axes.text(0.255, 0.55, "conventional split", fontsize=8, color="#555", transform=axes.get_xaxis_transform())
    axes.set(xlabel="α: share of a device's power for its sign packet", ylabel="cost of the device, relative")
    axes.legend(frameon=False, fontsize=8, title="SNR")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def shares() -> Figure:
    figure = Figure(figsize=(7.2, 3.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    devices, one, snr_db = problem(16)
    result = allocate(devices, one, Objective(weights="plain", theta=0.0), Limits(optimise_rho=True))
    signs = result.beta * result.rho
    axes.bar(range(16), signs, color=SIGN, label="band for signs")
    axes.bar(range(16), result.beta - signs, bottom=signs, color=MODULUS, label="band for moduli")
    axes.axhline(1 / 16, color="#888", lw=0.8, ls="--", label="equal shares")
    axes.set_xticks(range(16), [f"{value:+.0f}" for value in snr_db], fontsize=8)
    axes.set(xlabel="device, by its SNR on an equal share (dB)", ylabel="share of the band β")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    for draw in (packets, odds, cost, shares):
        draw().savefig(HERE / f"{draw.__name__}.png")
        print(HERE / f"{draw.__name__}.png")
