"""The names that keys of [scheme], [data] and [model] may have; apart, so that the command line starts fast."""

from __future__ import annotations

from typing import Literal

WeightsName = Literal["unbiased", "normalized", "mmse", "plain"]
CompensationName = Literal["global", "last", "layer", "constant", "ema", "scaled_ema", "zero"]
AggregationName = Literal["mean", "trimmed_mean", "median", "sign_majority"]
COMPARED = ("error_free", "single_packet", "sp_fl", "sp_fl_plus")  # schemes, where none are named
# Schemes that have what a key is about. Their table imports the configuration, so they stand here; a test compares.
ANALOGUE = ("over_the_air", "analog_mean")  # devices send at once, for the air to add up
LADDER_FIXED = ("drive", "eden", "drive_exact", "drive_calibrated")  # as many bits for every device
LADDER_GRANTED = (
    "eden_adaptive", "eden_calibrated", "schedule_capacity", "schedule_capacity_fair", "sp_fl_plus",
    "sp_fl_plus_uniform", "sp_fl_plus_plain",
)  # fmt: skip
CALIBRATED = (
    "sp_fl_plus_1", "sp_fl_plus_1_unrotated", "sp_fl_plus_1_uniform", "single_packet_plus", "drive_calibrated",
    "eden_calibrated", "sp_fl_plus", "sp_fl_plus_uniform",
)  # fmt: skip
SPARSE = ("top_k",)
EMBEDDED_NAMES = ("digits", "breast_cancer", "wine", "diabetes", "sentences")
MODELS = ("softmax", "mlp", "small_cnn", "resnet18", "lstm", "transformer")
TaskName = Literal["classification", "multi_label", "regression", "next_token"]
TASKS: tuple[TaskName, ...] = ("classification", "multi_label", "regression", "next_token")
SolverName = Literal["uniform", "alternating", "exact"]
