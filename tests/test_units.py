"""Conversions of spfl.units against hand values, and as inverses of each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spfl.units import db_to_linear, dbm_to_watt, linear_to_db, metre_to_km, watt_to_dbm

levels = st.floats(-300.0, 300.0)


@pytest.mark.parametrize(("level_db", "ratio"), [(0.0, 1.0), (10.0, 10.0), (-30.0, 1e-3), (3.0102999566398120, 2.0)])
def test_decibel_of_known_ratios(level_db: float, ratio: float) -> None:
    assert db_to_linear(level_db) == pytest.approx(ratio, rel=1e-14)
    assert linear_to_db(ratio) == pytest.approx(level_db, abs=1e-12)


@pytest.mark.parametrize(("level_dbm", "power_w"), [(0.0, 1e-3), (30.0, 1.0), (-174.0, 3.9810717055349565e-21)])
def test_dbm_of_known_powers(level_dbm: float, power_w: float) -> None:
    assert dbm_to_watt(level_dbm) == pytest.approx(power_w, rel=1e-13)
    assert watt_to_dbm(power_w) == pytest.approx(level_dbm, abs=1e-12)


@given(levels)
def test_conversions_invert_each_other(level: float) -> None:
    assert linear_to_db(db_to_linear(level)) == pytest.approx(level, abs=1e-10)
    assert watt_to_dbm(dbm_to_watt(level)) == pytest.approx(level, abs=1e-10)


@given(st.floats(0.0, 1e6))
def test_kilometres(distance_m: float) -> None:
    assert metre_to_km(distance_m) * 1000.0 == pytest.approx(distance_m)


def test_zero_power_is_minus_infinity_without_a_warning() -> None:
    assert linear_to_db(0.0) == -math.inf
    np.testing.assert_array_equal(watt_to_dbm(np.array([0.0, 1e-3])), [-math.inf, 0.0])


def test_arrays_keep_their_shape() -> None:
    assert db_to_linear(np.zeros((2, 3))).shape == (2, 3)
