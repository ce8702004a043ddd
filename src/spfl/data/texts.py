"""Plain text to sequences of characters, each with the character that follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spfl.config.data import DataConfig
from spfl.data.dataset import Dataset
from spfl.data.image_files import Source, check_memory
from spfl.data.labels import Part, number_clients
from spfl.data.tables import sequences
from spfl.errors import DataError, reason


def read_texts(source: Source, data: DataConfig) -> Dataset:
    """Files of UTF-8 text, cut into pieces of `data.sequence_length` characters. Raises DataError."""
    if data.task != "next_token":
        raise DataError(f"{source.train[0]}: text is for data.task = next_token, got {data.task or 'classification'}")
    train, test = ([_read(file) for file in files] for files in (source.train, source.test))
    cut = _cut(source, data, (train, test), sorted(set().union(*train, *test)))
    told = [Part(file, np.zeros(len(part))) for file, part in zip(source.train, cut[0], strict=True)]
    shown = torch.cat(cut[1]) if cut[1] else cut[0][0][:0]
    return sequences(source.name, torch.cat(cut[0]), shown, number_clients(told, data.partition == "files"))


def read_characters(source: Source, data: DataConfig, known: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pieces (n, length + 1) of both parts, in characters that all nodes have agreed upon. Raises DataError."""
    train, test = ([_read(file) for file in files] for files in (source.train, source.test))
    for file, text in zip((*source.train, *source.test), (*train, *test), strict=True):
        if strange := sorted(set(text) - set(known)):
            raise DataError(f"{file}: character {strange[0]!r} is none of data.class_names, the characters of the run")
    cut = _cut(source, data, (train, test), known)
    return torch.cat(cut[0]), torch.cat(cut[1]) if cut[1] else cut[0][0][:0]


def _cut(
    source: Source, data: DataConfig, texts: Sequence[Sequence[str]], characters: Sequence[str]
) -> list[list[torch.Tensor]]:
    """The pieces of each text of both parts. Raises DataError for a text that is too short."""
    cut = [[windows(text, characters, data.sequence_length) for text in part] for part in texts]
    for file, part in zip((*source.train, *source.test), (*cut[0], *cut[1]), strict=True):
        if not len(part):
            raise DataError(f"{file}: needs data.sequence_length + 1 = {data.sequence_length + 1} characters or more")
    return cut


def windows(text: str, characters: Sequence[str], length: int) -> torch.Tensor:
    """Pieces (n, length + 1) of a text, which share their end characters, as places in `characters`; no part piece."""
    place = {character: number for number, character in enumerate(characters)}
    codes = torch.tensor([place[character] for character in text], dtype=torch.int64)
    return codes.unfold(0, length + 1, length) if len(codes) > length else codes.new_zeros((0, length + 1))


def _read(file: Path) -> str:
    try:
        check_memory(file, 16 * file.stat().st_size)
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: must be UTF-8 text ({reason(error)})") from None
