"""The table [asynchronous]: a server that steps when updates arrive, on a virtual clock, and waits for nobody."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spfl.config.section import Section

NEEDS = {"buffer": ("rule", "fedbuff"), "exponent": ("staleness", "polynomial")}
NEEDS |= {"slope": ("staleness", "hinge"), "slack": ("staleness", "hinge")}


class AsynchronousConfig(Section):
    """Rounds without a barrier: each is one slot of the uplink, in which those send who have computed."""

    rule: Literal["none", "fedasync", "fedbuff"] = Field(
        "none",
        description="How the server uses updates that arrive one by one: not at all (none, all wait for the slowest), "
        "each at once as a mixture of models (fedasync), or several in a buffer (fedbuff).",
    )
    buffer: int = Field(4, ge=1, le=10**6, description="Received updates that make the server step (rule = fedbuff).")
    staleness: Literal["constant", "polynomial", "hinge"] = Field(
        "polynomial",
        description="Weight of an update that is t steps of the server old: 1 (constant), (1 + t)^-exponent "
        "(polynomial), or 1 up to slack, then 1 / (1 + slope (t - slack)) (hinge).",
    )
    exponent: float = Field(
        0.5, ge=0, le=100, description="Exponent of the weight of old updates, without unit (staleness = polynomial)."
    )
    slope: float = Field(
        10.0,
        gt=0,
        le=1e6,
        description="Slope of the weight of old updates, per server step (staleness = hinge).",
    )
    slack: int = Field(
        4, ge=0, le=10**6, description="Steps of the server until an update loses weight (staleness = hinge)."
    )

    @property
    def on(self) -> bool:
        """Whether rounds are asynchronous."""
        return self.rule != "none"

    @model_validator(mode="after")
    def _no_key_without_effect(self) -> AsynchronousConfig:
        for key in ("staleness", *NEEDS):
            value = getattr(self, key)
            if value == type(self).model_fields[key].default:
                continue
            if not self.on:
                raise ValueError(f"{key} has an effect with rule = fedasync or fedbuff only, got {value}")
            other, wanted = NEEDS.get(key, ("staleness", self.staleness))
            if getattr(self, other) != wanted:
                raise ValueError(f"{key} has an effect with {other} = {wanted} only, got {value}")
        return self
