"""The names that keys of [scheme] may have; apart from the keys, so that the command line has them at once."""

from __future__ import annotations

from typing import Literal

WeightsName = Literal["unbiased", "normalized", "mmse", "plain"]
CompensationName = Literal["global", "last", "layer", "constant", "ema", "scaled_ema", "zero"]
AggregationName = Literal["mean", "trimmed_mean", "median", "sign_majority"]
COMPARED = ("error_free", "single_packet", "sp_fl", "sp_fl_plus")  # schemes, where none are named
MODELS = ("softmax", "mlp", "small_cnn", "resnet18")
SolverName = Literal["uniform", "alternating", "exact"]
