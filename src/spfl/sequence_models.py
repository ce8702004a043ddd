"""Networks for sequences of tokens: an LSTM, and a small transformer; one output a place, or one in all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spfl.errors import ConfigError

HEADS = 4
BLOCKS = 2
SEQUENCE_MODELS = ("lstm", "transformer")


@dataclass(frozen=True)
class Sequences:
    """What goes in, `length` tokens of a vocabulary, and what comes out: `outputs`, at every place or for the whole."""

    vocabulary: int
    length: int
    outputs: int
    every_place: bool


class Lstm(nn.Module):
    """Embedding, one LSTM layer (Hochreiter and Schmidhuber 1997), and a linear layer on its states."""

    def __init__(self, sequences: Sequences, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(sequences.vocabulary, width)
        self.cells = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, sequences.outputs)
        self.every_place = sequences.every_place

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states = self.cells(self.embed(tokens))[0]
        outputs: torch.Tensor = self.head(states if self.every_place else states[:, -1])
        return outputs


class _AttentionBlock(nn.Module):
    """Attention to earlier places and two linear layers, each after a LayerNorm and around a shortcut (GPT-2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        parts = self.mix(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).movedim(-3, 0).transpose(-2, -3)
        query, key, value = parts.unbind(0)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        mixed = torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ value
        x = x + self.join(mixed.transpose(-2, -3).flatten(-2))
        made: torch.Tensor = x + self.outer(F.gelu(self.inner(self.norm2(x))))
        return made


class Transformer(nn.Module):
    """A decoder of two blocks with learned places; each place sees itself and earlier ones."""

    hidden: torch.Tensor

    def __init__(self, sequences: Sequences, width: int) -> None:
        super().__init__()
        length = sequences.length
        self.embed, self.places = nn.Embedding(sequences.vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_AttentionBlock(width) for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, sequences.outputs)
        self.every_place = sequences.every_place
        later = torch.ones(length, length, dtype=torch.bool, device="cpu").triu(1)
        self.register_buffer("hidden", later, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.places.weight
        for block in self.blocks:
            x = block(x, self.hidden)
        x = self.norm(x)
        outputs: torch.Tensor = self.head(x if self.every_place else x[:, -1])
        return outputs


def build_sequence_model(name: str, sequences: Sequences, width: int, rng: np.random.Generator) -> nn.Module:
    """`lstm` or `transformer` from tokens (n, length) to outputs (n, [length,] outputs), its weights drawn from `rng`.

    Raises ConfigError for a width that does not fit.
    """
    if name == "transformer" and width % HEADS:
        raise ConfigError(f"model.width must be a multiple of {HEADS} for transformer, got {width}")
    with torch.random.fork_rng(devices=[]):
        if name == "lstm":
            module: nn.Module = Lstm(sequences, width)
        else:
            module = Transformer(sequences, width)
    _draw(module.to(torch.float32), width, rng)
    return module


def _draw(module: nn.Module, width: int, rng: np.random.Generator) -> None:
    """Embeddings N(0, 0.1^2), linear layers N(0, 1 / inputs), LSTM weights N(0, 1 / width); biases 0, norms 1."""
    for name, parameter in module.named_parameters():
        shape = tuple(parameter.shape)
        if parameter.ndim == 1:
            parameter.data.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            continue
        embeds = name.split(".")[0] in ("embed", "places")
        deviation = 0.1 if embeds else 1 / math.sqrt(width if name.startswith("cells") else shape[1])
        draw = rng.standard_normal(shape, np.float32) * np.float32(deviation)
        parameter.data.copy_(torch.from_numpy(draw))
