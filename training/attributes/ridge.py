"""Ridge regression of several targets, each with the strength that cross-validation chooses for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.standard_deviation import floored_std

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

    Float64Array = npt.NDArray[np.float64]

STRENGTHS: tuple[float, ...] = tuple(float(10.0**power) for power in np.arange(-3, 2.5, 0.5))
"""Penalties that are tried, in units of the mean squared singular value of the standardized inputs."""


@dataclass(frozen=True, slots=True, eq=False)
class RidgeFit:
    """What was learned: targets = inputs @ weights + offsets.

    Attributes:
        weights: (D, A).
        offsets: (A,).
        strengths: (A,), chosen from :data:`STRENGTHS`.
    """

    weights: Float64Array
    offsets: Float64Array
    strengths: Float64Array


def fit_ridge(inputs: FloatArray, targets: FloatArray, *, folds: int, seed: int) -> RidgeFit:
    """Regress targets (N, A) on inputs (N, D), standardized inside.

    Each target gets the strength with the least squared error on rows left out.

    Args:
        inputs: (N, D).
        targets: (N, A).
        folds: At least 2; N if there are fewer rows.
        seed: Of the partition.
    """
    wide, wanted = np.asarray(inputs, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    folds = min(folds, len(wide))
    groups = np.random.default_rng(seed).permutation(len(wide)) % folds
    errors = np.zeros((len(STRENGTHS), wanted.shape[1]))
    for fold in range(folds):
        rest, held_out = groups != fold, groups == fold
        for place, (weights, offsets) in enumerate(_solutions(wide[rest], wanted[rest])):
            errors[place] += ((wide[held_out] @ weights + offsets - wanted[held_out]) ** 2).sum(axis=0)
    best = errors.argmin(axis=0)
    solutions = _solutions(wide, wanted)
    columns = range(wanted.shape[1])
    return RidgeFit(
        weights=np.stack([solutions[best[column]][0][:, column] for column in columns], axis=1),
        offsets=np.array([solutions[best[column]][1][column] for column in columns]),
        strengths=np.array(STRENGTHS)[best],
    )


def _solutions(inputs: Float64Array, targets: Float64Array) -> list[tuple[Float64Array, Float64Array]]:
    """Return weights (D, A) and offsets (A,) for each strength, by one singular value decomposition."""
    mean, std, middle = inputs.mean(axis=0), floored_std(inputs), targets.mean(axis=0)
    left, sizes, right = np.linalg.svd((inputs - mean) / std, full_matrices=False)
    turned = left.T @ (targets - middle)
    found = []
    for strength in STRENGTHS:
        penalty = strength * float(np.mean(sizes**2))
        weights = (right.T * (sizes / (sizes**2 + penalty + 1e-12))) @ turned / std[:, None]
        found.append((weights, middle - mean @ weights))
    return found
