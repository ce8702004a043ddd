"""Figures for print: embedded TrueType fonts, sizes to the point, schemes that look the same everywhere and in grey."""

from __future__ import annotations

import re
import sys
from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from spfl.cli.figures import figure_style, pairs
from spfl.errors import ConfigError, RunFolderError
from spfl.figures import saving
from spfl.figures.curves import score_figure
from spfl.figures.drawing import DASHES, MARKERS, draw_line, wrapped
from spfl.figures.interactive import DASHES as WEB_DASHES
from spfl.figures.interactive import SYMBOLS
from spfl.figures.interactive import score_figure as web_score_figure
from spfl.figures.looks import COLOURS, GREY, KNOWN, assign_looks
from spfl.figures.looks import DASHES as DASH_NAMES
from spfl.figures.looks import MARKERS as MARKER_NAMES
from spfl.figures.saving import save_figure
from spfl.figures.style import FigureStyle
from spfl.figures.tex import tex_text
from spfl.runs.results import ScoreCurve, SpentCurve
from spfl.schemes import SCHEMES

IEEE = FigureStyle("ieee")


def some_curves(*labels):
    rounds = np.arange(5, 105, 5)
    rng = np.random.default_rng(0)
    return [ScoreCurve(label, rounds, np.sort(rng.random((3, 20)), axis=1)) for label in labels]


# --- looks --------------------------------------------------------------------------------------------------


def test_every_scheme_has_a_look_of_its_own():
    """A new scheme is appended to `looks.KNOWN`; the others keep their places."""
    assert set(KNOWN) == set(SCHEMES)
    assert len(set(KNOWN)) == len(KNOWN) <= GREY


def test_schemes_differ_in_dash_or_marker_so_grey_prints_tell_them_apart():
    looks = assign_looks([*KNOWN, *(f"own_{i}" for i in range(GREY - len(KNOWN)))]).values()
    assert len({(look.dash, look.marker) for look in looks}) == GREY


def test_a_scheme_looks_the_same_whatever_stands_beside_it():
    alone = {name: assign_looks([name])[name] for name in KNOWN}
    assert assign_looks(KNOWN) == alone
    assert assign_looks(["own_scheme", "sp_fl_plus_1", "sp_fl"])["sp_fl"] == alone["sp_fl"]
    assert assign_looks(["sp_fl", "own_scheme"])["own_scheme"] == assign_looks(["own_scheme", "drive"])["own_scheme"]


def test_variants_of_a_scheme_are_told_apart_in_colour_and_in_grey():
    looks = assign_looks([*(f"sp_fl (shrink = {i})" for i in range(7)), "drive"])
    assert len({look.colour for look in looks.values()}) == len(COLOURS)
    assert len({(look.dash, look.marker) for look in looks.values()}) == 8
    assert looks["drive"] == assign_looks(["drive"])["drive"]


def test_dashes_and_markers_have_words_in_both_libraries():
    assert set(DASHES) == set(WEB_DASHES) == set(DASH_NAMES)
    assert set(MARKERS) == set(SYMBOLS) == set(MARKER_NAMES)
    for words in (DASHES, WEB_DASHES, MARKERS, SYMBOLS):
        assert len(set(map(str, words.values()))) == len(words)


def grey_print(look):
    """One line as a grey printer draws it in a column of 3.5 inches, in (0, 1)."""
    with IEEE.applied():
        figure = Figure(figsize=(3.5, 0.3), dpi=150)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        draw_line(axes, look, (np.arange(8), np.zeros(8)), "")
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    return pixels @ [0.2126, 0.7152, 0.0722]


def test_printed_in_grey_no_two_of_the_usual_schemes_look_alike():
    usual = KNOWN[:14]
    printed = {name: grey_print(look) for name, look in assign_looks(usual).items()}
    ink = np.mean([1 - picture for picture in printed.values()])
    for one, other in combinations(usual, 2):
        assert np.abs(printed[one] - printed[other]).mean() > 0.15 * ink, (one, other)


# Machado, Oliveira and Fernandes, 2009: what a dichromat sees, in linear RGB.
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
TRITANOPIA = np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]])


def lab(colour, eye):
    """CIELAB of a colour as an eye sees it (D65)."""
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
    seen = np.clip(eye @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    x, y, z = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", [np.eye(3), PROTANOPIA, DEUTERANOPIA, TRITANOPIA])
def test_the_colour_blind_tell_the_colours_apart(eye):
    """A difference of 2.3 is just noticed; side by side, 10 is plain."""
    for one, other in combinations(COLOURS, 2):
        assert np.linalg.norm(lab(one, eye) - lab(other, eye)) > 10, (one, other)


def test_report_and_print_agree():
    labels = ["sp_fl_plus_1", "own", "single_packet"]
    rounds = np.array([1, 2])
    figure, _ = web_score_figure([SpentCurve(label, rounds, np.ones((1, 2)), {}) for label in labels])
    lines = {line.get_label(): line for line in score_figure(some_curves(*labels)).axes[0].lines}
    for trace in figure.data:
        line = lines[trace.name]
        red, green, blue = (round(255 * part) for part in to_rgb(line.get_color()))
        assert trace.line.color == f"rgba({red},{green},{blue},1.0)"
        (marker,) = [name for name, sign in MARKERS.items() if sign == line.get_marker()]
        assert trace.marker.symbol == SYMBOLS[marker]


def test_no_share_is_below_none_or_beyond_all_in_a_report():
    """Bands are of means, and may go beyond; the axes do not."""
    rounds, score = np.array([1, 2]), np.array([[0.1, 0.9], [0.3, 0.99], [0.01, 1.0]])
    for metric, ends in (("accuracy", (0, 100)), ("r2", (None, None))):
        figure, _ = web_score_figure([SpentCurve("sp_fl", rounds, score, {}, metric)])
        limits = figure.layout.yaxis.autorangeoptions
        assert (limits.clipmin, limits.clipmax) == ends


# --- files --------------------------------------------------------------------------------------------------


def test_pdf_has_truetype_fonts_and_the_size_of_a_column(tmp_path):
    path = save_figure(score_figure(some_curves("sp_fl", "drive"), "", IEEE), tmp_path / "f.pdf", IEEE)
    content = path.read_bytes()
    assert b"/Type3" not in content.replace(b" ", b"")
    assert b"/CIDFontType2" in content or b"/TrueType" in content
    assert b"/FontFile2" in content  # embedded
    width, _ = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", content).groups()
    assert float(width) == pytest.approx(3.5 * 72)


def test_eps_has_truetype_fonts_and_no_transparency(tmp_path, recwarn):
    text = save_figure(score_figure(some_curves("sp_fl"), "", IEEE), tmp_path / "f.eps", IEEE).read_bytes()
    assert text.startswith(b"%!PS-Adobe-3.0 EPSF")
    assert b"/FontType 42" in text
    assert b"/FontType 3" not in text
    assert not recwarn.list


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("pdf", "svg", "png"):
        one, other = (
            save_figure(score_figure(some_curves("sp_fl")), tmp_path / f"{i}.{name}").read_bytes() for i in range(2)
        )
        assert one == other, name


def test_pgf_without_latex_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(saving.shutil, "which", lambda _: None)
    with pytest.raises(RunFolderError, match=r"f\.pgf needs LaTeX \(pdflatex, xelatex, lualatex\)"):
        save_figure(score_figure(some_curves("sp_fl")), tmp_path / "f.pgf")


@pytest.mark.skipif(sys.platform == "win32", reason="a script for LaTeX")
@pytest.mark.parametrize(("said", "told"), [("! I can't write on file x.", "I can't write"), ("", "LaTeX errored")])
def test_latex_that_fails_is_one_clear_line(tmp_path, monkeypatch, said, told):
    program = tmp_path / "pdflatex"
    program.write_text(f'#!/bin/sh\nwhile read -r line; do :; done\necho "{said}"\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunFolderError, match=rf"f\.pgf cannot be written: LaTeX failed: {told}") as caught:
        save_figure(score_figure(some_curves("sp_fl")), tmp_path / "f.pgf")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(saving.shutil.which("pdflatex") is None, reason="no LaTeX")
def test_pgf_escapes_names(tmp_path):
    text = save_figure(score_figure(some_curves("sp_fl"), "50 % & more", IEEE), tmp_path / "f.pgf", IEEE).read_text()
    assert "sp\\_f{}l" in text
    assert "50 \\% \\& more" in text


def drawn_text(**changes):
    """The picture of a legend's `sp_fl` in Times."""
    figure = score_figure(some_curves("sp_fl"), "", IEEE)
    saving._as_it_stands(figure)
    (text,) = figure.legends[0].get_texts()
    text.set(**changes)
    canvas = FigureCanvasAgg(figure)
    with IEEE.applied():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize("count", [2, 24])
@pytest.mark.parametrize("height_in", [None, 5.0])
def test_the_legend_covers_no_panel(count, height_in):
    """A figure grows with its legend, unless its height is given."""
    style = FigureStyle("ieee", height_in=height_in)
    figure = score_figure(some_curves(*(f"scheme_{i}" for i in range(count))), "", style)
    with style.applied():
        FigureCanvasAgg(figure).draw()
        (axes,), (legend,) = figure.axes, figure.legends
        assert legend.get_window_extent().y1 <= axes.get_tightbbox().y0 + 1
        assert axes.get_window_extent().height > figure.dpi  # an inch at least
    few = score_figure(some_curves("scheme_0"), "", style).get_figheight()
    assert (figure.get_figheight() > few) == (count == 24 and height_in is None)


def test_titles_of_panels_fit_over_them():
    with IEEE.applied():
        figure = Figure(figsize=(7.16, 3))
        for axes in figure.subplots(1, 3):
            axes.set_title(wrapped("side_information = in_packet, device_csi = instantaneous, rate = 0.1", 7.16 / 3))
        FigureCanvasAgg(figure).draw()
        titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(a.x1 < b.x0 for a, b in pairwise(titles))


def test_there_is_no_ligature_in_sp_fl():
    if not hasattr(Figure().text(0, 0, ""), "set_fontfeatures"):
        pytest.skip("this matplotlib has no ligatures")
    assert np.array_equal(drawn_text(), drawn_text())
    assert not np.array_equal(drawn_text(), drawn_text(fontfeatures=("liga",)))  # the joined sign


# --- what a paper asks for ----------------------------------------------------------------------------------


def test_every_text_of_an_ieee_figure_has_eight_points():
    figure = score_figure(some_curves("sp_fl", "drive"), "title", IEEE)
    save_figure_sizes = {text.get_fontsize() for text in figure.findobj(lambda a: hasattr(a, "get_fontsize"))}
    assert save_figure_sizes == {8.0}


def test_sizes_that_are_asked_for():
    style = FigureStyle("ieee", 7.16, 2.0, 9.0)
    figure = score_figure(some_curves("sp_fl"), "", style)
    assert figure.get_size_inches().tolist() == [7.16, 2.0]
    assert {text.get_fontsize() for text in figure.findobj(lambda a: hasattr(a, "get_fontsize"))} == {9.0}
    assert IEEE.size(6.4, 4.0)[0] == 3.5
    assert IEEE.size(9.0, 3.4, panels=3)[0] == 7.16


def test_words_order_and_colours_of_the_authors():
    style = FigureStyle("ieee", labels={"sp_fl": "SP-FL"}, order=["drive", "sp_fl"], colours={"sp_fl": "red"})
    figure = score_figure(some_curves("sp_fl (shrink = 1)", "error_free", "drive"), "", style)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["drive", "SP-FL (shrink = 1)", "error_free"]
    assert figure.axes[0].lines[1].get_color() == "red"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"name": "iee"}, r"style: unknown style 'iee' \(did you mean 'ieee'\?\)"),
        ({"width_in": 0.0}, r"width_in must be in \(0, 100\], got 0.0"),
        ({"font_size_pt": float("nan")}, r"font_size_pt must be in \(0, 200\], got nan"),
        ({"colours": {"sp_fl": "bleu"}}, "colours: sp_fl = 'bleu' is no colour"),
    ],
)
def test_a_style_that_cannot_be(given, line):
    with pytest.raises(ConfigError, match=line):
        FigureStyle(**given)


def test_names_that_no_scheme_has_are_refused():
    with pytest.raises(ConfigError, match=r"labels: no scheme or series 'sp_f' here \(did you mean 'sp_fl'\?\)"):
        FigureStyle(labels={"sp_f": "x"}).check(["sp_fl (shrink = 1)"])
    FigureStyle(labels={"sp_fl": "x"}, order=["sp_fl (shrink = 1)"]).check(["sp_fl (shrink = 1)"])


def test_options_of_the_command_line():
    assert pairs("labels", ["sp_fl=SP-FL, ours,drive=DRIVE", "eden=a=b"]) == {
        "sp_fl": "SP-FL, ours", "drive": "DRIVE", "eden": "a=b",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--labels needs NAME=TEXT, got 'sp_fl'"):
        pairs("labels", ["sp_fl"])
    assert figure_style("ieee", (None, None, None), None, "a, b", None).order == ["a", "b"]


def test_a_style_leaves_nothing_behind():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with IEEE.applied():
        assert matplotlib.rcParams["font.size"] == 8
    assert dict(matplotlib.rcParams) == before


def test_latex_prints_names_letter_by_letter():
    assert tex_text("sp_fl & 50 % {x} −3") == "sp\\_f{}l \\& 50 \\% \\{x\\} \\ensuremath{-}3"
    assert tex_text("confidence in own_offices") == "confidence in own\\_of{}f{}ices"  # words are the paper's
