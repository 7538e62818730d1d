"""How well the hues of a picture fit a harmonic template (Cohen-Or and others, Color Harmonization, 2006).

The templates are Matsuda's (1995): one or two sectors of the hue wheel, turned to wherever they fit best. The
misfit is the mean distance of the hues, each counting by its saturation, to the nearest edge of a sector that
they lie outside of. A wide sector is easily fitted: left as it is, the misfit of the best template is near 0
for almost every photograph. So each misfit is divided by the one that hues spread evenly would have; that
scale is this project's. The template without hues (N) is left out: greys count nothing here, and a grey
picture is in harmony.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

_BINS = 72
_TEMPLATES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.0, 18.0),),
    ((0.0, 93.6),),
    ((0.0, 18.0), (90.0, 79.2)),
    ((0.0, 18.0), (180.0, 18.0)),
    ((0.0, 180.0),),
    ((0.0, 93.6), (180.0, 18.0)),
    ((0.0, 93.6), (180.0, 93.6)),
)
"""Types i, V, L, I, T, Y, X: centre and width of each sector, degrees."""


def colour_harmony(hue: FloatArray, saturation: FloatArray) -> float:
    """Measure the fit to the best template.

    Args:
        hue: (P,) of pixels, [0, 1].
        saturation: (P,) of the same, [0, 1].

    Returns:
        In [0, 1]: 1 where every hue lies in a sector, 0 where the hues fit no better than evenly spread ones.
    """
    places = (hue * _BINS).astype(np.intp) % _BINS
    histogram = np.bincount(places, weights=saturation, minlength=_BINS)
    total = float(histogram.sum())
    if total < 1e-9:
        return 1.0
    return max(0.0, 1 - float((_misfits() @ (histogram / total)).min()))


@lru_cache(maxsize=1)
def _misfits() -> npt.NDArray[np.float64]:
    """Return the misfit of each bin to each template in each place, (templates x places, bins); mean 1."""
    bins = (np.arange(_BINS) + 0.5) * 360 / _BINS
    rows = []
    for sectors in _TEMPLATES:
        for turn in np.arange(_BINS) * 360 / _BINS:
            away = []
            for centre, width in sectors:
                between = np.abs((bins - centre - turn + 180) % 360 - 180)
                away.append(np.maximum(0, between - width / 2))
            nearest = np.min(away, axis=0)
            rows.append(nearest / nearest.mean())
    return np.array(rows)
