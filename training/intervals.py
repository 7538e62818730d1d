"""How sure a mean over users is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

_RESAMPLES = 4000


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One mean over users; nan where it is not defined.

    Attributes:
        mean: Over repeats of the mean over users inside a repeat; undefined values are left out.
        std: Over repeats (the paper's +-); nan for one repeat, which has no spread.
        interval: 95 % bootstrap interval over users, stratified by group; conditional on these pictures.
        picture_error: Standard error of the mean by a jackknife over ten blocks of query pictures.
        mean_with_zeros: The mean where a correlation that constant query ratings leave undefined counts as 0.
    """

    mean: float
    std: float
    interval: Interval
    picture_error: float
    mean_with_zeros: float


def summarize(
    values: FloatArray,
    without_blocks: FloatArray,
    is_undefined: npt.NDArray[np.bool_],
    groups: Sequence[str],
    *,
    seed: int = 0,
) -> Figure:
    """Summarize what was found for every user in every repeat.

    Args:
        values: (R, U) by repeat and user; nan where nothing was found.
        without_blocks: Mean of the values without the first block of pictures, without the second, ...
        is_undefined: (R, U) where nothing was found because all query ratings are equal.
        groups: (U,) group of each user.
        seed: Of the bootstrap.
    """
    per_repeat = _means_of_repeats(values)
    with_zeros = _means_of_repeats(np.where(is_undefined, 0.0, values))
    mean_with_zeros = float(with_zeros.mean()) if len(with_zeros) else math.nan
    users = np.flatnonzero(~np.isnan(values).all(axis=0)).tolist()
    if not users:
        return Figure(math.nan, math.nan, Interval(math.nan, math.nan), math.nan, mean_with_zeros)
    per_user = np.nanmean(values[:, users], axis=0)
    return Figure(
        mean=float(per_repeat.mean()),
        std=float(per_repeat.std(ddof=1)) if len(per_repeat) > 1 else math.nan,
        interval=bootstrap_over_users(per_user, [groups[user] for user in users], seed=seed),
        picture_error=jackknife_over_blocks(without_blocks),
        mean_with_zeros=mean_with_zeros,
    )


def _means_of_repeats(values: FloatArray) -> FloatArray:
    """Average over users inside each repeat; a repeat without any value is left out."""
    means: FloatArray = np.nanmean(values[~np.isnan(values).all(axis=1)], axis=1)
    return means


def mean_of_known(values: FloatArray) -> float:
    """Return the mean of what is not nan; nan if nothing is left."""
    is_known = ~np.isnan(values)
    return float(values[is_known].mean()) if is_known.any() else float("nan")


def bootstrap_over_users(values: FloatArray, groups: Sequence[str], *, seed: int = 0) -> Interval:
    """Find the interval of a mean by drawing users again, inside each group as many as it has.

    Args:
        values: (U,) one value per user.
        groups: U groups.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    names = np.array(groups)
    sums = np.zeros(_RESAMPLES)
    for group in sorted(set(groups)):
        members = values[names == group]
        sums += members[rng.integers(0, len(members), (_RESAMPLES, len(members)))].sum(axis=1)
    low, high = np.quantile(sums / len(values), (0.025, 0.975))
    return Interval(float(low), float(high))


def jackknife_over_blocks(estimates: Iterable[float]) -> float:
    """Find the standard error of an estimate from what it is without each block in turn.

    Args:
        estimates: The estimate without the first block, without the second, ...
    """
    without = np.array(list(estimates))
    count = len(without)
    return math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
