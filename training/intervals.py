"""How sure a mean over users is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from piaa_sdk.array_types import FloatArray

_RESAMPLES = 4000


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


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
