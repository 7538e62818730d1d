"""Newton's method for the smooth, strictly convex losses of the compared systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Float64Array = npt.NDArray[np.float64]
    Local = tuple[float, Float64Array, Float64Array]

_MOST_STEPS = 50
_MOST_HALVINGS = 30
_TOLERANCE = 1e-6


def minimize(local: Callable[[Float64Array], Local], start: Float64Array) -> Float64Array:
    """Find the minimum of a loss.

    A step is halved until the loss falls by a fair share of what its slope promises, so that every loss of
    this kind converges; the end is a step that promises nothing any more. The trust-region methods of scipy
    find the same point in two to three times the time: 49 ms against 15 for a loss of 100 ratings.

    Args:
        local: From a point (P,) to the loss, its gradient (P,) and its Hessian (P, P), positive definite.
        start: (P,) where to begin.

    Returns:
        (P,), the point of the least loss that was met: where a whole step would bring less than a millionth
        of 1 + the loss, the end of that step; after 50 steps, or where rounding lets no halved step lower the
        loss, as near as that came.
    """
    point = start
    value, gradient, hessian = local(point)
    for _ in range(_MOST_STEPS):
        step = cho_solve(cho_factor(hessian), -gradient)
        promised = float(-gradient @ step)
        if promised <= _TOLERANCE * (1 + abs(value)):
            return np.asarray(point + step, dtype=np.float64)
        for halving in range(_MOST_HALVINGS):
            length = 0.5**halving
            tried = local(point + length * step)
            if tried[0] <= value - 1e-4 * length * promised:
                break
        else:
            return point
        point, (value, gradient, hessian) = point + length * step, tried
    return point
