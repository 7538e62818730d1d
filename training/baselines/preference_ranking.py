"""Preference ranking of USAR: a linear ranker of one person, learned from pairs of pictures.

The loss of a pair (i, j) of which the person rated i higher is log(1 + exp(s_j - s_i)) for the scores
s = w^T x (RankNet with a linear network). Pictures that look like a rated one count as if they had its
rating, with a weight that falls with the distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.special import expit
from sklearn.neighbors import NearestNeighbors

from training.baselines.newton import minimize

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray
    from training.tasks import IntArray

    Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors:
    """For each of N pictures, those of a pool that look most like it.

    Attributes:
        positions: (N, k) in the pool, the nearest first.
        weights: (N, k) exp(-d^2 / (2 h^2)), at most 1.
    """

    positions: IntArray
    weights: Float64Array

    @classmethod
    def find(cls, pictures: FloatArray, pool: FloatArray, count: int) -> Self:
        """Look for neighbours.

        The width h is the median distance of a picture of the pool to the nearest other one: what is as
        near as is usual counts 0.6.

        Args:
            pictures: (N, F).
            pool: (P, F).
            count: k; no more than the pool has.
        """
        if count == 0 or len(pool) < 2:
            return cls(np.zeros((len(pictures), 0), dtype=np.intp), np.zeros((len(pictures), 0)))
        index = NearestNeighbors(algorithm="brute").fit(pool)
        width = float(np.median(index.kneighbors(n_neighbors=1)[0]))
        distances, positions = index.kneighbors(pictures, min(count, len(pool)))
        weights = np.exp(-0.5 * (distances / max(width, 1e-12)) ** 2)
        return cls(positions, np.asarray(weights, dtype=np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of a rated picture and another picture, rated or a neighbour of a rated one.

    Pairs of two neighbours are left out: they would only repeat, less surely, what their rated pictures say.

    Attributes:
        rated: (K, F) rated pictures.
        others: (L, F) the same pictures and all neighbours, L = K (1 + k).
        signs: (K, L) 1 where the rated picture is the better one, -1 where the other one is, else 0.
        weights: (K, L) of pairs, 0 where the sign is; they sum to K, so that twice the ratings are twice the
            evidence.
    """

    rated: Float64Array
    others: Float64Array
    signs: Float64Array
    weights: Float64Array

    @classmethod
    def collect(
        cls, rated: FloatArray, ratings: FloatArray, neighbors: FloatArray, neighbor_weights: FloatArray
    ) -> Self:
        """Expand a support set with the neighbours of its pictures.

        A pair weighs what the other picture weighs times the difference of the ratings: a small difference
        says little about which picture is the better one.

        Args:
            rated: (K, F).
            ratings: (K,), not all equal.
            neighbors: (K, k, F) of each rated picture; they inherit its rating.
            neighbor_weights: (K, k).
        """
        count, _, size = neighbors.shape
        others = np.concatenate([rated, neighbors.reshape(-1, size)])
        inherited = np.concatenate([ratings, np.repeat(ratings, neighbor_weights.shape[1])])
        weights = np.concatenate([np.ones(count), neighbor_weights.ravel()])
        differences = ratings[:, None] - inherited[None, :]
        # A pair of two rated pictures is met from both sides, one with a neighbour once.
        sides = np.where(np.arange(len(others)) < count, 0.5, 1.0)
        weighed = np.asarray(np.abs(differences) * sides * weights, dtype=np.float64)
        return cls(
            np.asarray(rated, dtype=np.float64),
            np.asarray(others, dtype=np.float64),
            np.sign(differences),
            weighed * (count / weighed.sum()),
        )

    def loss(self, weights: Float64Array) -> tuple[float, Float64Array, Float64Array]:
        """Return the loss of w (F,), its gradient (F,) and its Hessian (F, F)."""
        margins = self.signs * ((self.rated @ weights)[:, None] - (self.others @ weights)[None, :])
        value = float(np.sum(self.weights * np.logaddexp(0.0, -margins)))
        missed = expit(-margins)
        pulls = -self.weights * self.signs * missed
        gradient = pulls.sum(axis=1) @ self.rated - pulls.sum(axis=0) @ self.others
        bends = self.weights * missed * (1 - missed)
        crossed = self.rated.T @ (bends @ self.others)
        hessian = (
            (self.rated.T * bends.sum(axis=1)) @ self.rated
            + (self.others.T * bends.sum(axis=0)) @ self.others
            - crossed
            - crossed.T
        )
        return value, gradient, hessian


def learn_ranking(pairs: Pairs, prior: Float64Array, strength: float) -> Float64Array:
    """Find w (F,) with the least loss and strength / 2 times its squared distance from a prior (F,)."""

    def local(weights: Float64Array) -> tuple[float, Float64Array, Float64Array]:
        value, gradient, hessian = pairs.loss(weights)
        away = weights - prior
        hessian[np.diag_indices_from(hessian)] += strength
        return value + 0.5 * strength * float(away @ away), gradient + strength * away, hessian

    return minimize(local, prior)
