"""All tables and pictures of a study in LaTeX, and a document that takes them in, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spfl.figures.style import SCREEN, FigureStyle
from spfl.runs.results import Group
from spfl.studies.latex.devices import allocation_tables
from spfl.studies.latex.pictures import differences_tex, panels_tex
from spfl.studies.latex.tables import paired_tex, summary_tex, target_tex
from spfl.studies.long import summary_rows
from spfl.studies.panels import study_panels
from spfl.studies.statistics import paired_table, target_table
from spfl.studies.study import Study

PREVIEW = "preview"
DOCUMENT = r"""% Made by spfl export: all that it wrote, to be looked at. pdflatex preview.tex
\documentclass[10pt,twocolumn]{{article}}
\usepackage[margin=2cm]{{geometry}}
\usepackage{{booktabs,pgfplots}}
\usepgfplotslibrary{{groupplots}}
\pgfplotsset{{compat=1.16}}
\begin{{document}}
{inputs}
\end{{document}}
"""


class Printed(NamedTuple):
    """What is printed: a study, the series that others are compared with, the score to be reached, and the looks."""

    study: Study
    reference: str | None = None
    target: float | None = None
    style: FigureStyle = SCREEN


def latex_files(of: Printed, groups: Sequence[Group] = ()) -> dict[str, str]:
    """Texts by the names of their files: tables, pictures, and the document that takes them in.

    Tables are the summary, the paired tests, the cost to a target, and the allocation where there are run folders;
    pictures are the figures of the study.
    """
    study, reference, style, score = of.study, of.reference, of.style, of.study.score
    found = {"summary": summary_tex(summary_rows(study, reference), study.part, style, score)}
    paired = paired_table(study, reference) if reference else []
    if reference and paired:
        found["paired"] = paired_tex(paired, reference, score, style)
    found["target"] = target_tex(target_table(study, of.target, reference), score, style)
    found |= dict(allocation_tables(groups, style)) if groups else {}
    pages = (page for panels in study_panels(study) for page in panels.pages())
    found |= {page.name: panels_tex(study, page, style) for page in pages}
    if reference and paired:
        found["paired_differences"] = differences_tex(study, paired, reference, style)
    inputs = "\n".join(rf"\input{{{name}}}" + (r"\clearpage" if i % 6 == 5 else "") for i, name in enumerate(found))
    return found | {PREVIEW: DOCUMENT.format(inputs=inputs)}
