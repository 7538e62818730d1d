"""Ridge regression whose strength is the one with the least error on left-out pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import RidgeCV

if TYPE_CHECKING:
    from piaa_sdk.array_types import FloatArray

_STRENGTHS = np.logspace(0, 6, 25)


def fit_ridge(inputs: FloatArray, targets: FloatArray) -> RidgeCV:
    """Regress on pictures, each target with a strength of its own among 25 from 1 to a million.

    Args:
        inputs: (N, F), standardized.
        targets: (N,), or (N, A) for several.

    Returns:
        Fitted: ``coef_`` (F,) or (A, F), ``intercept_`` and ``alpha_``.
    """
    return RidgeCV(alphas=_STRENGTHS, alpha_per_target=targets.ndim > 1).fit(inputs, targets)
