"""`spfl plot`, `spfl figures` and `spfl export`: figures and tables of runs, comparisons and sweeps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from spfl.cli.options import a_path
from spfl.errors import ConfigError, did_you_mean
from spfl.figures.style import FigureStyle, StyleName

Style = Annotated[
    str, typer.Option(metavar="NAME", help="screen; ieee: 3.5 inches (7.16 for panels side by side), 8 pt Times.")
]
Width = Annotated[float | None, typer.Option(metavar="INCH", help="Width of the figure.")]
Height = Annotated[float | None, typer.Option(metavar="INCH", help="Height of the figure.")]
FontSize = Annotated[float | None, typer.Option(metavar="POINT", help="Size of all text.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=TEXT", help='Words for a scheme, e.g. sp_fl="SP-FL"; may be repeated.'),
]
Order = Annotated[str | None, typer.Option(metavar="A,B,C", help="Schemes that come first, in this order.")]
Colours = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=COLOUR", help="Colour of a scheme, e.g. sp_fl=#0072B2; may be repeated."),
]
FORMAT_HELP = "png, pdf, svg, eps or pgf (which needs LaTeX)"


def plot_command(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Run folders, finished or not; or a comparison's.", parser=a_path),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Figure: {FORMAT_HELP}; the name of the score, such as accuracy.png, if left out.",
            parser=a_path,
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the figure.")] = "",
    importance: Annotated[
        bool,
        typer.Option("--importance", help="Draw who got the bandwidth and was received, by importance of the device."),
    ] = False,
    along: Annotated[
        str, typer.Option(metavar="KEY", help="What to draw against: round, payload_bits, round_s or joules.")
    ] = "round",
    style: Style = "screen",
    width: Width = None,
    height: Height = None,
    font_size: FontSize = None,
    labels: Labels = None,
    order: Order = None,
    colours: Colours = None,
) -> None:
    """Draw the test score against rounds: one curve a configuration, mean and band over its seeds.

    Example: `spfl plot runs/first --out accuracy.pdf --style ieee --labels sp_fl="SP-FL"`
    """
    from spfl.figures.curves import ALONG, importance_figure, score_figure
    from spfl.figures.saving import save_figure
    from spfl.figures.scores import common, figure_name
    from spfl.runs.results import read_curves, read_importance, run_folders

    if along not in ALONG:
        raise ConfigError(f"unknown --along '{along}'" + did_you_mean(along, ALONG))
    if importance and along != "round":
        raise ConfigError(f"--along has no effect with --importance, got {along}")
    look = figure_style(style, (width, height, font_size), labels, order, colours)
    runs = [run for folder in folders for run in run_folders(folder) or [folder]]
    if importance:
        found = read_importance(runs)
        look.check([one.label for one in found])
        figure, name = importance_figure(found, title, look), "importance.png"
    else:
        curves = read_curves(runs, along)
        look.check([curve.label for curve in curves])
        figure = score_figure(curves, title, look, along)
        name = figure_name(common(curve.metric for curve in curves))
    print(save_figure(figure, out or Path(name), look))


def figures_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a sweep or of a comparison.", parser=a_path)],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder; DIR/figures if left out.", parser=a_path)
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="SERIES", help="What others are compared with; sp_fl_plus or sp_fl if left out."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Score whose cost is asked for; a tenth worse than the reference's if left out."),
    ] = None,
    suffix: Annotated[str, typer.Option("--format", help=f"Of the figures: {FORMAT_HELP}.")] = "png",
    style: Style = "screen",
    width: Width = None,
    height: Height = None,
    font_size: FontSize = None,
    labels: Labels = None,
    order: Order = None,
    colours: Colours = None,
) -> None:
    """Draw all figures and tables of a study: the score against rounds, payload and every swept number; paired tests.

    Example: `spfl figures runs/study --reference sp_fl --style ieee --format pdf`
    """
    from spfl.studies.figures import make_figures

    look = figure_style(style, (width, height, font_size), labels, order, colours)
    for path in make_figures(folder, out, reference=reference, target=target, suffix=suffix, style=look):
        print(path)


def export_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a run, a comparison or a sweep.", parser=a_path)
    ],
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="csv, parquet, mat, xlsx, or tex (tables, pictures).")
    ] = "csv",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder; DIR/export if left out.", parser=a_path)
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="SERIES", help="What others are tested against; sp_fl_plus or sp_fl if left out."),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="tex: score whose cost is asked for; a tenth worse than the reference's if left out."),
    ] = None,
    labels: Labels = None,
    order: Order = None,
    colours: Colours = None,
) -> None:
    """Export tables: summary, points and curves; rounds, allocation and devices where there are run folders.

    LaTeX has tables of means, tests, costs and who got what, all figures, and preview.tex, which shows them.

    Example: `spfl export runs/first --format tex --labels sp_fl="SP-FL"`
    """
    from spfl.studies.export import export

    given = {"target": target is not None, "labels": labels, "order": order, "colours": colours}
    if form != "tex" and (idle := [f"--{name}" for name, value in given.items() if value]):
        raise ConfigError(f"{', '.join(idle)}: no effect with --format {form}, only with tex")
    look = figure_style("screen", (None, None, None), labels, order, colours)
    for path in export(folder, form, out, reference=reference, target=target, style=look):
        print(path)


def figure_style(
    name: str,
    sizes: tuple[float | None, float | None, float | None],
    labels: Iterable[str] | None,
    order: str | None,
    colours: Iterable[str] | None,
) -> FigureStyle:
    """The style that options ask for; `sizes` are width, height and font size. Raises ConfigError."""
    known: StyleName = name  # type: ignore[assignment]  # checked by FigureStyle
    first = [word.strip() for word in (order or "").split(",") if word.strip()]
    return FigureStyle(known, *sizes, pairs("labels", labels), first, pairs("colours", colours))


def pairs(option: str, texts: Iterable[str] | None) -> dict[str, str]:
    """`NAME=TEXT,NAME=TEXT` as names and texts; a comma that no NAME= follows belongs to the text before it."""
    found: dict[str, str] = {}
    for text in texts or ():
        last = ""
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if equals and name.strip():
                last = name.strip()
                found[last] = value
            elif last:
                found[last] += f",{part}"
            else:
                raise ConfigError(f"--{option} needs NAME=TEXT, got '{text}'")
    return found
