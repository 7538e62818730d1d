"""What most people like, by ridge regression on the content: what PAM and USAR begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from training.baselines.features import Standardizer
from training.ridge import fit_ridge

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class GenericScore:
    """A linear score of the embedding; PAM and USAR have this same one.

    Attributes:
        standardizer: Of the embedding.
        weights: (D,).
        offset: Score of a mean picture, [0, 1].
    """

    standardizer: Standardizer
    weights: npt.NDArray[np.float64]
    offset: float

    @classmethod
    def fit(cls, content: FloatArray, means: FloatArray) -> Self:
        """Regress mean ratings (N,) on [0, 1] on embeddings (N, D).

        See :func:`training.ridge.fit_ridge` for the strength.
        """
        standardizer = Standardizer.fit(content)
        found = fit_ridge(standardizer.apply(content), means)
        return cls(standardizer, np.asarray(found.coef_, dtype=np.float64), float(found.intercept_))

    def score(self, content: FloatArray) -> npt.NDArray[np.float64]:
        """Score embeddings (N, D): (N,), about [0, 1]."""
        return np.asarray(self.standardizer.apply(content) @ self.weights + self.offset, dtype=np.float64)
