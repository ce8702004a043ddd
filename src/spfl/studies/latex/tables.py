"""Tables of a study in LaTeX: booktabs, mean and interval, the best in bold, marks of significance, units."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from spfl.figures.drawing import LABELS
from spfl.figures.looks import scheme_of
from spfl.figures.scores import ACCURACY, ScoreKind, difference, shown, unit
from spfl.figures.style import SCREEN, FigureStyle
from spfl.figures.tex import tex_text
from spfl.runs.jsons import Json
from spfl.schemes import SCHEMES
from spfl.studies.statistics import ENOUGH_SEEDS, SIGNIFICANT
from spfl.studies.study import typeset

MARKS = {"better": r"^{\dagger}", "worse": r"^{\ddagger}"}  # of the reference, over this series
COSTS: tuple[tuple[str, str, str, float], ...] = (
    ("payload_bits_per_round", "Payload", "Mbit/round", 1e-6),
    ("energy_j_per_round", "Energy", "mJ/round", 1e3),
    ("time_s_per_round", "Time", "ms/round", 1e3),
)
TO_TARGET = (("rounds", "Rounds", "", 1.0), ("payload_bits", "Payload", "Mbit", 1e-6), ("uplink_s", "Uplink", "s", 1.0))


class Column(NamedTuple):
    """A column of numbers: its heading, its unit, and the text of a row's cell."""

    name: str
    unit: str
    cell: Callable[[Json], str]


def summary_tex(
    rows: Sequence[Json], part: str = "test", style: FigureStyle = SCREEN, score: ScoreKind = ACCURACY
) -> str:
    """The rows of `long.summary_rows` as a table environment; it needs the package booktabs.

    The best series of each setting is bold; one that loses no packets by definition is a bound and not in the race.
    """
    keys = [key for key in rows[0] if "." in key and len({str(row[key]) for row in rows}) > 1]
    columns = [
        Column(
            tex_text(score.metric.capitalize()),
            percent(score),
            lambda row: _score(row, score, _best(rows, keys, row, score)),
        ),
        Column("$n$", "", lambda row: str(row["n"])),
    ]
    columns += [
        Column(name, unit_, partial(_cost, key, scale))
        for key, name, unit_, scale in COSTS
        if any(row.get(key) for row in rows)
    ]
    return booktabs("summary", _caption(rows, part, style, score), Rows(rows, keys, style), columns)


def _cost(key: str, scale: float, row: Json) -> str:
    return three_digits(row.get(key), scale)


def paired_tex(table: Sequence[Json], reference: str, score: ScoreKind = ACCURACY, style: FigureStyle = SCREEN) -> str:
    """The rows of `statistics.paired_table`: differences to the reference, with intervals and p values."""
    columns = [
        Column("Difference", "points" if unit(score.metric) else "", lambda row: _difference(row, score)),
        Column("$p$", "", lambda row: "--" if row["p"] is None else f"{row['p']:.2g}"),
        Column("$n$", "", lambda row: str(row["n"])),
    ]
    name = tex_text(style.text(reference))
    told = [f"{tex_text(score.metric.capitalize())} of {name} minus that of the other, over common seeds"]
    told[0] += r" $\pm$ half of its 95\,\% confidence interval." if any(row["half_width"] for row in table) else "."
    told += _verdicts(table, name)
    if len(table) > 1:
        told.append(f"The $p$ values are not corrected for the {len(table)} comparisons.")
    rows, keys = _with_settings(table)
    return booktabs("paired", " ".join(told), Rows(rows, keys, style), columns)


def target_tex(table: Sequence[Json], score: ScoreKind = ACCURACY, style: FigureStyle = SCREEN) -> str:
    """The rows of `statistics.target_table`: what it costs to reach a score; the least cost of each setting is bold."""
    rows, keys = _with_settings(table)

    def cost(name: str, scale: float) -> Callable[[Json], str]:
        def cell(row: Json) -> str:
            rivals = [other[name] for other in rows if not is_bound(other) and _same(keys, row, other)]
            least = min(rivals, default=math.inf)
            text = three_digits(row[name], scale)
            best = len(rivals) > 1 and row[name] == least < math.inf and not is_bound(row)
            return rf"\textbf{{{text}}}" if best else text

        return cell

    columns = [
        Column("Target", percent(score), lambda row: shown(score.metric, row["target"], 1, "")),
        Column("Reached", "seeds", lambda row: f"{row['reached']} of {row['n']}"),
        *(Column(name, unit_, cost(key, scale)) for key, name, unit_, scale in TO_TARGET),
    ]
    caption = f"Cost until the first evaluation that reaches the target {tex_text(score.metric)}; medians over seeds, "
    caption += "of which one that does not reach it counts as infinite (--). The least cost is bold."
    return booktabs("target", caption + _bound(rows), Rows(rows, keys, style), columns)


def _with_settings(table: Sequence[Json]) -> tuple[list[Json], list[str]]:
    """Rows with their setting in keys of their own, and those keys that vary."""
    rows = [{**row, **row["slice"]} for row in table]
    return rows, [key for key in table[0]["slice"] if len({str(row[key]) for row in rows}) > 1]


class Rows(NamedTuple):
    """The rows of a table, the swept keys that tell its settings apart, and the words for its series."""

    rows: Sequence[Json]
    keys: Sequence[str]
    style: FigureStyle


def booktabs(name: str, caption: str, of: Rows, columns: Sequence[Column]) -> str:
    """A table environment: a row a series and setting, sorted by both; each setting is told once."""
    order = of.style.arranged(row["series"] for row in of.rows)
    lines, last = [], None
    for row in sorted(of.rows, key=lambda row: (_place(of.rows, of.keys, row), order.index(row["series"]))):
        setting = [typeset(row[key]) for key in of.keys]
        if last is not None and setting != last:
            lines.append(r"\midrule")
        words = [tex_text(word) if setting != last else "" for word in setting]
        last = setting
        cells = [*words, tex_text(of.style.text(row["series"])), *(column.cell(row) for column in columns)]
        lines.append(" & ".join(cells) + r" \\")
    heads = [*(_heading(LABELS.get(key, key)) for key in of.keys), ("Scheme", "")]
    heads += [(column.name, column.unit) for column in columns]
    rule = "r" * len(of.keys) + "l" + "r" * len(columns)
    units = " & ".join(f"({unit})" if unit else "" for _, unit in heads)
    top = [" & ".join(name for name, _ in heads) + r" \\", *([units + r" \\"] if any(u for _, u in heads) else [])]
    return environment(name, caption, rule, [*top, r"\midrule", *lines])


def environment(name: str, caption: str, columns: str, lines: Sequence[str]) -> str:
    """The whole of a table; one with many columns takes both columns of a page."""
    place = "table*" if len(columns) > MOST_IN_A_COLUMN else "table"
    small = "\\small\\setlength{\\tabcolsep}{4pt}\n" if len(columns) > MOST_LARGE else ""
    body = "\n".join(lines)
    return TEMPLATE.format(name=name, place=place, caption=caption, columns=columns, body=body, small=small)


WIDEST_HEADING = 16  # letters
MOST_IN_A_COLUMN = 4  # columns of a table that one column of a page holds; wider ones take both
MOST_LARGE = 7  # columns in the size of the text
TEMPLATE = r"""% Made by spfl export. Needs \usepackage{{booktabs}}.
\begin{{{place}}}[t]
\centering
\caption{{{caption}}}
\label{{tab:{name}}}
{small}\begin{{tabular}}{{{columns}}}
\toprule
{body}
\bottomrule
\end{{tabular}}
\end{{{place}}}
"""


def _place(rows: Sequence[Json], keys: Sequence[str], row: Json) -> int:
    """The place of a row's setting among all settings, in the order in which they are met."""
    settings = list(dict.fromkeys(tuple(str(other[key]) for key in keys) for other in rows))
    return settings.index(tuple(str(row[key]) for key in keys))


def _heading(label: str) -> tuple[str, str]:
    """Name and unit of a key: what its label has in parentheses; a long name stands in several lines."""
    found = re.fullmatch(r"(.+) \((.+)\)", label)
    name, unit_ = (found[1], found[2]) if found else (label, "")
    lines = r" \\ ".join(map(tex_text, textwrap.wrap(name, WIDEST_HEADING)))
    return rf"\shortstack[r]{{{lines}}}" if len(name) > WIDEST_HEADING else lines, tex_text(unit_)


def percent(score: ScoreKind) -> str:
    return r"\%" if unit(score.metric) else ""


def _same(keys: Sequence[str], row: Json, other: Json) -> bool:
    return all(str(other[key]) == str(row[key]) for key in keys)


def _best(rows: Sequence[Json], keys: Sequence[str], row: Json, score: ScoreKind) -> bool:
    """Whether a row has the best score, as printed, of those with its setting that may lose packets."""
    rivals = [other for other in rows if _same(keys, row, other) and not is_bound(other)]
    if len(rivals) < 2 or is_bound(row):
        return False
    best = score.best(other[score.metric] for other in rivals)
    return shown(score.metric, row[score.metric], 2) == shown(score.metric, best, 2)


def is_bound(row: Json) -> bool:
    """Whether a series loses no packets by definition."""
    scheme = row.get("scheme") or scheme_of(row["series"])
    return scheme in SCHEMES and SCHEMES[scheme].uplink == "ideal"


def _bound(rows: Sequence[Json]) -> str:
    return " The scheme without losses is a bound and not compared." if any(map(is_bound, rows)) else ""


def _difference(row: Json, score: ScoreKind) -> str:
    value, half = difference(score.metric, row["difference"], 2), row["half_width"]
    number = value + ("" if half is None else rf" \pm {shown(score.metric, half, 2, '')}")
    return f"${number}{MARKS.get(row['verdict'], '')}$"


def _score(row: Json, score: ScoreKind, best: bool) -> str:
    value, half = (row[name] for name in (score.metric, f"{score.metric}_half_width"))
    number = shown(score.metric, value, 2, "") + ("" if half is None else rf" \pm {shown(score.metric, half, 2, '')}")
    return "$" + (rf"\mathbf{{{number}}}" if best else number) + MARKS.get(row.get("verdict") or "", "") + "$"


def three_digits(value: float | None, scale: float = 1.0) -> str:
    """A number with three digits; two dashes where there is none."""
    if value is None or not math.isfinite(value):
        return "--"
    number = scale * value
    if number and not 1e-3 <= abs(number) < 1e6:
        digits, power = f"{number:.2e}".split("e")
        return rf"${digits}\times 10^{{{int(power)}}}$"
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _caption(rows: Sequence[Json], part: str, style: FigureStyle, score: ScoreKind) -> str:
    intervals = [row[f"{score.metric}_half_width"] is not None for row in rows]
    end = "lowest" if score.lower_is_better else "highest"
    name = f"{part.capitalize()} {tex_text(score.metric)}"
    told = [f"{name}, mean over the last quarter of the evaluations and over $n$ seeds"]
    told[0] += r" $\pm$ half of its 95\,\% confidence interval." if any(intervals) else "."
    bound = any(is_bound(row) for row in rows)
    told.append(
        f"The {end} mean is bold" + ("; the scheme without losses is a bound and not compared." if bound else ".")
    )
    name = tex_text(style.text(rows[0].get("reference") or ""))
    return " ".join([*told, *_verdicts(rows, name)])


def _verdicts(rows: Sequence[Json], name: str) -> Iterator[str]:
    """What the marks say of the reference, where there are any."""
    for verdict, mark in MARKS.items():
        if any(row.get("verdict") == verdict for row in rows):
            yield f"${mark}$: {name} is {verdict} (paired $t$ test, $p < {SIGNIFICANT:g}$, $n \\geq {ENOUGH_SEEDS}$)."
