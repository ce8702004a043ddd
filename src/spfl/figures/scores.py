"""How scores are shown: shares such as accuracy in per cent, any other number as it is."""

from __future__ import annotations

from collections.abc import Iterable

SHARES = ("accuracy", "f1")  # scores in [0, 1] that are told in per cent


def factor(metric: str) -> float:
    """What a score is multiplied by where it is shown."""
    return 100.0 if metric in SHARES else 1.0


def unit(metric: str) -> str:
    """What follows the name of a score in headings."""
    return " %" if metric in SHARES else ""


def shown(metric: str, value: float | None, digits: int = 1, sign: str = "%") -> str:
    """A score as text; `digits` are those of per cents, other numbers have two more."""
    if value is None:
        return "-"
    return f"{100 * value:.{digits}f}{sign}" if metric in SHARES else f"{value:.{digits + 2}f}"


def axis_label(metric: str, part: str = "Test") -> str:
    """The label of an axis of scores."""
    return f"{part} {metric} (%)" if metric in SHARES else f"{part} {metric}"


def common(metrics: Iterable[str]) -> str:
    """The one metric of several runs; score, where they have different ones."""
    found = set(metrics)
    return found.pop() if len(found) == 1 else "score"
