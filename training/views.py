"""Altered views of training pictures: crops, mirror images, other light and colour.

They carry no ratings. They show which directions the statistics of pictures vary in, of which a few hundred
pictures alone would show too few.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from piaa_sdk.errors import ImageError

if TYPE_CHECKING:
    from pathlib import Path

    from piaa_sdk.array_types import PixelArray

VIEW_RULE = 1
"""Raised whenever the same picture and seed become other views."""

_SMALLEST_AREA = 0.2
_ASPECT_SPREAD = 0.4
_LIGHT_SPREAD = 0.35


def altered_view(pixels: PixelArray, size: int, rng: np.random.Generator) -> PixelArray:
    """Make one altered view.

    Args:
        pixels: (H, W, 3) uint8.
        size: Edge of the view, pixels.
        rng: What chance decides by.

    Returns:
        (size, size, 3) uint8: a crop of a fifth to all of the area, squashed to a square, mirrored half of
        the time, brightness, contrast and colour each changed by up to 42 %.
    """
    image = Image.fromarray(pixels)
    width, height = image.size
    area, aspect = rng.uniform(_SMALLEST_AREA, 1), math.exp(rng.uniform(-_ASPECT_SPREAD, _ASPECT_SPREAD))
    crop_width = max(1, min(width, int(width * math.sqrt(area * aspect))))
    crop_height = max(1, min(height, int(height * math.sqrt(area / aspect))))
    left, top = int(rng.integers(0, width - crop_width + 1)), int(rng.integers(0, height - crop_height + 1))
    image = image.crop((left, top, left + crop_width, top + crop_height))
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(math.exp(rng.uniform(-_LIGHT_SPREAD, _LIGHT_SPREAD)))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


@lru_cache(maxsize=1)  # all views of one picture are made in a row
def full_pixels(path: Path) -> PixelArray:
    """Read a picture in its own size, upright, (H, W, 3) uint8 RGB.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(str(path), f"cannot be read: {error}") from error


def view_rng(seed: int, picture_digest: str, view: int) -> np.random.Generator:
    """Return what decides on one view: the same for the same picture, wherever it stands in a table."""
    return np.random.default_rng([seed, view, int(picture_digest[:16], 16)])
