"""Aesthetic distribution of USAR: how probable each level of rating is, given what a picture is like.

A softmax regression, p_l(x) proportional to exp(b_l^T x) for L levels spaced evenly on [0, 1]. A rating is a
distribution itself: its mass is on the two levels next to it, so that its mean is the rating. The loss is the
Kullback-Leibler divergence of the prediction from it. The score of a picture is the mean of its distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax, softmax, xlogy

from training.baselines.newton import minimize

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

    Float64Array = npt.NDArray[np.float64]


def spread_over_levels(ratings: FloatArray, levels: int) -> Float64Array:
    """Return ratings (K,) on [0, 1] as distributions over levels, (K, L)."""
    places = np.clip(ratings, 0.0, 1.0) * (levels - 1)
    return np.asarray(np.maximum(0.0, 1 - np.abs(places[:, None] - np.arange(levels))), dtype=np.float64)


def expected_ratings(described: FloatArray, weights: Float64Array) -> Float64Array:
    """Return the means of the distributions of pictures (N, F) under weights (L, F), (N,) on [0, 1]."""
    return np.asarray(softmax(described @ weights.T, axis=1) @ np.linspace(0, 1, len(weights)))


def divergence(
    weights: Float64Array, described: Float64Array, targets: Float64Array, counts: Float64Array
) -> tuple[float, Float64Array, Float64Array]:
    """Measure how far predictions are from what was given.

    Args:
        weights: (L, F).
        described: (K, F) pictures.
        targets: (K, L) distributions.
        counts: (K,) what each picture counts.

    Returns:
        The sum of divergences, its gradient (L F,) and its Hessian (L F, L F), by level, then feature.
    """
    levels, size = weights.shape
    logarithms = log_softmax(described @ weights.T, axis=1)
    value = float(counts @ (xlogy(targets, targets) - targets * logarithms).sum(axis=1))
    shares = np.exp(logarithms)
    gradient = ((shares - targets) * counts[:, None]).T @ described
    hessian = np.empty((levels, size, levels, size))
    for row in range(levels):
        for column in range(row + 1):
            bends = counts * shares[:, row] * (float(row == column) - shares[:, column])
            block = (described.T * bends) @ described
            hessian[row, :, column], hessian[column, :, row] = block, block
    return value, gradient.ravel(), hessian.reshape(levels * size, levels * size)


def learn_distribution(
    described: Float64Array,
    targets: Float64Array,
    counts: Float64Array,
    prior: Float64Array,
    strength: float,
) -> Float64Array:
    """Find the weights with the least divergence and strength / 2 times the squared distance from a prior.

    Args:
        described: (K, F) pictures.
        targets: (K, L) distributions of their ratings.
        counts: (K,) what each counts.
        prior: (L, F).
        strength: Above 0.

    Returns:
        (L, F).
    """

    def local(point: Float64Array) -> tuple[float, Float64Array, Float64Array]:
        value, gradient, hessian = divergence(point.reshape(prior.shape), described, targets, counts)
        away = point - prior.ravel()
        hessian[np.diag_indices_from(hessian)] += strength
        return value + 0.5 * strength * float(away @ away), gradient + strength * away, hessian

    return minimize(local, prior.ravel()).reshape(prior.shape)
