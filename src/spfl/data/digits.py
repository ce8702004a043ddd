"""The embedded data: 1,797 handwritten digits of 8 x 8 pixels.

The test set of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(https://doi.org/10.24432/C50P49), under CC BY 4.0; the file is scikit-learn's copy of it.
"""

from __future__ import annotations

import gzip
from importlib.resources import files

import numpy as np

from spfl.arrays import Floats, Indices


def read_digits() -> tuple[Floats, Indices]:
    """Grey levels 0..16, (n, 8, 8), and labels 0..9, (n,)."""
    packed = files("spfl.data").joinpath("digits.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
