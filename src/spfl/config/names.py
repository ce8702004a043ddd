"""The names that keys of [scheme], [data] and [model] may have; apart, so that the command line starts fast."""

from __future__ import annotations

from typing import Literal

WeightsName = Literal["unbiased", "normalized", "mmse", "plain"]
CompensationName = Literal["global", "last", "layer", "constant", "ema", "scaled_ema", "zero"]
AggregationName = Literal["mean", "trimmed_mean", "median", "sign_majority"]
COMPARED = ("error_free", "single_packet", "sp_fl", "sp_fl_plus")  # schemes, where none are named
ANALOGUE = ("over_the_air", "analog_mean")  # schemes whose devices send at once, for the air to add up
EMBEDDED_NAMES = ("digits", "breast_cancer", "wine", "diabetes", "sentences")
MODELS = ("softmax", "mlp", "small_cnn", "resnet18", "lstm", "transformer")
TaskName = Literal["classification", "multi_label", "regression", "next_token"]
TASKS: tuple[TaskName, ...] = ("classification", "multi_label", "regression", "next_token")
SolverName = Literal["uniform", "alternating", "exact"]
