"""What schemes of the headline study reach at each value of a setting of their own, on images set aside from training.

python benchmarks/tiers.py add runs/knobs2     # the finished points of a sweep into docs/results/headline/points.json
python benchmarks/tiers.py add runs/knobs16
python benchmarks/knobs.py                     # docs/results/headline/knobs.md from that file
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from tiers import FOLDER, PLAIN, POINTS, interval, is_plain

STUDIES = {
    "knobs2": "full resolution; rates of 0.1, 0.3, 1 have one seed, the third beside the two of rates.toml",
    "knobs_peaks": "full resolution; ours with peaks; schedule_capacity at Dirichlet 0.1, one symbol and four symbols",
    "tau_peaks": "full resolution; ours with peaks, three fresh seeds, on a CPU",
    "knobs16": "images of 16 x 16",
    "rates2": "full resolution, rates; the third seed beside the two of rates.toml; `sp_fl_plus` with peaks: all three",
}
KNOBS = {
    "scheme.bits_per_value": "bits a value",
    "scheme.scheduled": "devices scheduled",
    "scheme.tau": "tau",
    "scheme.ridge": "ridge",
    "codec.bits": "bits of a modulus",
    "codec.per_tensor": "a range a tensor",
    "scheme.density": "density",
    "training.rate": "rate",
}
SNR = "channel.median_snr_db"
Setting = tuple[tuple[str, Any], ...]


def setting_of(point: dict[str, Any]) -> Setting:
    """What is tuned, in the order of the columns."""
    settings = point["settings"]
    return tuple((words, settings[key]) for key, words in KNOBS.items() if key in settings)


def name_of(point: dict[str, Any]) -> str:
    """The scheme, and what it is tuned for."""
    settings = point["settings"]
    told = [f"`{point['scheme']}`"]
    told += [PLAIN] if is_plain(point) else []
    told += ["fade known"] if settings.get("channel.device_csi") == "instantaneous" else []
    told += [f"Dirichlet 0.1, {settings[SNR]:g} dB"] if settings.get("data.dirichlet_alpha") == 0.1 else []
    return ", ".join(told)


def rows(points: Sequence[dict[str, Any]]) -> list[str]:
    """A row a scheme and setting, the best of each scheme in bold."""
    found: dict[str, dict[Setting, list[float]]] = {}
    for point in points:
        of_scheme = found.setdefault(name_of(point), {})
        of_scheme.setdefault(setting_of(point), []).append(100 * point["accuracy_last"])
    lines = ["| scheme | setting | accuracy (%) | 95 % interval | n |", "|---|---|---:|---:|---:|"]
    for scheme, settings in sorted(found.items()):
        best = max(statistics.fmean(values) for values in settings.values())
        same = set.intersection(*map(set, settings)) if len(settings) > 1 else set()  # a sweep tells idle keys too
        for setting, values in sorted(settings.items()):
            told = (
                ", ".join(f"{words} = {value}" for words, value in setting if (words, value) not in same) or "defaults"
            )
            mean = statistics.fmean(values)
            shown = f"**{mean:.1f}**" if mean == best else f"{mean:.1f}"
            spread = f"± {interval(values)}" if len(values) > 1 else ""
            lines.append(f"| {scheme} | {told} | {shown} | {spread} | {len(values)} |")
    return lines


def main() -> None:
    known = json.loads(POINTS.read_text())
    lines = ["# Settings of the schemes", "", "Made by `python benchmarks/knobs.py` from points.json.", ""]
    for study, words in STUDIES.items():
        points = [p for p in known if p["study"] == study]
        if points:
            lines += [f"## {study}: {words}", "", *rows(points), ""]
    (FOLDER / "knobs.md").write_text("\n".join(lines).strip() + "\n")


if __name__ == "__main__":
    main()
