"""The tables [training] and [clients]: what devices compute, the server's optimiser, and which devices take part."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spfl.config.section import Section

Fractions = float | tuple[float, ...]
ADAPTIVE = ("beta1", "beta2", "adaptivity")
LOCAL = ("local_optimiser", "local_momentum", "proximal_mu", "correction")  # need more than one local step


class TrainingConfig(Section):
    """Local computation and the server's optimiser."""

    rounds: int = Field(100, ge=1, le=10**9, description="Communication rounds to train for.")
    batch_size: int = Field(
        32, ge=1, le=10**6, description="Samples of a device's minibatch; a device with fewer uses all it has."
    )
    local_steps: int = Field(
        1,
        ge=1,
        le=10**6,
        description="Local SGD steps E of a device in a round; 1 sends the gradient of one minibatch.",
    )
    local_epochs: int | None = Field(
        None,
        ge=1,
        le=10**4,
        description="Passes of a device over its own samples in a round, as in FedAvg; local_steps counts when absent.",
    )
    local_rate: float = Field(
        0.05,
        gt=0,
        le=1e6,
        description="Learning rate of the local steps; it is used when local_steps > 1 or local_epochs is set.",
    )
    local_optimiser: Literal["sgd", "adam"] = Field(
        "sgd", description="Optimiser of the local steps, begun anew in each round: sgd or adam."
    )
    local_momentum: float = Field(
        0.0, ge=0, lt=1, description="Heavy-ball momentum of the local steps, in [0, 1) (local_optimiser = sgd)."
    )
    proximal_mu: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Weight mu of FedProx, which pulls local steps back to the model that the round began with.",
    )
    correction: Literal["none", "scaffold", "feddyn"] = Field(
        "none",
        description="What corrects local steps for the drift of a device: control variates (scaffold), or a regulariser"
        " that is learned (feddyn).",
    )
    feddyn_alpha: float = Field(
        0.01, gt=0, le=1e6, description="Weight alpha of FedDyn's regulariser (correction = feddyn)."
    )
    rate: float = Field(0.1, gt=0, le=1e6, description="Learning rate eta of the server.")
    server_optimiser: Literal["sgd", "adam", "yogi", "adagrad"] = Field(
        "sgd",
        description="The server's step: sgd (FedAvg; FedAvgM with momentum), adam, yogi or adagrad (FedAdam, FedYogi, "
        "FedAdagrad).",
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Heavy-ball momentum of the server, in [0, 1).")
    beta1: float = Field(
        0.9, ge=0, lt=1, description="Decay of the first moment, in [0, 1) (server_optimiser = adam, yogi, adagrad)."
    )
    beta2: float = Field(
        0.99, ge=0, lt=1, description="Decay of the second moment, in [0, 1) (server_optimiser = adam or yogi)."
    )
    adaptivity: float = Field(
        1e-3,
        gt=0,
        le=1e6,
        description="Degree of adaptivity tau, added to the root of the second moment (server_optimiser = adam, yogi, "
        "adagrad).",
    )
    weight_decay: float = Field(0.0, ge=0, le=1e6, description="L2 weight decay of the server, as in torch.optim.SGD.")
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="Learning-rate schedule of the server: constant, or cosine down to zero after the last round.",
    )
    warmup_rounds: int = Field(
        0, ge=0, le=10**9, description="Rounds in which the server's learning rate rises linearly to its full value."
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="Largest Euclidean norm of the aggregate, which is scaled down to it; unlimited when absent.",
    )
    flip: bool = Field(False, description="Whether training images are mirrored left to right at random.")
    crop_px: int = Field(
        0,
        ge=0,
        le=1024,
        description="Pixels by which training images are moved at random, at most, each way; their edges are mirrored.",
    )
    eval_every: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="Rounds between evaluations; the last round is evaluated as well. When absent 10, or more where an "
        "evaluation takes a large network longer than many rounds do.",
    )
    eval_samples: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="Test samples that are evaluated on, drawn once for all rounds; all of them when absent.",
    )

    @property
    def one_gradient(self) -> bool:
        """Whether a device sends the gradient of one minibatch, and makes no local step."""
        return self.local_steps == 1 and self.local_epochs is None

    def samples(self, held: int) -> int:
        """Samples that a device which holds `held` computes gradients of in a round, repeats counted."""
        if self.local_epochs is not None:
            return self.local_epochs * held
        return self.local_steps * min(self.batch_size, held)

    @model_validator(mode="after")
    def _no_key_without_effect(self) -> TrainingConfig:
        if self.local_epochs is not None and self.local_steps > 1:
            raise ValueError(f"local_epochs and local_steps exclude each other, got {self.local_epochs} and "
                             f"{self.local_steps}")  # fmt: skip
        told = [key for key in LOCAL if getattr(self, key) != type(self).model_fields[key].default]
        if told and self.one_gradient:
            raise ValueError(f"{told[0]} needs local_steps > 1 or local_epochs, got {getattr(self, told[0])!r} with one"
                             " step")  # fmt: skip
        if self.local_optimiser == "adam" and self.local_momentum:
            raise ValueError(f"local_momentum must be 0 with local_optimiser = adam, got {self.local_momentum}")
        if self.correction != "none" and (self.local_optimiser != "sgd" or self.local_momentum):
            raise ValueError(f"correction = {self.correction} needs local_optimiser = sgd without local_momentum")
        if self.correction == "scaffold" and self.local_epochs is not None:
            raise ValueError("correction = scaffold needs local_steps, equal for all devices, got local_epochs")
        if self.server_optimiser != "sgd" and self.momentum:
            raise ValueError(f"momentum must be 0 with server_optimiser = {self.server_optimiser}, which has beta1")
        idle = set(ADAPTIVE) if self.server_optimiser == "sgd" else set()
        idle |= {"beta2"} if self.server_optimiser == "adagrad" else set()
        idle |= {"feddyn_alpha"} if self.correction != "feddyn" else set()
        for key in sorted(idle):
            if getattr(self, key) != type(self).model_fields[key].default:
                needs = "correction = feddyn" if key == "feddyn_alpha" else "server_optimiser = adam, yogi or adagrad"
                raise ValueError(f"{key} has an effect with {needs} only, got {getattr(self, key)}")
        return self


class ClientsConfig(Section):
    """Which devices of the cell take part in a round, and which of those are lost before they send."""

    selection: Literal["random", "power_of_choice"] = Field(
        "random",
        description="How data.cohort_size devices are chosen: random, or those of the largest last training loss among "
        "some candidates (power_of_choice).",
    )
    candidates: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="Candidates d of power_of_choice, drawn by their number of samples; twice data.cohort_size when "
        "absent.",
    )
    availability: Fractions = Field(
        1.0,
        description="Chance in [0, 1] that a device can be reached in a round, one for all or one for each; only such "
        "devices are chosen while there are enough.",
    )
    online: tuple[tuple[int, int, int], ...] | None = Field(
        None,
        description="Recorded availability: [device, first round, last round] for each time in which a device can be "
        "reached; always when absent.",
    )
    dropout: Fractions = Field(
        0.0,
        description="Chance in [0, 1] that a chosen device fails before it sends, one for all or one for each.",
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Seconds that a device has to compute; who is late is lost for the round. Unlimited when absent.",
    )

    @model_validator(mode="after")
    def _chances_are_chances(self) -> ClientsConfig:
        for key in ("availability", "dropout"):
            value = getattr(self, key)
            wrong = [p for p in (value if isinstance(value, tuple) else (value,)) if not 0 <= p <= 1]
            if wrong:
                raise ValueError(f"{key} must lie in [0, 1], got {wrong[0]}")
        if self.candidates is not None and self.selection != "power_of_choice":
            raise ValueError(f"candidates has an effect with selection = power_of_choice only, got {self.candidates}")
        for device, first, last in self.online or ():
            if device < 0 or not 1 <= first <= last:
                raise ValueError(f"online must hold [device, first round, last round], rounds from 1, got "
                                 f"{[device, first, last]}")  # fmt: skip
        return self
