"""The summary of a study as a LaTeX table: booktabs, mean and interval, the best in bold, marks of significance."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from spfl.figures.drawing import LABELS
from spfl.figures.scores import ACCURACY, ScoreKind, shown, unit
from spfl.figures.style import SCREEN, FigureStyle
from spfl.figures.tex import tex_text
from spfl.runs.jsons import Json
from spfl.schemes import SCHEMES
from spfl.studies.statistics import ENOUGH_SEEDS, SIGNIFICANT
from spfl.studies.study import typeset

MARKS = {"better": r"^{\dagger}", "worse": r"^{\ddagger}"}  # of the reference, over this series
COSTS: tuple[tuple[str, str, float], ...] = (
    ("payload_bits_per_round", "Payload (Mbit/round)", 1e-6),
    ("energy_j_per_round", "Energy (mJ/round)", 1e3),
    ("time_s_per_round", "Time (ms/round)", 1e3),
)


def summary_tex(
    rows: Sequence[Json], part: str = "test", style: FigureStyle = SCREEN, score: ScoreKind = ACCURACY
) -> str:
    """The rows of `long.summary_rows` as a table environment; it needs the package booktabs.

    The best series of each setting is bold; one that loses no packets by definition is a bound and not in the race.
    """
    keys = [key for key in rows[0] if "." in key and len({str(row[key]) for row in rows}) > 1]
    costs = [cost for cost in COSTS if any(row.get(cost[0]) for row in rows)]
    order = style.arranged(row["series"] for row in rows)
    header = [*(tex_text(LABELS.get(key, key)) for key in keys), "Scheme", _heading(score.metric), "$n$"]
    header += [name for _, name, _ in costs]
    lines, last = [], None
    for row in sorted(rows, key=lambda row: (_place(rows, keys, row), order.index(row["series"]))):
        setting = [typeset(row[key]) for key in keys]
        if last is not None and setting != last:
            lines.append(r"\midrule")
        words = [tex_text(word) if setting != last else "" for word in setting]
        last = setting
        values = [_three_digits(row.get(name), scale) for name, _, scale in costs]
        number = _score(row, score, _best(rows, keys, row, score))
        cells = [*words, tex_text(style.text(row["series"])), number, str(row["n"])]
        lines.append(" & ".join([*cells, *values]) + r" \\")
    columns = "r" * len(keys) + "lr" + "r" * (1 + len(costs))
    place = "table*" if len(columns) > MOST_IN_A_COLUMN else "table"
    units = [re.search(r"\((.+)\)$", name) for name in header]
    names = [name.rpartition(" (")[0] if unit else name for name, unit in zip(header, units, strict=True)]
    return TEMPLATE.format(
        place=place,
        caption=_caption(rows, part, style, score),
        columns=columns,
        header=" & ".join(names),
        units=" & ".join(f"({unit[1]})" if unit else "" for unit in units),
        body="\n".join(lines),
    )


MOST_IN_A_COLUMN = 4  # columns of a table that one column of a page holds; wider ones take both
TEMPLATE = r"""% Made by spfl export. Needs \usepackage{{booktabs}}.
\begin{{{place}}}[t]
\centering
\caption{{{caption}}}
\label{{tab:summary}}
\begin{{tabular}}{{{columns}}}
\toprule
{header} \\
{units} \\
\midrule
{body}
\bottomrule
\end{{tabular}}
\end{{{place}}}
"""


def _place(rows: Sequence[Json], keys: Sequence[str], row: Json) -> int:
    """The place of a row's setting among all settings, in the order in which they are met."""
    settings = list(dict.fromkeys(tuple(str(other[key]) for key in keys) for other in rows))
    return settings.index(tuple(str(row[key]) for key in keys))


def _heading(metric: str) -> str:
    return tex_text(metric.capitalize()) + (r" (\%)" if unit(metric) else "")


def _best(rows: Sequence[Json], keys: Sequence[str], row: Json, score: ScoreKind) -> bool:
    """Whether a row has the best score, as printed, of those with its setting that may lose packets."""
    rivals = [other for other in rows if all(str(other[k]) == str(row[k]) for k in keys) and not _is_bound(other)]
    if len(rivals) < 2 or _is_bound(row):
        return False
    best = score.best(other[score.metric] for other in rivals)
    return shown(score.metric, row[score.metric], 2) == shown(score.metric, best, 2)


def _is_bound(row: Json) -> bool:
    return row["scheme"] in SCHEMES and SCHEMES[row["scheme"]].uplink == "ideal"


def _score(row: Json, score: ScoreKind, best: bool) -> str:
    value, half = (row[name] for name in (score.metric, f"{score.metric}_half_width"))
    number = shown(score.metric, value, 2, "") + ("" if half is None else rf" \pm {shown(score.metric, half, 2, '')}")
    return "$" + (rf"\mathbf{{{number}}}" if best else number) + MARKS.get(row.get("verdict") or "", "") + "$"


def _three_digits(value: float | None, scale: float) -> str:
    return "--" if value is None or math.isnan(value) else f"{scale * value:.3g}".replace("e+", "e")


def _caption(rows: Sequence[Json], part: str, style: FigureStyle, score: ScoreKind) -> str:
    intervals = [row[f"{score.metric}_half_width"] is not None for row in rows]
    end = "lowest" if score.lower_is_better else "highest"
    name = f"{part.capitalize()} {tex_text(score.metric)}"
    told = [f"{name}, mean over the last quarter of the evaluations and over $n$ seeds"]
    told[0] += r" $\pm$ half of its 95\,\% confidence interval." if any(intervals) else "."
    if any(_is_bound(row) for row in rows):
        told.append(f"The {end} mean is bold; the scheme without losses is a bound and not compared.")
    else:
        told.append(f"The {end} mean is bold.")
    verdicts: dict[str, Callable[[str], str]] = {
        "better": lambda name: rf"$^{{\dagger}}$: {name} is better",
        "worse": lambda name: rf"$^{{\ddagger}}$: {name} is worse",
    }
    for verdict, words in verdicts.items():
        if any(row.get("verdict") == verdict for row in rows):
            name = tex_text(style.text(rows[0]["reference"]))
            told.append(f"{words(name)} (paired $t$ test, $p < {SIGNIFICANT:g}$, $n \\geq {ENOUGH_SEEDS}$).")
    return " ".join(told)
