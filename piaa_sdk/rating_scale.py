"""The units a person rates in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from piaa_sdk.errors import RatingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from piaa_sdk.array_types import FloatArray

COMMON_SCALES: tuple[tuple[float, float], ...] = ((0, 1), (1, 5), (1, 7), (1, 10), (0, 10), (0, 100))
"""Scales that ratings are recognized as, the shortest first."""


@dataclass(frozen=True, slots=True)
class RatingScale:
    """A person's units <-> [0, 1].

    Scores are never clipped or rounded: a score may lie outside the scale. Only stars are rounded.

    Args:
        low: The lowest rating the person can give.
        high: The highest; above ``low``.

    Raises:
        RatingError: A bound or the span is not finite, or ``low`` is not below ``high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        # The span of two finite numbers may still overflow, and nothing can be mapped with it then.
        if not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise RatingError(
                f"a scale needs two finite numbers, low below high, not {self.low:g} and {self.high:g}"
            )

    @classmethod
    def guess(cls, ratings: Sequence[float] | FloatArray) -> RatingScale:
        """Find the smallest common scale that holds all ratings.

        Args:
            ratings: (N,).

        Raises:
            RatingError: There are none, one is not finite, or no common scale holds them: the scale has to
                be stated.
        """
        values = np.asarray(ratings, dtype=np.float64)
        if values.size == 0 or not np.isfinite(values).all():
            raise RatingError("a scale can only be found for one or more finite ratings")
        lowest, highest = float(values.min()), float(values.max())
        for low, high in COMMON_SCALES:
            if low <= lowest and highest <= high:
                return cls(low, high)
        raise RatingError(
            f"ratings from {lowest:.12g} to {highest:.12g} fit no common scale; state it, for example "
            f"--scale {min(lowest, 0):.12g} {max(highest, 0):.12g}"
        )

    def __contains__(self, rating: object) -> bool:
        return isinstance(rating, Real) and self.low <= float(rating) <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    @property
    def span(self) -> float:
        """Length of the scale, rating units."""
        return self.high - self.low

    def to_unit(self, ratings: FloatArray) -> FloatArray:
        """Map ratings (any shape, this person's units) to [0, 1], float64."""
        return (np.asarray(ratings, dtype=np.float64) - self.low) / self.span

    def from_unit(self, scores: FloatArray) -> FloatArray:
        """Map scores (any shape, 1 = top of the scale) to this person's units, float64; not clipped."""
        return np.asarray(scores, dtype=np.float64) * self.span + self.low

    def stars(self, score: float) -> int:
        """Round a score to 1 to 5 stars: the scale is cut into five steps centred on the stars."""
        position = (score - self.low) / self.span
        return int(min(5, max(1, math.floor(1 + 4 * position + 0.5))))
