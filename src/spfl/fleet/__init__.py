"""What computes the devices' side of a round: threads, processes of threads, or one PyTorch device.

All keep the protocol `Fleet`, so that the round does not know which it has, and give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol

from spfl.arrays import State, Vector
from spfl.uplink.format import Format
from spfl.uplink.reception import Arrived, Update
from spfl.uplink.upload import Upload
from spfl.world.state import ServerState


class Fleet(Protocol):
    """The devices of a run; a context manager, which holds workers or a PyTorch device while it is open."""

    def uploads(self, server: ServerState, cohort: Iterable[int], round_: int) -> tuple[list[Upload], float]:
        """Every device's upload in cohort order, and the share of the time that went into making packets."""

    def receive(self, form: Format, arrived: Arrived, state: State) -> Update:
        """See `uplink.reception.receive`. Packets are those of the uploads, wherever they are kept."""

    def evaluate(self, weights: Vector, statistics: Vector | None = None) -> tuple[float, float]:
        """(mean loss, score) on the whole test (or validation) part; `statistics` are those of BatchNorm, if any."""

    def __enter__(self) -> Fleet: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
