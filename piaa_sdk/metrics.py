"""How well scores agree with a person's ratings; one tie-aware implementation for everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray


def average_ranks(values: FloatArray) -> npt.NDArray[np.float64]:
    """Rank values from 1, equal values sharing the mean of their ranks.

    Args:
        values: (N,), any unit.

    Returns:
        Ranks, (N,).
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def plcc(ratings: FloatArray, scores: FloatArray) -> float:
    """Measure the linear agreement of scores and ratings (Pearson's correlation).

    Args:
        ratings: One person's ratings, (N,), any unit.
        scores: Scores of the same images, (N,), any unit.

    Returns:
        Correlation in [-1, 1]; nan if the ratings are constant, 0.0 if only the scores are: a model
        that gives one score to everything has earned nothing and is not left out of a mean.

    Raises:
        ValueError: The lengths differ, N < 2 or a value is not finite.
    """
    ratings, scores = _checked(ratings, scores)
    if ratings.min() == ratings.max():
        return float("nan")
    if scores.min() == scores.max():
        return 0.0
    ratings, scores = _centred(ratings), _centred(scores)
    return float(np.clip(ratings @ scores / np.sqrt((ratings @ ratings) * (scores @ scores)), -1, 1))


def srocc(ratings: FloatArray, scores: FloatArray) -> float:
    """Measure how well scores rank images the way ratings do (eq. 12, with average ranks for ties).

    Args:
        ratings: One person's ratings, (N,), any unit.
        scores: Scores of the same images, (N,), any unit.

    Returns:
        Correlation in [-1, 1]; nan if the ratings are constant, 0.0 if only the scores are.

    Raises:
        ValueError: The lengths differ, N < 2 or a value is not finite.
    """
    ratings, scores = _checked(ratings, scores)
    return plcc(average_ranks(ratings), average_ranks(scores))


def pairwise_accuracy(ratings: FloatArray, scores: FloatArray) -> float:
    """Measure the share of pairs with different ratings that scores order the same way.

    Args:
        ratings: One person's ratings, (N,), any unit.
        scores: Scores of the same images, (N,), any unit. A tie between scores counts one half.

    Returns:
        Accuracy in [0, 1], 0.5 = chance; nan if no two ratings differ.

    Raises:
        ValueError: The lengths differ, N < 2 or a value is not finite.
    """
    ratings, scores = _checked(ratings, scores)
    above = ratings[:, None] > ratings[None, :]
    pairs = np.count_nonzero(above)
    if pairs == 0:
        return float("nan")
    won = np.count_nonzero(above & (scores[:, None] > scores[None, :]))
    tied = np.count_nonzero(above & (scores[:, None] == scores[None, :]))
    return (won + tied / 2) / pairs


def _centred(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Move values, not all equal, to mean 0 and largest magnitude 1, (N,).

    Divided before anything is summed or multiplied: very large or very small numbers overflow or vanish.
    """
    values = values / np.abs(values).max()
    values = values - values.mean()
    centred: npt.NDArray[Any] = values / np.abs(values).max()
    return centred


def _checked(ratings: FloatArray, scores: FloatArray) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    ratings, scores = np.asarray(ratings, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if ratings.ndim != 1 or ratings.shape != scores.shape or len(ratings) < 2:
        raise ValueError(
            f"expected two vectors of one length, at least 2, not {ratings.shape} and {scores.shape}"
        )
    if not (np.isfinite(ratings).all() and np.isfinite(scores).all()):
        raise ValueError("ratings and scores must be finite numbers")
    return ratings, scores
