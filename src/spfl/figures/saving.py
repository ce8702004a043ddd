"""Figures as files: PNG, PDF, SVG, EPS and PGF, with names that are drawn as they stand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spfl.errors import RunFolderError, reason
from spfl.figures.style import SCREEN, FigureStyle
from spfl.figures.tex import tex_text
from spfl.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text


FORMATS = ("png", "pdf", "svg", "eps", "pgf")
LATEX = ("pdflatex", "xelatex", "lualatex")  # any of them measures the text of a PGF figure
UNDATED: dict[str, Any] = {"pdf": {"metadata": {"CreationDate": None}}, "svg": {"metadata": {"Date": None}}}


def save_figure(figure: Figure, path: Path, style: FigureStyle = SCREEN) -> Path:
    """Write a figure in the format of its suffix, PNG without one, and return the path of what was written.

    Names in titles and legends are drawn as they are: a dollar sign begins no mathematics, f and l no ligature.
    Raises RunFolderError for a folder, a suffix that matplotlib does not know, and for PGF where there is no LaTeX.
    """
    try:
        if path.is_dir():
            raise RunFolderError(f"figure {path} is a folder; name a file in it, such as {path / 'figure.png'}")
        path = path if path.suffix else path.with_name(f"{path.name}.png")
        drawn = _drawn(figure, path, style)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, drawn)
    except (OSError, ValueError, RuntimeError) as error:
        raise RunFolderError(f"figure {path} cannot be written: {reason(error)}") from None
    return path


def _drawn(figure: Figure, path: Path, style: FigureStyle) -> bytes:
    from matplotlib import rc_context

    kind, content, more = path.suffix[1:].lower(), BytesIO(), dict[Any, Any]()
    _as_it_stands(figure)
    if kind == "eps":
        _without_transparency(figure)
    if kind == "pgf":
        more["pgf.texsystem"] = _latex(path)
        _as_latex(figure)
    with style.applied(), rc_context(more), _latex_told(path) if kind == "pgf" else nullcontext():
        figure.savefig(content, format=kind, **UNDATED.get(kind, {}))
    return content.getvalue()


@contextmanager
def _latex_told(path: Path) -> Iterator[None]:
    """What LaTeX fails of in one line, without all it has read: a full disk, a package that is not there."""
    from matplotlib.backends.backend_pgf import LatexError

    try:
        yield
    except LatexError as error:
        wrong = [line for line in str(error).splitlines() if line.startswith("!")]
        said = wrong[0].strip("! ") if wrong else str(error).partition(" while processing")[0].partition("\n")[0]
        raise RunFolderError(f"figure {path} cannot be written: LaTeX failed: {said[:200]}") from None


def _texts(figure: Figure) -> Iterator[Text]:
    """Titles, labels and legends: all text but the ticks'."""
    yield from figure.texts
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
    for legend in legends:
        if legend is not None:
            yield from (legend.get_title(), *legend.get_texts())


def _as_it_stands(figure: Figure) -> None:
    """No mathematics and no ligatures in texts, whose names are a user's; ticks keep their mathematics."""
    for text in _texts(figure):
        text.set_parse_math(False)
    ticks = [label for axes in figure.axes for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    for text in [*_texts(figure), *ticks]:
        if hasattr(text, "set_fontfeatures"):  # from matplotlib 3.11 on, which is also the first to have ligatures
            text.set_fontfeatures(("-liga", "-clig", "-dlig"))


def _without_transparency(figure: Figure) -> None:
    """PostScript knows none: what is transparent takes the colour that it has on white, behind all lines."""
    from matplotlib.collections import PolyCollection

    for axes in figure.axes:
        for area in [child for child in axes.get_children() if isinstance(child, PolyCollection)]:
            alpha = float(area.get_alpha() or 1.0)
            red, green, blue = (1 - alpha * (1 - part) for part in np.asarray(area.get_facecolor())[0, :3].tolist())
            area.set(alpha=None, zorder=0.5)
            area.set_facecolor((red, green, blue))


def _as_latex(figure: Figure) -> None:
    """PGF hands all text to LaTeX as it is, so it must be escaped; ticks with words in them as well."""
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    for text in _texts(figure):
        text.set_text(tex_text(text.get_text()))
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        words = axis.get_major_formatter()
        if isinstance(words, FixedFormatter | FuncFormatter):
            axis.set_major_formatter(FuncFormatter(lambda x, place, words=words: tex_text(words(x, place))))


def _latex(path: Path) -> str:
    found = next((name for name in LATEX if shutil.which(name)), None)
    if found is None:
        raise RunFolderError(f"figure {path} needs LaTeX ({', '.join(LATEX)}), which is not here; pdf and eps do not")
    return found
