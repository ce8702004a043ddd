"""Formats and whole rounds on small layouts, as several test modules need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spfl.arrays import State
from spfl.config.schema import CodecConfig, SchemeConfig
from spfl.packets.layout import Layout
from spfl.radio.outage import Outcome
from spfl.scheme import Scheme
from spfl.uplink.format import Format
from spfl.uplink.reception import Arrived, Update, receive
from spfl.uplink.upload import Upload


def format_of(
    scheme: Scheme, layout: Layout, codec: CodecConfig | None = None, seed: int = 0, **settings: Any
) -> Format:
    """The format of a scheme with the settings that are given, and the default for all else."""
    return Format(scheme, SchemeConfig(**settings), layout, codec or CodecConfig(), seed)


def received(
    form: Format,
    uploads: Sequence[Upload],
    outcome: Outcome,
    allocation: Any,
    state: State | None = None,
    round_: int = 1,
) -> Update:
    """What the server makes of a round."""
    return receive(form, Arrived(round_, uploads, outcome, allocation), state or {})
