"""The standard deviation that embeddings and statistics of pictures are divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

_SMALLEST = 0.05  # of the median over the columns


def floored_std(values: FloatArray, *, correction: int = 0) -> npt.NDArray[np.float64]:
    """Return the standard deviation of each column, none far below the others.

    A channel silent in these few pictures may speak in others: divided by almost 0, it would shout.

    Args:
        values: (N, F), a picture per row.
        correction: Taken from N in the mean of squares: 0 or 1.
    """
    std = values.std(axis=0, dtype=np.float64, ddof=correction) + 1e-6
    return np.asarray(np.maximum(std, _SMALLEST * np.median(std)))
