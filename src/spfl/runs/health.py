"""What is wrong with a run that ended without an error: one line for each finding, with what to change.

Rules look at what every run folder holds, the rounds and the allocation table, so that a run, a comparison, a sweep and
the report say the same. To add a rule: a function from `Course` to a line or None, in `RULES`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spfl.arrays import Bools, Indices
from spfl.runs.jsons import Json

SILENT_PART = 0.1  # of the rounds, from which on silence or an overload is told
GROWN = 1.05  # the loss of the last rounds over that of the first
CHANCE = 1.25  # accuracy over one by the number of classes
FEW_ROUNDS = 20  # after fewer, neither loss nor accuracy says anything
OFTEN = 10  # times that a device must have been scheduled before its silence is told
MOST_NAMED = 8

RAISE_SNR = "raise channel.median_snr_db (or power_dbm) or symbols_per_parameter, lower codec.bits"
LOWER_RATE = "lower training.rate or set training.clip_norm"


@dataclass(frozen=True)
class Course:
    """How a run went: its rounds in order, and who was scheduled (row,) and received (row,) in all of them."""

    rounds: Sequence[Json]
    classes: int | None = None
    device: Indices | None = None
    received: Bools | None = None


HealthRule = Callable[[Course], str | None]


def findings(course: Course) -> dict[str, str]:
    """The rules that a run breaks, by name, with a line on each. Empty for a run that is well."""
    return {name: line for name, rule in RULES.items() if course.rounds and (line := rule(course)) is not None}


def silence(course: Course) -> str | None:
    count = len(course.rounds)
    silent = sum(not values["signs_received"] and not _lost(values) for values in course.rounds)
    if silent <= SILENT_PART * count:
        return None
    return f"nobody was received in {silent} of {count} rounds: {RAISE_SNR}, or take a scheme that sends fewer bits"


def overload(course: Course) -> str | None:
    states = [values.get("solver", {}).get("status") for values in course.rounds]
    overloaded = states.count("overloaded")
    if overloaded <= SILENT_PART * len(states) or silence(course):
        return None
    return (
        f"the bandwidth could not serve all scheduled devices in {overloaded} of {len(states)} rounds: "
        f"{RAISE_SNR}, or schedule fewer (data.cohort_size)"
    )


def lost_loss(course: Course) -> str | None:
    """Rounds in which devices computed, and none had a finite loss."""
    lost = [values["round"] for values in course.rounds if _lost(values)]
    if not lost:
        return None
    count = sum(bool(values["side_bits"]) for values in course.rounds)
    return f"the training loss was not finite in {len(lost)} of {count} rounds, first in round {lost[0]}: {LOWER_RATE}"


def _lost(values: Json) -> bool:
    """Whether devices computed in a round, and none had a finite gradient: a silence that is not the link's."""
    loss = values["loss"]
    return bool(values["side_bits"]) and (loss is None or not math.isfinite(loss))


def grown_loss(course: Course) -> str | None:
    losses = [loss for values in course.rounds if (loss := values["loss"]) is not None and math.isfinite(loss)]
    if len(losses) < FEW_ROUNDS:
        return None
    part = max(1, len(losses) // 10)
    first, last = statistics.fmean(losses[:part]), statistics.fmean(losses[-part:])
    if last <= GROWN * first:
        return None
    return (
        f"the training loss grew from {first:.3g} to {last:.3g}: {LOWER_RATE}, "
        "or take weights that do not explode (scheme.weights = normalized)"
    )


def chance(course: Course) -> str | None:
    last = course.rounds[-1]["round"]
    late = [a for v in course.rounds if (a := v.get("test_accuracy")) is not None and v["round"] > 0.75 * last]
    if course.classes is None or not late or last < FEW_ROUNDS:
        return None
    accuracy = statistics.fmean(late)
    if accuracy > CHANCE / course.classes:
        return None
    return (
        f"accuracy {accuracy:.1%} is that of chance among {course.classes} classes: change training.rate or "
        "training.rounds, and see with scheme error_free whether the network learns at all"
    )


def unreceived(course: Course) -> str | None:
    if course.device is None or course.received is None or silence(course):
        return None
    scheduled = np.bincount(course.device)
    never = np.flatnonzero((scheduled >= OFTEN) & (np.bincount(course.device, course.received) == 0))
    if not never.size:
        return None
    named = ", ".join(map(str, never[:MOST_NAMED])) + (", ..." if never.size > MOST_NAMED else "")
    count, verb = int(np.count_nonzero(scheduled)), "was" if never.size == 1 else "were"
    return (
        f"{never.size} of {count} devices {verb} never received (device {named}), so nothing was learned from their "
        f"data: {RAISE_SNR}"
    )


RULES: Mapping[str, HealthRule] = {
    "silence": silence, "overload": overload, "lost loss": lost_loss, "grown loss": grown_loss, "chance": chance,
    "unreceived": unreceived,
}  # fmt: skip

UNTRAINED = ("lost loss", "grown loss")  # with these, an accuracy says nothing of a learning rate


def grouped(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Lines for many runs: of each rule the first run's line, and how many others it holds for."""
    lines = []
    for name in RULES:
        runs = {run: told[name] for run, told in found.items() if name in told}
        if runs:
            run, line = next(iter(runs.items()))
            others = f" (and {len(runs) - 1} more of {len(found)} runs: {name})" if len(runs) > 1 else ""
            lines.append(f"{run}: {line}{others}")
    return lines


def course_of(rounds: Sequence[Json], classes: int | None, table: Mapping[str, Any] | None) -> Course:
    """Of a run folder: `table` has the columns `device` and `sign` of the allocation table."""
    if table is None:
        return Course(rounds, classes)
    return Course(rounds, classes, np.asarray(table["device"], np.int64), np.asarray(table["sign"], np.bool_))
