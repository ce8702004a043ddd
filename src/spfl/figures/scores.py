"""How scores are shown: shares such as accuracy in per cent, any other number as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHARES = ("accuracy", "f1")  # scores in [0, 1] that are told in per cent


@dataclass(frozen=True)
class ScoreKind:
    """What runs are judged by: its name, and which end of it is the better one."""

    metric: str = "accuracy"
    lower_is_better: bool = False

    @property
    def sign(self) -> int:
        """What makes more of a score better."""
        return -1 if self.lower_is_better else 1

    def best(self, values: Iterable[float]) -> float:
        return self.sign * max(self.sign * value for value in values)


ACCURACY = ScoreKind()


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


def difference(metric: str, value: float, digits: int = 1) -> str:
    """A difference of scores as text, with its sign."""
    return f"{100 * value:+.{digits}f}" if metric in SHARES else f"{value:+.{digits + 2}f}"


def axis_label(metric: str, part: str = "Test") -> str:
    """The label of an axis of scores."""
    return f"{part} {metric} (%)" if metric in SHARES else f"{part} {metric}"


def figure_name(metric: str) -> str:
    """The file of the curves of a score, where nobody names one."""
    return f"{metric}.png"


def common(metrics: Iterable[str]) -> str:
    """The one metric of several runs; score, where they have different ones."""
    found = set(metrics)
    return found.pop() if len(found) == 1 else "score"
