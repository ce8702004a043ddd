"""How printed figures look: size, font, names and order of the schemes. `FigureStyle` is all that a caller may say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from spfl.errors import ConfigError, did_you_mean
from spfl.figures.looks import Look, assign_looks, scheme_of

StyleName = Literal["screen", "ieee"]
COLUMN_IN, PAGE_IN = 3.5, 7.16  # widths of one column and of both, of IEEE's transactions

# Alike in all figures: ticks, grid, frame; TrueType, because IEEE's checker of PDF files refuses Type 3 fonts.
COMMON: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "spfl",  # equal figures are equal files
    "pgf.rcfonts": False,  # the fonts of the paper that takes it in
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "legend.frameon": False,
    "legend.handlelength": 3.6,
    "lines.dash_capstyle": "butt",
    "figure.dpi": 200,
    "savefig.dpi": "figure",
    "savefig.bbox": None,  # what is asked for is the size of the page
    "text.usetex": False,
}
SIZES = ("axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
TITLES = ("legend.title_fontsize", "figure.titlesize", "figure.labelsize")
OF_STYLE: dict[StyleName, dict[Any, Any]] = {
    "screen": {
        "font.size": 10.0,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.0,
        **dict.fromkeys(("axes.titlesize", "legend.fontsize", "legend.title_fontsize", "figure.labelsize"), "small"),
    },
    "ieee": {
        "font.family": "STIXGeneral",  # Times, as the text around it; it comes with matplotlib
        "mathtext.fontset": "stix",
        "font.size": 8.0,
        "lines.linewidth": 1.1,
        "lines.markersize": 3.2,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "grid.linewidth": 0.4,
        "figure.dpi": 600,
        **dict.fromkeys((*SIZES, *TITLES), "medium"),  # nothing smaller than the font asked for
    },
}


@dataclass(frozen=True)
class FigureStyle:
    """What a paper asks of its figures; left alone, figures are made for the screen.

    Args:
        name: `screen`, or `ieee`: 3.5 inches wide (7.16 where panels stand side by side), 8 pt Times.
        width_in: Width of the page in inches, in place of the style's.
        height_in: Its height in inches.
        font_size_pt: Size of all text in points.
        labels: What stands for a scheme or series in legends and titles, by its name.
        order: Names of schemes or series that come first, in this order.
        colours: Colour of a scheme or series by its name, in any form that matplotlib reads.

    Raises:
        ConfigError: A size is not positive, or a colour is none.
    """

    name: StyleName = "screen"
    width_in: float | None = None
    height_in: float | None = None
    font_size_pt: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    order: Sequence[str] = ()
    colours: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in OF_STYLE:
            raise ConfigError(f"style: unknown style '{self.name}'" + did_you_mean(self.name, OF_STYLE))
        for name, most in (("width_in", 100), ("height_in", 100), ("font_size_pt", 200)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise ConfigError(f"{name} must be in (0, {most}], got {value}")
        if self.colours:
            from matplotlib.colors import is_color_like

            for label, colour in self.colours.items():
                if not is_color_like(colour):
                    raise ConfigError(f"colours: {label} = '{colour}' is no colour; such as #0072B2 or black")

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, matplotlib makes and saves figures in this style."""
        from matplotlib import rc_context, rcParamsDefault

        defaults: dict[Any, Any] = {key: rcParamsDefault[key] for key in rcParamsDefault if key != "backend"}
        size: dict[Any, Any] = {} if self.font_size_pt is None else {"font.size": self.font_size_pt}
        with rc_context(defaults | COMMON | OF_STYLE[self.name] | size):
            yield

    def size(self, width_in: float, height_in: float, panels: int = 1) -> tuple[float, float]:
        """Width and height for a figure that on the screen has these, with so many panels side by side."""
        width = width_in if self.name == "screen" else (PAGE_IN if panels > 1 else COLUMN_IN)
        width = self.width_in or width
        return width, self.height_in or height_in * min(1.0, width / width_in * (1.0 if panels > 1 else 1.15))

    def text(self, label: str) -> str:
        """What stands for a label: the words given for it, or for its scheme, with its notes."""
        scheme = scheme_of(label)
        return self.labels.get(label) or self.labels.get(scheme, scheme) + label[len(scheme) :]

    def arranged(self, labels: Iterable[str]) -> list[str]:
        """The labels in the order asked for, the others behind."""
        found = list(dict.fromkeys(labels))
        return sorted(found, key=lambda label: _rank(self.order, label))

    def looks(self, labels: Iterable[str]) -> dict[str, Look]:
        """The look of each label of a figure."""
        return {
            label: replace(look, colour=self.colours.get(label) or self.colours.get(scheme_of(label), look.colour))
            for label, look in assign_looks(labels).items()
        }

    def check(self, labels: Sequence[str]) -> None:
        """Raises ConfigError for names that no label or scheme of a figure has."""
        known = dict.fromkeys([*labels, *map(scheme_of, labels)])
        for option, names in (("labels", self.labels), ("order", self.order), ("colours", self.colours)):
            for name in names:
                if name not in known:
                    raise ConfigError(f"{option}: no scheme or series '{name}' here" + did_you_mean(name, known))


SCREEN = FigureStyle()


def _rank(order: Sequence[str], label: str) -> int:
    """The place of a label in an order: by itself, or else by its scheme; behind all without one."""
    places = [order.index(name) for name in (label, scheme_of(label)) if name in order]
    return places[0] if places else len(order)
