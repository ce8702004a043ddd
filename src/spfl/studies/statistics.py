"""The numbers of a study: scores with confidence, paired differences, cost to a target; and their text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from spfl.errors import ConfigError, did_you_mean
from spfl.figures.drawing import half_width
from spfl.figures.scores import ACCURACY, SHARES, ScoreKind, difference, shown, unit
from spfl.runs.jsons import Json
from spfl.studies.study import Study, plain, short, show

SIGNIFICANT, ENOUGH_SEEDS = 0.01, 5  # what it takes to call one scheme better than another
DEFAULT_REFERENCE = ("sp_fl_plus", "sp_fl_plus_1", "sp_fl")
TARGET_SHARE = 0.9  # of the reference's score, where no target is given


def score_table(study: Study) -> list[Json]:
    """Mean score (last quarter of the evaluations) of each series in each slice, with its 95 % interval and n."""
    return [
        {
            "slice": plain(setting),
            "series": label,
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "half_width": half_width(values),
            "n": len(values),
        }
        for setting, rows in study.slices().items()
        for label, members in study.series(rows).items()
        for values in [[study.last(row) for row in members]]
    ]


def choose_reference(study: Study, name: str | None) -> str | None:
    """The label of the series that others are compared with: the one named, else one of DEFAULT_REFERENCE.

    Where a scheme of these has several series, the one that has more runs than any other.

    Raises ConfigError for a name that no series has, or that several have.
    """
    labels = study.series(study.rows)
    for wanted in [name] if name else DEFAULT_REFERENCE:
        found = [label for label, rows in labels.items() if wanted in (label, rows[0]["scheme"])]
        if not name:
            most = max((len(labels[label]) for label in found), default=0)
            found = [label for label in found if len(labels[label]) == most]
        if len(found) == 1:
            return found[0]
        if name and found:
            raise ConfigError(f"--reference {name} is not unique; name one of: {'; '.join(found)}")
        if name:
            raise ConfigError(f"--reference: no series '{name}'" + did_you_mean(name, labels))
    return None


def paired_table(study: Study, reference: str) -> list[Json]:
    """Score of the reference minus that of each other series, over the seeds that both have, in each slice.

    `p` is of the two-sided paired t test; None for fewer than two seeds or differences without any spread.
    `verdict` is of the reference: better or worse if p < 0.01 with at least five seeds, else not shown.
    """
    table = []
    for setting, rows in study.slices().items():
        series = study.series(rows)
        ours = {row["seed"]: study.last(row) for row in series.pop(reference, [])}
        for label, members in series.items():
            differences = [ours[row["seed"]] - study.last(row) for row in members if row["seed"] in ours]
            if differences:
                table.append({"slice": plain(setting), "series": label, **paired(differences, study.score)})
    return table


def paired(differences: Sequence[float], score: ScoreKind = ACCURACY) -> Json:
    """Mean, 95 % interval, p value, n and verdict of paired differences."""
    mean, n = statistics.fmean(differences), len(differences)
    p = float(stats.ttest_1samp(differences, 0.0).pvalue) if n > 1 and np.ptp(differences) > 1e-12 else None
    claim = p is not None and p < SIGNIFICANT and n >= ENOUGH_SEEDS
    verdict = ("better" if score.sign * mean > 0 else "worse") if claim else "not shown"
    return {"difference": mean, "half_width": half_width(differences), "p": p, "n": n, "verdict": verdict}


def check_target(study: Study, target: float | None) -> None:
    """Raises ConfigError for a target that no score of the study can be."""
    share = study.score.metric in SHARES
    if target is not None and not (0 <= target <= 1 if share else math.isfinite(target)):
        raise ConfigError(f"--target must be {'in [0, 1]' if share else 'finite'}, got {target:g}")


def drawn_half(row: Json) -> float:
    """Half of the interval that a figure draws for a row of `paired_table`; 0 with fewer than three seeds."""
    return float(row["half_width"]) if row["n"] >= 3 else 0.0


def target_table(study: Study, target: float | None, reference: str | None = None) -> list[Json]:
    """Rounds, payload bits and seconds of uplink until the first evaluation that reaches a target score.

    Medians over the seeds, a seed that does not reach it counting as infinite. Without a target it is, in each slice,
    90 % of the score of the reference, or of the best series where that is not: a tenth of it worse.
    """
    table = []
    for setting, rows in study.slices().items():
        series = study.series(rows)
        means = {label: statistics.fmean(map(study.last, members)) for label, members in series.items()}
        best = means.get(reference or "", study.score.best(means.values()))
        aim = _worse(best, study.score) if target is None else target
        for label, members in series.items():
            costs = np.array([_cost(row, aim, study.score) for row in members])
            rounds, bits, seconds = np.median(costs, axis=0).tolist()
            reached = int(np.isfinite(costs[:, 0]).sum())
            about = {"slice": plain(setting), "series": label, "target": aim, "reached": reached, "n": len(members)}
            table.append(about | {"rounds": rounds, "payload_bits": bits, "uplink_s": seconds})
    return table


def _worse(value: float, score: ScoreKind) -> float:
    """A score that is a tenth worse, whatever its direction and sign."""
    return value * (TARGET_SHARE if score.sign * value > 0 else 1 / TARGET_SHARE)


def _cost(row: Json, target: float, score: ScoreKind) -> tuple[float, float, float]:
    for round_, value, bits in zip(
        row["curve_round"], row[f"curve_{score.metric}"], row["curve_payload_bits"], strict=True
    ):
        if score.sign * value >= score.sign * target:
            return round_, bits, round_ * row["uplink_s_per_round"]
    return math.inf, math.inf, math.inf


# --- in words -----------------------------------------------------------------------------------------------


def tables_text(tables: Json, part: str, metric: str = "accuracy") -> str:
    """The tables in Markdown, each under a heading and with a line that says what it shows."""
    cells = Cells(metric)
    parts = [
        f"## {part.capitalize()} {metric}\n\nMean over the evaluations of the last quarter of the rounds, then over n "
        "seeds, with the 95 % t interval of that mean.\n",
        _markdown(tables[metric], [f"mean{unit(metric)}", "±", "std", "n"], cells.score),
    ]
    if tables["paired"]:
        parts += [
            f"\n## {tables['reference']} against the others\n\n{metric.capitalize()} of {tables['reference']} minus "
            f"that of the scheme, {'in points, ' if unit(metric) else ''}over common seeds, with 95 % t interval and "
            f"the p value of a paired t test, not corrected for the {len(tables['paired'])} comparisons. It is called "
            f"better or worse only if p < {SIGNIFICANT:g} and n >= {ENOUGH_SEEDS}.\n",
            _markdown(tables["paired"], ["difference", "±", "p", "n", "verdict"], cells.paired),
        ]
    parts += [
        "\n## Cost to a target\n\nUntil the first evaluation that reaches the target; medians over seeds.\n",
        _markdown(tables["target"], [f"target{unit(metric)}", "reached", "rounds", "Mbit", "uplink s"], cells.target),
    ]
    return "\n".join(parts)


def _markdown(table: Sequence[Json], columns: Sequence[str], cells: Callable[[Json], list[str]]) -> str:
    keys = list(table[0]["slice"])
    header = [*map(short, keys), "scheme", *columns]
    rule = [*["---:"] * len(keys), "---", *["---:"] * len(columns)]
    lines = [[*(show(row["slice"][key]) for key in keys), row["series"], *cells(row)] for row in table]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *lines]) + "\n"


@dataclass(frozen=True)
class Cells:
    """The cells of a row of each table, as text; shares in per cent."""

    metric: str

    def _text(self, value: float | None) -> str:
        return shown(self.metric, value, 2, "")

    def score(self, row: Json) -> list[str]:
        return [*map(self._text, (row["mean"], row["half_width"], row["std"])), str(row["n"])]

    def paired(self, row: Json) -> list[str]:
        p = "-" if row["p"] is None else f"{row['p']:.2g}"
        less = difference(self.metric, row["difference"], 2)
        return [less, self._text(row["half_width"]), p, str(row["n"]), row["verdict"]]

    def target(self, row: Json) -> list[str]:
        costs = [(row["rounds"], 1.0, "g"), (row["payload_bits"], 1e-6, ".4g"), (row["uplink_s"], 1.0, ".3g")]
        texts = [format(scale * cost, form) if np.isfinite(cost) else "not reached" for cost, scale, form in costs]
        return [self._text(row["target"]), f"{row['reached']} of {row['n']}", *texts]
