"""Data that come with spfl and need no download: digits, three tables, and made sentences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from spfl.data.dataset import Dataset
from spfl.data.digits import read_digits, read_table
from spfl.data.tables import sequences
from spfl.data.texts import windows
from spfl.rng import SETUP_ROUND, Purpose, server_stream, stream

SPEAKERS, SENTENCES, LENGTH = 40, 60, 32  # of the made text
TEST_SHARE = 0.2
NOUNS = ["cat", "dog", "bird", "horse", "river", "tree", "house", "road", "child", "king"]
VERBS = ["sees", "hears", "follows", "finds", "leaves", "likes"]
ADJECTIVES = ["old", "young", "red", "small", "quiet", "happy"]
CHARACTERS = " .abcdefghijklmnopqrstuvwxyz"


def embedded(name: str) -> Dataset:
    """One of `EMBEDDED`, the same at every call."""
    return EMBEDDED[name]()


def _digits() -> Dataset:
    """1,797 digits of 8 x 8 pixels, grey levels 0..16 stretched to 0..255; one fixed 80/20 split."""
    levels, classes = read_digits()
    images = torch.from_numpy(np.rint(levels * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(classes)
    order = torch.from_numpy(server_stream(0, SETUP_ROUND, Purpose.VALIDATION_SPLIT).permutation(len(labels)))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    return Dataset("digits", images[train], labels[train], images[test], labels[test], 10)


def _table(name: str) -> Dataset:
    """wine (178 x 13, 3 classes), breast_cancer (569 x 30, 2 classes), diabetes (442 x 10, a number a patient)."""
    table = read_table(name)
    inputs = torch.from_numpy(table[:, :-1].astype(np.float32))
    if name == "diabetes":  # between 25 and 346
        targets = torch.from_numpy(table[:, -1:].astype(np.float32))
        targets = (targets - targets.mean()) / targets.std(correction=0)
        return Dataset(name, inputs, targets, inputs[:0], targets[:0], 1, "regression").hold_out(TEST_SHARE)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return Dataset(name, inputs, labels, inputs[:0], labels[:0], 1 + int(labels.max())).hold_out(TEST_SHARE)


def _sentences() -> Dataset:
    """Sentences of 40 speakers, each with words of his own liking, to be continued character by character."""
    spoken = [windows(_speech(speaker), CHARACTERS, LENGTH) for speaker in range(SPEAKERS)]
    clients = torch.repeat_interleave(torch.arange(SPEAKERS), torch.tensor([len(part) for part in spoken]))
    whole = torch.cat(spoken)
    return sequences("sentences", whole, whole[:0], clients).hold_out(TEST_SHARE)


def _speech(speaker: int) -> str:
    """What a speaker says: SENTENCES of one form, with words drawn by a Dirichlet(0.5) mixture that is his own."""
    rng = stream(0, SETUP_ROUND, speaker, Purpose.PARTITION)
    drawn = []
    for words in (ADJECTIVES, NOUNS, VERBS, ADJECTIVES, NOUNS):
        liked = rng.dirichlet(np.full(len(words), 0.5))
        drawn.append([words[i] for i in rng.choice(len(words), SENTENCES, p=liked)])
    return "".join(f"the {a} {n} {v} the {b} {m}. " for a, n, v, b, m in zip(*drawn, strict=True))


EMBEDDED: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "breast_cancer": lambda: _table("breast_cancer"),
    "wine": lambda: _table("wine"),
    "diabetes": lambda: _table("diabetes"),
    "sentences": _sentences,
}
