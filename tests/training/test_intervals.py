"""How sure a mean is: against theory and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.intervals import bootstrap_over_users, jackknife_over_blocks


def test_bootstrap_has_the_width_of_theory() -> None:
    """Known answer: the mean of n values with standard deviation s lies within 1.96 s / sqrt(n), 95 %."""
    values = np.random.default_rng(0).normal(3, 2, size=300)
    low, high = bootstrap_over_users(values, ["all"] * 300)
    half = 1.96 * values.std() / math.sqrt(300)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_differences_between_groups_are_no_spread() -> None:
    """Users are drawn inside their group: groups of other means, each without spread, leave none at all."""
    values, groups = np.array([0.0, 1.0, 0.0, 1.0, 0.0]), ["x", "y", "x", "y", "x"]
    assert bootstrap_over_users(values, groups) == pytest.approx((0.4, 0.4))
    low, high = bootstrap_over_users(values, ["x"] * 5)
    assert high - low > 0.5, "without groups the same values spread"


def test_a_constant_group_dilutes_the_spread_of_another() -> None:
    """Known answer: of 200 users only 100 vary, so the standard error is that of their sum over 200."""
    varied = np.random.default_rng(1).normal(size=100)
    values, groups = np.concatenate([varied, np.full(100, 9.0)]), ["x"] * 100 + ["y"] * 100
    low, high = bootstrap_over_users(values, groups)
    assert high - low == pytest.approx(2 * 1.96 * varied.std() * math.sqrt(100) / 200, rel=0.1)
    assert low < values.mean() < high


@given(values=arrays(np.float64, st.integers(1, 12), elements=st.floats(-1, 1)), groups=st.integers(1, 3))
def test_bootstrap_holds_the_mean_and_stays_inside_the_values(values: np.ndarray, groups: int) -> None:
    names = [f"group {user % groups}" for user in range(len(values))]
    low, high = bootstrap_over_users(values, names)
    assert values.min() - 1e-12 <= low <= values.mean() + 1e-12
    assert values.mean() - 1e-12 <= high <= values.max() + 1e-12
    assert (low, high) == bootstrap_over_users(values, names), "the same seed, the same interval"


def test_another_seed_draws_otherwise() -> None:
    values = np.random.default_rng(2).normal(size=9)
    assert bootstrap_over_users(values, ["x"] * 9) != bootstrap_over_users(values, ["x"] * 9, seed=1)


def test_jackknife_of_a_mean_by_hand() -> None:
    """Pencil: the mean of 1, 2, 6 is 4, 3.5, 1.5 without each, which deviates from 3 by 1, 1/2, -3/2.

    So 2/3 (1 + 1/4 + 9/4) = 7/3; and the textbook agrees: the values deviate by -2, -1, 3, their variance is
    14/2 = 7, divided by n = 3.
    """
    assert jackknife_over_blocks(iter([4.0, 3.5, 1.5])) == pytest.approx(math.sqrt(7 / 3))


def test_jackknife_without_differences_is_zero() -> None:
    assert jackknife_over_blocks([0.5] * 10) == 0
