"""The one place that says how a scheme looks: its colour, dash and marker, in every figure, report and study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from zlib import crc32

# Okabe and Ito's palette, told apart by the colour-blind; the dashes and markers tell them apart in grey as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Five, eleven and seven have no common divisor: no two of 55 places share dash and marker, or of 385 all three.
DASHES = ("solid", "dashed", "dashdot", "dotted", "long")
MARKERS = ("circle", "square", "diamond", "triangle", "down", "plus", "cross", "left", "right", "star", "pentagon")
GREY = len(DASHES) * len(MARKERS)

# A scheme's place here is its look. New ones are appended, so that printed figures stay true.
KNOWN = (
    *("sp_fl", "single_packet", "sp_fl_plus_1", "drive", "eden", "sp_fl_plus", "error_free"),
    *("drive_calibrated", "drive_exact", "sp_fl_exact", "eden_adaptive", "float32", "qsgd", "terngrad"),
    *("single_packet_plus", "fedtoe", "scaled_sign", "top_k", "gomore", "majority_vote", "over_the_air"),
    *("sp_fl_plus_1_uncalibrated", "sp_fl_plus_1_uniform", "sp_fl_plus_1_unrotated", "sp_fl_plus_uniform"),
    *("sp_fl_plus_plain", "sp_fl_no_band", "sp_fl_no_power", "sp_fl_no_compensation", "sp_fl_normalized"),
    *("sp_fl_uniform", "single_packet_unbiased", "single_packet_optimised", "retransmit", "reuse_last", "sign_mean"),
    *("schedule_channel", "schedule_norm", "schedule_channel_norm", "schedule_fair", "scaled_sign_feedback"),
    *("analog_mean", "eden_calibrated", "harq", "mifa", "schedule_capacity", "schedule_capacity_fair"),
)


@dataclass(frozen=True)
class Look:
    """Colour (#RRGGBB), and names of a dash and a marker; each library has its own words for them."""

    colour: str
    dash: str
    marker: str


def scheme_of(label: str) -> str:
    """The scheme of a label: what stands before the notes in parentheses, which tell its variants apart."""
    return label.partition(" (")[0]


def assign_looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for each label of a figure. Known schemes have theirs always; variants and own schemes fill the gaps.

    No two labels share both dash and marker as long as there are such pairs, so that a grey print tells them apart.
    """
    wanted = list(dict.fromkeys(labels))
    places: dict[str, int] = {}
    for label in sorted(wanted, key=lambda name: name not in KNOWN):  # a stable sort: known schemes choose first
        taken = {place % GREY for place in places.values()}
        colours = {place % len(COLOURS) for place in places.values()}
        free = [place for place in _places(scheme_of(label)) if place % GREY not in taken or len(taken) == GREY]
        fresh = [place for place in free if place % len(COLOURS) not in colours]
        places[label] = free[0] if label in KNOWN or not fresh else fresh[0]
    return {label: _look(places[label]) for label in wanted}


def _places(scheme: str) -> Iterator[int]:
    """Places in the order in which a scheme would take them: its own, then those that come after."""
    first = KNOWN.index(scheme) if scheme in KNOWN else len(KNOWN) + crc32(scheme.encode()) % (GREY - len(KNOWN))
    return (place for place, _ in zip(count(first), range(GREY), strict=False))


def _look(place: int) -> Look:
    return Look(COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])
