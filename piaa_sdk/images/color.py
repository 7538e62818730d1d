"""Small pictures of any mode -> RGB in the sRGB colour space."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

from piaa_sdk.images.failures import LIBRARY_ERRORS

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

_PROFILE_ERRORS: tuple[type[Exception], ...] = (ImageCms.PyCMSError, MemoryError, *LIBRARY_ERRORS)
_MAX_PROFILE_BYTES = 4 << 20
_SPACE_OF_MODE = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
_SAME_COLOR = 2
"""Levels of 255 that a profile may move the colours of the probe and still count as sRGB."""


def to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Convert a picture without alpha to sRGB.

    Args:
        image: Mode L, RGB, CMYK, YCbCr or LAB.
        profile: Its ICC profile, bytes. A profile that is none, is damaged or describes another kind of
            pixels is left out of account, as viewers do.

    Returns:
        Mode RGB.
    """
    if image.mode == "YCbCr":
        image = image.convert("RGB")
    transform = None
    if isinstance(profile, bytes) and 0 < len(profile) <= _MAX_PROFILE_BYTES and image.mode in _SPACE_OF_MODE:
        transform = _profile_transform(profile, image.mode)
    if transform is None and image.mode == "LAB":
        transform = _lab_transform()
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(maxsize=16)
def _profile_transform(profile: bytes, mode: str) -> ImageCmsTransform | None:
    """Build the way from a profile to sRGB; None if there is nothing to do or it cannot be done.

    Building takes as long as reducing a photo, and the photos of one camera share a profile.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACE_OF_MODE[mode]:
            return None
        transform = _transform(source, mode)
        probe = _probe(mode)
        converted = transform.apply(probe)
    except _PROFILE_ERRORS:
        return None
    if mode not in ("L", "RGB"):
        return transform
    difference = np.asarray(converted, dtype=np.int16) - np.asarray(probe.convert("RGB"), dtype=np.int16)
    return transform if np.abs(difference).max() > _SAME_COLOR else None


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCmsTransform:
    return _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCmsTransform:
    return ImageCms.ImageCmsTransform(
        source,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _probe(mode: str) -> Image.Image:
    """Make colours on a regular grid through the whole space, at least 512 of them."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    steps = {1: 256, 3: 9, 4: 5}[bands]
    grid = np.stack(np.meshgrid(*[np.linspace(0, 255, steps)] * bands), axis=-1).astype(np.uint8)
    return Image.frombytes(mode, (1, steps**bands), grid.tobytes())
