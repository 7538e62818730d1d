"""Where a picture draws the eye, by the spectral residual (Hou and Zhang, CVPR 2007)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter
from skimage.transform import resize

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import FloatArray

SIDE = 64
"""Edge of the square map; the paper's scale, at which objects and not their textures stand out."""

_BLUR = 2.5


def saliency_map(luminance: FloatArray) -> npt.NDArray[np.float64]:
    """Find what stands out against the smooth spectrum that natural pictures have.

    Of the paper's map what exceeds the mean is kept: the faint rest is everywhere, and would draw the centre
    of any picture's saliency to the middle. Beyond the frame nothing is salient, which
    dims what only stands out because opposite edges of a picture do not fit together. Both are choices of
    this project.

    Args:
        luminance: (H, W), [0, 1].

    Returns:
        (64, 64), at least 0, sum 1; even where nothing stands out.
    """
    small = resize(np.asarray(luminance, dtype=np.float64), (SIDE, SIDE), anti_aliasing=True)
    spectrum = np.fft.fft2(small)
    size = np.abs(spectrum)
    even = np.full((SIDE, SIDE), 1 / SIDE**2)
    if np.ptp(small) < 1e-6:
        return even
    logarithm = np.log(size + 1e-6)
    residual = logarithm - uniform_filter(logarithm, 3, mode="wrap")
    found = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    found = gaussian_filter(found, _BLUR, mode="constant")
    found = np.maximum(0, found - found.mean())
    total = float(found.sum())
    return np.asarray(found / total, dtype=np.float64) if total > 0 else even
