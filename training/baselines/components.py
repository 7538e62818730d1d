"""Content in few numbers: principal components of the standardized embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from sklearn.decomposition import PCA

from training.baselines.features import Standardizer

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

    Float64Array = npt.NDArray[np.float64]

_SMALLEST_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class ContentComponents:
    """Takes embeddings (N, D) to P principal components, with 0 as the mean training picture.

    The components keep their own variances, so that the first count most; together they have a variance of 1
    over the training pictures, however many there are.

    Attributes:
        standardizer: Of the embedding.
        axes: (D, P).
    """

    standardizer: Standardizer
    axes: Float64Array

    @classmethod
    def fit(cls, content: FloatArray, components: int) -> Self:
        """Find the components of embeddings (N, D): at most that many, and fewer than pictures."""
        standardizer = Standardizer.fit(content)
        count, dim = content.shape
        # Both solvers are exact, so that nothing is drawn; the first never makes anything larger than D x D.
        solver = "covariance_eigh" if count > dim else "full"
        found = PCA(min(components, dim, max(1, count - 1)), svd_solver=solver)
        found.fit(standardizer.apply(content))
        total = max(float(found.explained_variance_.sum()), _SMALLEST_VARIANCE)
        return cls(standardizer, np.asarray(found.components_.T / np.sqrt(total), dtype=np.float64))

    def apply(self, content: FloatArray) -> Float64Array:
        """Return the components of embeddings (N, D), (N, P)."""
        return np.asarray(self.standardizer.apply(content) @ self.axes, dtype=np.float64)
