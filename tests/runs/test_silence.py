"""A run in which hardly anybody was received says so, and what to change."""

from __future__ import annotations

from spfl.runs.metrics import told_silence


def test_more_than_a_tenth_of_silent_rounds_is_told() -> None:
    assert told_silence({"rounds": 10, "silent_rounds": 1}) is None
    assert told_silence({"rounds": 10}) is None  # a folder of an older version
    told = told_silence({"rounds": 10, "silent_rounds": 2})
    assert told is not None
    assert told.startswith("nobody was received in 2 of 10 rounds: raise channel.median_snr_db")
