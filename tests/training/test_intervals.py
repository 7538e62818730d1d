"""How sure a mean is: against theory and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.intervals import bootstrap_over_users, jackknife_over_blocks, mean_of_known, summarize


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


def test_figures_by_hand() -> None:
    """Two repeats, three users, one of them undefined in the second repeat.

    Means inside the repeats (0.1 + 0.3 + 0.8) / 3 = 0.4 and (0.5 + 0.7) / 2 = 0.6; their mean 0.5, their
    standard deviation sqrt(2 * 0.1^2 / 1) = 0.1414. Left out in turn, block b gives 0.5 + 0.01 b for b = 0
    to 9, whose squared deviations add up to 82.5e-4: the jackknife gives sqrt(9 / 10 * 82.5e-4).
    """
    whole = np.array([[0.1, 0.3, 0.8], [0.5, 0.7, np.nan]])
    without = 0.5 + 0.01 * np.arange(10)
    figure = summarize(whole, without, np.isnan(whole), ["a", "a", "b"])
    assert figure.mean == pytest.approx(0.5)
    assert figure.std == pytest.approx(math.sqrt(0.02))
    assert figure.picture_error == pytest.approx(math.sqrt(0.9 * 82.5e-4))
    assert figure.mean_with_zeros == pytest.approx((0.4 + (0.5 + 0.7 + 0) / 3) / 2)
    # Users' means are 0.3, 0.5 and 0.8; drawn inside their groups, the first two change, the third does not.
    assert figure.interval == pytest.approx(((0.3 + 0.3 + 0.8) / 3, (0.5 + 0.5 + 0.8) / 3))


def test_one_repeat_has_no_spread() -> None:
    figure = summarize(np.full((1, 2), 0.25), np.full(10, 0.25), np.zeros((1, 2), bool), ["a", "a"])
    assert (figure.mean, figure.picture_error) == (0.25, 0.0)
    assert math.isnan(figure.std), "0 would claim that every support gives the same"


def test_a_repeat_or_a_block_without_any_correlation_is_left_out() -> None:
    """One person, undefined in one repeat and without one block: no warning of numpy, no lost mean."""
    values, without = np.array([[0.5], [np.nan]]), np.full(10, 0.5)
    without[3] = np.nan
    figure = summarize(values, without, np.isnan(values), ["a"])
    assert (figure.mean, figure.mean_with_zeros) == (0.5, 0.25)
    assert math.isnan(figure.std)
    assert math.isnan(figure.picture_error)


def test_only_constant_ratings_count_as_zero() -> None:
    """What was never tried, as a control that does not exist, is left out of the second mean as well."""
    values = np.array([[0.5, np.nan, np.nan]])
    figure = summarize(values, np.full(10, 0.5), np.array([[False, True, False]]), ["a"] * 3)
    assert (figure.mean, figure.mean_with_zeros) == (0.5, 0.25)
    nothing = summarize(np.full((2, 3), np.nan), np.full(10, np.nan), np.zeros((2, 3), bool), ["a"] * 3)
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.mean_with_zeros)


def test_the_mean_of_what_is_known() -> None:
    assert mean_of_known(np.array([[1.0, np.nan], [np.nan, 2.0]])) == 1.5
    assert math.isnan(mean_of_known(np.full(3, np.nan)))
