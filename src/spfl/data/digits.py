"""The embedded files: 1,797 handwritten digits of 8 x 8 pixels, and three tables.

The digits are the test set of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998 (https://doi.org/10.24432/C50P49), under CC BY 4.0; the files are scikit-learn's copies. breast_cancer:
Wolberg, Mangasarian, Street and Street, UCI, 1993 (https://doi.org/10.24432/C5DW2B); wine: Aeberhard and Forina, UCI,
1992 (https://doi.org/10.24432/C5PC7J), both under CC BY 4.0. diabetes: Efron, Hastie, Johnstone and Tibshirani, "Least
Angle Regression", Annals of Statistics, 2004.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

import numpy as np

from spfl.arrays import Floats, Indices


def read_digits() -> tuple[Floats, Indices]:
    """Grey levels 0..16, (n, 8, 8), and labels 0..9, (n,)."""
    table = read_table("digits")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def read_table(name: str) -> Floats:
    """The rows of an embedded file, (n, columns), the label last."""
    return _rows(name).copy()


@cache
def _rows(name: str) -> Floats:
    """Read once a process: nodes of one process each ask for them."""
    packed = files("spfl.data").joinpath(f"{name}.csv.gz").read_bytes()
    return np.asarray(np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=","), np.float64)
