"""Agreement of scores and ratings: known answers, ties, scipy, and what must not change them."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piaa_sdk.metrics import average_ranks, pairwise_accuracy, plcc, srocc

if TYPE_CHECKING:
    from collections.abc import Callable

    from piaa_sdk.array_types import FloatArray

    Metric = Callable[[FloatArray, FloatArray], float]

METRICS = pytest.mark.parametrize("metric", [plcc, srocc, pairwise_accuracy])


@st.composite
def ratings_and_scores(draw: st.DrawFn) -> tuple[FloatArray, FloatArray]:
    """Few distinct values, so that ties are common; integers, so that increasing maps are exact."""
    count = draw(st.integers(2, 12))
    values = st.lists(st.integers(-4, 4), min_size=count, max_size=count)
    return np.array(draw(values), dtype=float), np.array(draw(values), dtype=float)


def same(first: float, second: float) -> bool:
    return (math.isnan(first) and math.isnan(second)) or first == pytest.approx(second, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "ranks"),
    [
        ([10, 30, 20], [1, 3, 2]),
        ([5, 5], [1.5, 1.5]),
        ([2, 1, 2, 2], [3, 1, 3, 3]),
        ([7], [1]),
        ([0.0, -0.0, 1], [1.5, 1.5, 3]),
        ([], []),
    ],
)
def test_ranks_by_hand(values: list[float], ranks: list[float]) -> None:
    np.testing.assert_array_equal(average_ranks(np.array(values)), ranks)


def test_srocc_by_hand_without_ties() -> None:
    """Differences of ranks 1, 1, 0, 0: 1 - 6 * 2 / (4 * 15) = 0.8."""
    assert srocc(np.array([1, 2, 3, 4]), np.array([20, 10, 30, 40])) == pytest.approx(0.8, abs=1e-15)


def test_srocc_by_hand_with_ties() -> None:
    """Ranks 1.5 1.5 3 4 and 1 2 3 4: covariance 4.5, variances 4.5 and 5: sqrt(0.9).

    The short formula 1 - 6 sum(d^2) / (n (n^2 - 1)) gives 0.95 here: it does not hold for ties.
    """
    assert srocc(np.array([3, 3, 4, 5]), np.array([1, 2, 3, 4])) == pytest.approx(math.sqrt(0.9), abs=1e-15)


def test_plcc_by_hand() -> None:
    """Centred -1 0 1 and -2 1 1: 3 / sqrt(2 * 6)."""
    assert plcc(np.array([1, 2, 3]), np.array([0, 3, 3])) == pytest.approx(3 / math.sqrt(12), abs=1e-15)


def test_pairwise_accuracy_by_hand() -> None:
    """Right, tied, right, wrong, (equal ratings: not counted), wrong, in the order of the pairs."""
    assert pairwise_accuracy(np.array([1, 2, 3, 2]), np.array([1, 4, 1, 5])) == (1 + 0.5 + 1 + 0 + 0) / 5


@METRICS
def test_constant_ratings_say_nothing(metric: Metric) -> None:
    assert math.isnan(metric(np.array([2, 2, 2]), np.array([1, 2, 3])))
    assert math.isnan(metric(np.array([2, 2, 2]), np.array([1, 1, 1])))


def test_constant_scores_have_earned_nothing() -> None:
    """Not nan: a mean over people that leaves them out would reward a model for giving up."""
    ratings, scores = np.array([1, 2, 3]), np.array([0.1, 0.1, 0.1])
    assert plcc(ratings, scores) == 0.0
    assert srocc(ratings, scores) == 0.0
    assert pairwise_accuracy(ratings, scores) == 0.5


@METRICS
@pytest.mark.parametrize(
    ("ratings", "scores"),
    [([1], [1]), ([], []), ([1, 2], [1, 2, 3]), ([[1, 2], [3, 4]], [[1, 2], [3, 4]])],
)
def test_shapes_that_do_not_match_are_refused(
    metric: Metric, ratings: list[float], scores: list[float]
) -> None:
    with pytest.raises(ValueError, match="two vectors"):
        metric(np.array(ratings), np.array(scores))


@METRICS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(metric: Metric, bad: float) -> None:
    """Sorting puts nan last: a model that fails would be judged as if it loved the picture."""
    good, broken = np.array([1.0, 2.0, 3.0]), np.array([1.0, bad, 3.0])
    with pytest.raises(ValueError, match="finite"):
        metric(good, broken)
    with pytest.raises(ValueError, match="finite"):
        metric(broken, good)


@METRICS
@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1e200, 1.7e308])
def test_very_large_and_very_small_numbers(metric: Metric, scale: float) -> None:
    """Squares and differences of these overflow or vanish."""
    ratings = np.array([1.0, 2.0, 3.0])
    assert metric(ratings, np.array([-1.0, 0.0, 1.0]) * scale) == pytest.approx(1)
    assert metric(ratings, np.array([1.0, 0.0, -1.0]) * scale) == pytest.approx(
        0 if metric is pairwise_accuracy else -1
    )


@pytest.mark.parametrize("count", [2, 3, 10, 300])
def test_against_scipy(count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(count)
    for _ in range(20):
        ratings = generator.integers(1, 6, count).astype(float)
        scores = np.round(generator.normal(size=count) + 0.3 * ratings, 1)
        if np.ptp(ratings) == 0 or np.ptp(scores) == 0:
            continue
        assert srocc(ratings, scores) == pytest.approx(stats.spearmanr(ratings, scores).statistic, abs=1e-12)
        assert plcc(ratings, scores) == pytest.approx(stats.pearsonr(ratings, scores).statistic, abs=1e-12)


@given(ratings_and_scores())
def test_pairwise_accuracy_is_what_counting_gives(pair: tuple[FloatArray, FloatArray]) -> None:
    ratings, scores = pair
    points = [
        0.5 if scores[i] == scores[j] else float((scores[i] > scores[j]) == (ratings[i] > ratings[j]))
        for i, j in itertools.combinations(range(len(ratings)), 2)
        if ratings[i] != ratings[j]
    ]
    expected = sum(points) / len(points) if points else math.nan
    assert same(pairwise_accuracy(ratings, scores), expected)


@pytest.mark.parametrize("metric", [srocc, pairwise_accuracy])
@given(pair=ratings_and_scores())
def test_only_the_order_counts(metric: Metric, pair: tuple[FloatArray, FloatArray]) -> None:
    ratings, scores = pair
    before = metric(ratings, scores)
    for increasing in (np.exp, lambda values: values**3, lambda values: 7 * values - 300):
        assert metric(ratings, increasing(scores)) == before or math.isnan(before)
        assert same(metric(increasing(ratings), scores), before)


@given(ratings_and_scores(), st.floats(0.01, 100), st.floats(-100, 100))
def test_units_do_not_count_for_plcc(
    pair: tuple[FloatArray, FloatArray], factor: float, offset: float
) -> None:
    ratings, scores = pair
    assert same(plcc(ratings, scores), plcc(ratings, factor * scores))
    assert plcc(ratings, factor * scores + offset) == pytest.approx(
        plcc(ratings, scores), abs=1e-9, nan_ok=True
    )


@METRICS
@given(pair=ratings_and_scores(), seed=st.integers(0, 99))
def test_the_order_of_the_pictures_does_not_count(
    metric: Metric, pair: tuple[FloatArray, FloatArray], seed: int
) -> None:
    ratings, scores = pair
    order = np.random.default_rng(seed).permutation(len(ratings))
    assert same(metric(ratings, scores), metric(ratings[order], scores[order]))


@given(ratings_and_scores())
def test_turning_the_scores_round_turns_the_answer(pair: tuple[FloatArray, FloatArray]) -> None:
    ratings, scores = pair
    assert same(srocc(ratings, -scores), -srocc(ratings, scores))
    assert same(plcc(ratings, -scores), -plcc(ratings, scores))
    assert same(pairwise_accuracy(ratings, -scores), 1 - pairwise_accuracy(ratings, scores))


@METRICS
@given(pair=ratings_and_scores())
def test_answers_stay_in_their_range(metric: Metric, pair: tuple[FloatArray, FloatArray]) -> None:
    answer = metric(*pair)
    lowest = 0 if metric is pairwise_accuracy else -1
    assert math.isnan(answer) or lowest <= answer <= 1


def test_a_model_agrees_with_itself_exactly() -> None:
    values = np.array([0.1, 0.2, 0.30000000000000004, 0.7])
    assert srocc(values, values) == 1.0
    assert plcc(values, values) <= 1.0
