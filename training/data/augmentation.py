"""What chance does to training pictures: the published crop and mirror image.

Pictures are squashed to 256 x 256 when they are packed, mirrored half of the time and cut to 224 x 224.
Query pictures are left alone: they are packed at 224 x 224 by the preprocessing that also serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from piaa_sdk.array_types import PixelArray


def random_flip_and_crop(pixels: PixelArray, size: int, rng: np.random.Generator) -> PixelArray:
    """Mirror pictures left to right half of the time and cut a square out of each, every place as likely.

    Args:
        pixels: (N, H, W, 3) uint8 RGB, not changed.
        size: Edge of the square, pixels; at most H and W.
        rng: What chance decides by; the same number of draws is taken from it for any ``size``.

    Returns:
        (N, size, size, 3) uint8.

    Raises:
        ValueError: The pictures are smaller than the square.
    """
    count, height, width = pixels.shape[:3]
    if not 0 < size <= min(height, width):
        raise ValueError(f"a square of {size} pixels cannot be cut out of {height} x {width}")
    is_mirrored = np.less(rng.random(count), 0.5)
    tops = _offsets(height - size, count, rng)
    lefts = _offsets(width - size, count, rng)
    views = np.empty((count, size, size, 3), dtype=np.uint8)
    for place, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        crop = pixels[place, top : top + size, left : left + size]
        views[place] = crop[:, ::-1] if is_mirrored[place] else crop
    return views


def _offsets(most: int, count: int, rng: np.random.Generator) -> list[int]:
    # Drawn as fractions: integers of another range would take another number of draws.
    places = np.floor(rng.random(count) * (most + 1)).astype(int)
    return [int(place) for place in places]
