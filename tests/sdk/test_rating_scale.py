"""Units of ratings: found, mapped to [0, 1] and back, rounded to stars."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from piaa_sdk.errors import RatingError
from piaa_sdk.rating_scale import COMMON_SCALES, RatingScale

finite = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


@st.composite
def scales(draw: st.DrawFn) -> RatingScale:
    low, high = draw(finite), draw(finite)
    assume(high - low > 1e-3)
    return RatingScale(low, high)


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ([0, 1, 1, 0], (0, 1)),
        ([0.25, 0.75], (0, 1)),
        ([1], (0, 1)),
        ([1, 5, 3], (1, 5)),
        ([2, 3], (1, 5)),
        ([1, 6], (1, 7)),
        ([1.5, 7], (1, 7)),
        ([1, 8], (1, 10)),
        ([1, 10], (1, 10)),
        ([0, 2], (0, 10)),  # 0 is on no 1-to-N scale
        ([0.5, 5], (0, 10)),  # half stars below one star
        ([0, 10], (0, 10)),
        ([0, 11], (0, 100)),
        ([1, 100], (0, 100)),
    ],
)
def test_the_shortest_common_scale_is_found(ratings: list[float], expected: tuple[float, float]) -> None:
    assert RatingScale.guess(ratings) == RatingScale(*expected)
    assert RatingScale.guess(np.array(ratings, dtype=np.float32)) == RatingScale(*expected)


def test_common_scales_are_in_the_order_they_are_tried() -> None:
    spans = [high - low for low, high in COMMON_SCALES]
    assert spans == sorted(spans)
    assert set(COMMON_SCALES) == {(0, 1), (1, 5), (1, 7), (0, 10), (1, 10), (0, 100)}


@pytest.mark.parametrize("ratings", [[-1, 1], [5, 101], [-3], [1000], [150, 200]])
def test_an_uncommon_scale_has_to_be_stated_and_the_example_works(ratings: list[float]) -> None:
    with pytest.raises(RatingError, match="state it") as caught:
        RatingScale.guess(ratings)
    low, high = map(float, str(caught.value).rsplit("--scale ", 1)[1].split())
    stated = RatingScale(low, high)
    assert all(rating in stated for rating in ratings)


@pytest.mark.parametrize("ratings", [[], [math.nan, 1], [math.inf], [-math.inf, 3]])
def test_no_scale_is_guessed_from_what_are_no_ratings(ratings: list[float]) -> None:
    with pytest.raises(RatingError, match="finite"):
        RatingScale.guess(ratings)


@pytest.mark.parametrize(
    ("low", "high"),
    [(5, 1), (1, 1), (math.nan, 1), (1, math.nan), (0, math.inf), (-math.inf, 0), (-1.7e308, 1.7e308)],
)
def test_impossible_scales_are_refused(low: float, high: float) -> None:
    """The last one has finite ends and an infinite span: every score on it would be nan."""
    with pytest.raises(RatingError, match="low below high"):
        RatingScale(low, high)


def test_membership_knows_every_kind_of_number() -> None:
    """float32 is no subclass of float: a check by float alone would call every such rating foreign."""
    scale = RatingScale(1, 5)
    inside = (1, 5, 2.5, np.float32(3), np.float64(3), np.int8(5), True)
    outside = (0, 5.0001, math.nan, math.inf, -1, np.float32(6), False, "3", None, Decimal(3), 3 + 0j)
    assert all(rating in scale for rating in inside)
    assert not any(rating in scale for rating in outside)


def test_mapping_by_hand() -> None:
    scale = RatingScale(1, 5)
    np.testing.assert_array_equal(scale.to_unit(np.array([1, 2, 3, 5, 7])), [0, 0.25, 0.5, 1, 1.5])
    np.testing.assert_array_equal(scale.from_unit(np.array([0, 0.25, 1, -0.5])), [1, 2, 5, -1])
    assert scale.to_unit(np.array([3], dtype=np.float32)).dtype == np.float64
    assert scale.from_unit(np.zeros((2, 3), dtype=np.float16)).shape == (2, 3)
    assert scale.span == 4


@given(scales(), st.lists(finite, min_size=1))
def test_mapping_there_and_back_is_the_identity(scale: RatingScale, scores: list[float]) -> None:
    """Scores outside the scale included: they are not clipped."""
    back = scale.from_unit(scale.to_unit(np.array(scores)))
    tolerance = 1e-12 * max(abs(scale.low), abs(scale.high), *map(abs, scores))
    np.testing.assert_allclose(back, scores, rtol=0, atol=tolerance)


@given(scales(), finite, finite)
def test_mapping_keeps_the_order(scale: RatingScale, first: float, second: float) -> None:
    low, high = scale.to_unit(np.array(sorted([first, second])))
    assert low <= high


@pytest.mark.parametrize(
    ("scale", "score", "stars"),
    [
        ((1, 5), 1, 1),
        ((1, 5), 1.49, 1),
        ((1, 5), 1.5, 2),
        ((1, 5), 2.5, 3),
        ((1, 5), 4.49, 4),
        ((1, 5), 4.5, 5),
        ((1, 5), 5, 5),
        ((1, 5), 17.0, 5),
        ((1, 5), -3.0, 1),
        ((0, 1), 0.12, 1),
        ((0, 1), 0.13, 2),
        ((0, 1), 0.5, 3),
        ((0, 1), 1, 5),
        ((1, 7), 4, 3),
        ((1, 10), 5.5, 3),
        ((0, 10), 5, 3),
        ((0, 10), 10, 5),
        ((0, 100), 100, 5),
        ((0, 100), 12, 1),
        ((0, 100), 13, 2),
    ],
)
def test_stars_by_hand(scale: tuple[float, float], score: float, stars: int) -> None:
    assert RatingScale(*scale).stars(score) == stars


@given(scales(), finite, finite)
def test_more_score_is_never_fewer_stars(scale: RatingScale, first: float, second: float) -> None:
    low, high = sorted([first, second])
    assert 1 <= scale.stars(low) <= scale.stars(high) <= 5


def test_a_scale_is_said_without_needless_digits() -> None:
    assert str(RatingScale(1.0, 5.0)) == "1 to 5"
    assert str(RatingScale(0, 0.5)) == "0 to 0.5"


def test_a_scale_is_a_value() -> None:
    assert RatingScale(1, 5) == RatingScale(1.0, 5.0)
    assert len({RatingScale(1, 5), RatingScale(1.0, 5.0), RatingScale(0, 5)}) == 2
    with pytest.raises(AttributeError):
        RatingScale(1, 5).low = 0  # type: ignore[misc]
