"""What the figures of a study show, as numbers: panels of lines with bands, for matplotlib and for pgfplots alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from spfl.arrays import Floats
from spfl.figures.drawing import LABELS, band, band_kind
from spfl.figures.scores import axis_label, factor
from spfl.runs.jsons import Json
from spfl.studies.study import Setting, Study, short, title, typeset

PANELS = 9  # in one figure
SPENT = (("joules", "Energy of all devices (J)"), ("seconds", "Time: computing and uplink (s)"))


class Points(NamedTuple):
    """A line: x, the mean over seeds, and the edges of the band around it, where there is one; each (x,)."""

    x: Floats
    mean: Floats
    edges: tuple[Floats, Floats] | None = None


@dataclass(frozen=True)
class Panels:
    """A figure before anything draws it: panels on common axes, with one legend.

    `kind` is what the bands show, `ticks` the places on the x axis that have words (none: the axis's own), `without`
    the swept key that stands along x, and `scale` what y is multiplied by where it is shown.
    """

    name: str
    xlabel: str
    ylabel: str
    panels: Sequence[tuple[str, Mapping[str, Points]]]  # a title, and lines by the label of their series
    kind: str = ""
    log: bool = False
    ticks: Mapping[float, str] = field(default_factory=dict)
    without: str = ""
    scale: float = 1.0

    def pages(self) -> Iterator[Panels]:
        """As many figures as it takes: `name` for one, `name_1`, `name_2`, ... for several."""
        starts = range(0, len(self.panels), PANELS)
        for page, start in enumerate(starts, 1):
            name = f"{self.name}_{page}" if len(starts) > 1 else self.name
            yield replace(self, name=name, panels=self.panels[start : start + PANELS])


def study_panels(study: Study) -> Iterator[Panels]:
    """Score against rounds, payload, what else was spent, and every swept number."""
    yield curve_panels(study, "rounds", "Communication round")
    yield curve_panels(study, "payload", "Payload sent (Mbit)")
    for column, label in SPENT:
        if all(row.get(f"curve_{column}") and row[f"curve_{column}"][-1] > 0 for row in study.rows):
            yield curve_panels(study, column, label)
    for axis in study.axes():
        yield axis_panels(study, axis)


COLUMN = {"rounds": "round", "payload": "payload_bits"}  # of the curves, where it has another name than the figure
SHOWN_IN = {"payload": 1e-6}  # Mbit


def curve_panels(study: Study, along: str, xlabel: str) -> Panels:
    """Score against a column of the curves, a panel a slice, a line a series: mean and band over seeds."""
    slices = study.slices()
    kind = band_kind(len(m) for rows in slices.values() for m in study.series(rows).values())

    def line(rows: Sequence[Json]) -> Points:
        x, score = study.curves(rows, COLUMN.get(along, along))
        return Points(SHOWN_IN.get(along, 1.0) * x, score.mean(0), band(score, kind))

    panels = [(title(s), {name: line(m) for name, m in study.series(rows).items()}) for s, rows in slices.items()]
    ends = [points.x[-1] for _, lines in panels for points in lines.values()]
    return _panels(study, along, xlabel, Panels("", "", "", panels, kind, log=0 < 4 * min(ends) < max(ends)))


def axis_panels(study: Study, axis: str) -> Panels:
    """Score against a swept number, a panel a slice of all else, a line a series: mean and band over seeds."""
    kept: dict[Setting, list[Json]] = {}
    for setting, rows in study.slices(axis).items():
        groups = study.series(rows, axis).values()
        along = [row for members in groups if len({row[axis] for row in members} - {None}) > 1 for row in members]
        if along:
            kept[setting] = [row for row in along if row[axis] is not None]
    kind = band_kind(
        len([row for row in members if row[axis] == value])
        for rows in kept.values()
        for members in study.series(rows, axis).values()
        for value in {row[axis] for row in members}
    )
    values = [value for value in study.values(axis) if value is not None]
    places = dict(zip(values, _places(values), strict=True))

    def line(rows: Sequence[Json]) -> Points:
        x = sorted({row[axis] for row in rows})
        seeds = [np.array([[study.last(row)] for row in rows if row[axis] == value]) for value in x]
        bands = [band(s, kind) for s in seeds]
        low, high = (np.array([b[side][0] if b else np.nan for b in bands]) for side in (0, 1))
        return Points(np.array([places[value] for value in x]), np.array([s.mean() for s in seeds]), (low, high))

    panels = [(title(s), {name: line(m) for name, m in study.series(rows, axis).items()}) for s, rows in kept.items()]
    ticks = {place: typeset(value) for value, place in places.items()} if len(places) <= 8 else {}
    found = Panels("", "", "", panels, kind, _is_wide(axis, places.values()), ticks, axis)
    return _panels(study, short(axis), LABELS.get(axis, axis), found)


def _panels(study: Study, along: str, xlabel: str, found: Panels) -> Panels:
    metric = study.score.metric
    ylabel = axis_label(metric, study.part.capitalize())
    return replace(found, name=f"{metric}_vs_{along}", xlabel=xlabel, ylabel=ylabel, scale=factor(metric))


def _places(values: Sequence[float]) -> list[float]:
    """Where values stand on an axis: IID data, of infinite concentration, a step beyond the largest finite one."""
    finite = [value for value in values if np.isfinite(value)]
    return [value if np.isfinite(value) else 3.0 * finite[-1] for value in values]


def _is_wide(key: str, places: Collection[float]) -> bool:
    """Whether an axis is logarithmic: levels never are, other positive numbers from a factor of eight on."""
    first, last = min(places), max(places)
    return not key.endswith(("_db", "_dbm")) and first > 0 and last >= 8 * first
