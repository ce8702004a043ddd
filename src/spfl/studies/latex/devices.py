"""Who got what, as a LaTeX table: a row a device, from the strongest link to the weakest; columns for each scheme."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from spfl.arrays import Floats
from spfl.figures.style import SCREEN, FigureStyle
from spfl.figures.tex import tex_text
from spfl.runs.results import Group, Run
from spfl.studies.latex.tables import environment, three_digits
from spfl.studies.recorded import study_of_groups
from spfl.studies.study import title
from spfl.units import linear_to_db

MOST_ROWS = 24  # in a table; of more devices, so many groups of neighbours
MOST_SCHEMES = 4  # side by side


class Got(NamedTuple):
    """Means over rounds and seeds, each (device,), the devices sorted by gain, the largest first."""

    gain_db: Floats
    share: Floats
    signs: Floats
    moduli: Floats
    energy_j: Floats


def allocation_tables(groups: Sequence[Group], style: FigureStyle = SCREEN) -> Iterator[tuple[str, str]]:
    """Name and text of a table for each setting (and four schemes) of which there are run folders with devices."""
    study = study_of_groups(groups)
    runs = [run for group in groups for run in group.runs if run.summary[f"{run.metric}_last"] is not None]
    found = []
    for setting, rows in study.slices().items():
        series = {name: [runs[int(row["key"])] for row in members] for name, members in study.series(rows).items()}
        known = [name for name in style.arranged(series) if all(map(_has_devices, series[name]))]
        for start in range(0, len(known), MOST_SCHEMES):
            chosen = {name: _mean(series[name]) for name in known[start : start + MOST_SCHEMES]}
            found.append((title(setting), chosen))
    for number, (where, chosen) in enumerate(found, 1):
        name = f"allocation_{number}" if len(found) > 1 else "allocation"
        yield name, _table(name, where, chosen, style)


def _has_devices(run: Run) -> bool:
    return bool(run.devices is not None and len(run.devices) and run.allocation is not None and len(run.allocation))


def _mean(runs: Sequence[Run]) -> Got:
    """Over the seeds, which may have other gains: the strongest device of one counts with the strongest of the other.

    Runs of other numbers of devices are cut to the fewest.
    """
    every = [_got(run) for run in runs]
    fewest = min(one.gain_db.size for one in every)
    return Got(*(np.mean([values[:fewest] for values in of], axis=0) for of in zip(*every, strict=True)))


def _got(run: Run) -> Got:
    assert run.devices is not None
    assert run.allocation is not None
    gain, device = (np.asarray(run.devices[name]) for name in ("gain", "device"))
    order = np.argsort(-gain, kind="stable")
    table = {name: np.asarray(run.allocation[name]) for name in ("device", "beta", "sign", "modulus", "joules")}
    rounds = len(run.rounds)
    place = np.full(1 + max(device.max(), table["device"].max()), order.size)  # a place for who is in no table
    place[device[order]] = np.arange(order.size)
    at = place[table["device"]]

    def total(values: Floats) -> Floats:
        return np.bincount(at, values, order.size).astype(np.float64)[: order.size]

    chosen = np.maximum(total(np.ones(at.size)), 1)  # rounds in which a device took part
    signs, moduli = table["sign"].astype(float), (table["modulus"] & table["sign"]).astype(float)
    received = (total(signs) / chosen, total(moduli) / chosen)
    return Got(linear_to_db(gain[order]), total(table["beta"]) / chosen, *received, total(table["joules"]) / rounds)


def _table(name: str, where: str, chosen: Mapping[str, Got], style: FigureStyle) -> str:
    first = next(iter(chosen.values()))
    split = {label: not np.allclose(got.signs, got.moduli) for label, got in chosen.items()}
    received = {label: ["Signs", "Moduli"] if split[label] else ["Packets"] for label in chosen}
    heads = {label: ["Band", *received[label], "Energy"] for label in chosen}
    spans, rules, start = [""] * 2, [], 3
    for label, columns in heads.items():
        spans.append(rf"\multicolumn{{{len(columns)}}}{{c}}{{{tex_text(style.text(label))}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + len(columns) - 1}}}")
        start += len(columns)
    units = ["", "(dB)", *("(mJ)" if word == "Energy" else r"(\%)" for columns in heads.values() for word in columns)]
    lines = [" & ".join(spans) + r" \\", "".join(rules)]
    lines += [" & ".join(["Rank", "Gain", *(word for columns in heads.values() for word in columns)]) + r" \\"]
    lines += [" & ".join(units) + r" \\", r"\midrule"]
    for part in np.array_split(np.arange(first.gain_db.size), min(MOST_ROWS, first.gain_db.size)):
        rank = str(part[0] + 1) if part.size == 1 else f"{part[0] + 1}--{part[-1] + 1}"
        cells = [rank, f"${first.gain_db[part].mean():.1f}$"]
        for label, got in chosen.items():
            values = (got.share, got.signs, got.moduli) if split[label] else (got.share, got.signs)
            cells += [three_digits(float(100 * of[part].mean())) for of in values]
            cells.append(three_digits(float(1e3 * got.energy_j[part].mean())))
        lines.append(" & ".join(cells) + r" \\")
    caption = (
        "What the devices got, ranked within each seed from the strongest mean gain to the weakest: the share of the "
        "band, and how many of their packets were received; means over the rounds in which they took part, and over "
        "seeds. The energy of a device's transmissions is a mean over all rounds."
    )
    at = f" {where[:1].upper()}{where[1:]}." if where else ""
    return environment(name.replace("_", "-"), tex_text(caption + at), "rr" + "r" * (start - 3), lines)
