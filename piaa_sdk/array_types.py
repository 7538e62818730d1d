"""Names for the arrays and inputs that travel through the SDK.

Axis letters used in every docstring: N images, D embedding, H hidden units,
K support size (shots), Q query size, U users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import os

    from PIL import Image

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
"""Floating-point array; the axes are stated where it is used."""

PixelArray: TypeAlias = npt.NDArray[np.uint8]
"""(H, W, 3) or (N, H, W, 3) uint8, RGB, sRGB, upright."""

PathInput: TypeAlias = "str | os.PathLike[str]"

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"
"""Anything one picture can be given as: a path, an address such as ``https://...`` (text, no ``Path``),
the bytes of a file, a Pillow image or an array.

An array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or uint16, or float in [0, 1]; RGB order.
"""
