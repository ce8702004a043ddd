"""Columns of words in a table to numbers: a column for each word, or the word's place among the sorted ones.

Words are those of the training part, or those that `data.categories` lists. A word of the test part that is none of
them has 0 in all its columns, or the code -1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spfl.arrays import Indices
from spfl.config.data import DataConfig
from spfl.errors import DataError

MOST_WORDS = 256  # of a column that becomes a column for each: more are names or numbers of things


class Words(NamedTuple):
    """A column of words: row i has names[places[i]]."""

    file: Path
    places: Indices
    names: list[str]


def is_words(kind: Any) -> bool:
    """Whether a column of this Arrow type holds words."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def listed(data: DataConfig) -> dict[str, list[str]]:
    """The words of each column that `data.categories` lists, in its order."""
    found: dict[str, list[str]] = {}
    for entry in data.categories or ():
        column, _, word = entry.partition("=")
        found.setdefault(column, []).append(word)
    return found


def read_words(file: Path, name: str, column: Any) -> Words:
    """A column as words, also one of numbers. Raises DataError for a row without one."""
    import pyarrow as pa

    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f"{file}: column {name} must have a word in every row, row {row} has none")
    try:
        coded = column.cast(pa.string()).dictionary_encode()
    except pa.ArrowException:
        raise DataError(f"{file}: column {name} must hold numbers or words, got {column.type}") from None
    return Words(file, coded.indices.to_numpy().astype(np.int64), coded.dictionary.to_pylist())


def known_words(name: str, train: Sequence[Words], rows: Indices, data: DataConfig) -> list[str]:
    """The words of a column: those listed, or those of the `rows` of the training part, sorted. Raises DataError."""
    start, used = 0, set[str]()
    for words in train:
        mine = words.places[rows[(rows >= start) & (rows < start + len(words.places))] - start]
        used |= {words.names[place] for place in np.unique(mine)}
        start += len(words.places)
    agreed = listed(data).get(name)
    if agreed is not None:
        if strange := sorted(used - set(agreed)):
            raise DataError(f"{train[0].file}: column {name} has {strange[0]!r}, which data.categories do not list")
        return agreed
    if data.source == "node":
        raise DataError(f"{train[0].file}: column {name} holds words, which nodes agree upon by data.categories")
    if data.encode == "one_hot" and len(used) > MOST_WORDS:
        raise DataError(
            f"{train[0].file}: column {name} has {len(used)} words, at most {MOST_WORDS} become a column each; leave "
            "it out by data.input_columns, or set data.encode = codes"
        )
    return sorted(used)


def encoded(words: Words, known: Sequence[str], data: DataConfig) -> NDArray[np.float32]:
    """(n, words) of 0 and 1, or (n, 1) codes."""
    place: Mapping[str, int] = {word: number for number, word in enumerate(known)}
    codes = np.array([place.get(name, -1) for name in words.names], np.int64)[words.places]
    if data.encode == "codes":
        return codes[:, None].astype(np.float32)
    hot: NDArray[np.bool_] = codes[:, None] == np.arange(len(known))
    return hot.astype(np.float32)
