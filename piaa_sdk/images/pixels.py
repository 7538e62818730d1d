"""A decoded picture of any mode -> the square of upright sRGB pixels that the backbone reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from piaa_sdk.errors import ImageError
from piaa_sdk.images.color import to_srgb
from piaa_sdk.images.tags import exif_orientation

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import PixelArray
    from piaa_sdk.bundle import Preprocessing

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RESIZABLE_MODES = frozenset(("L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"))
_DEEP_MODES = frozenset(("I;16", "I;16B", "I;16L", "I;16N"))
_NUMBER_MODES = frozenset(("I", "F"))


def square_pixels(
    image: Image.Image, preprocessing: Preprocessing, source: str, orientation: int | None = None
) -> PixelArray:
    """Resize a picture, then convert its colours, lay it on the background and turn it upright.

    The resize comes first because everything after it is then small; a square can be turned afterwards.

    Args:
        image: Decoded, any mode; not modified.
        preprocessing: Size, filter and background.
        source: What the picture was given as, printable.
        orientation: How to turn it where the picture does not say so itself, as Exif numbers it.

    Returns:
        (size, size, 3) uint8, RGB.

    Raises:
        ImageError: It has no pixel that is a number.
    """
    profile = image.info.get("icc_profile")
    turn = _UPRIGHT.get(stated_orientation(image) or orientation or 1)
    size = (preprocessing.size, preprocessing.size)
    small = _resizable(image, source).resize(size, Image.Resampling[preprocessing.resample.upper()])
    small = small.convert({"La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}.get(small.mode, small.mode))
    alpha = small.getchannel("A") if small.mode in ("LA", "RGBA") else None
    small = to_srgb(small.convert({"LA": "L", "RGBA": "RGB"}.get(small.mode, small.mode)), profile)
    if alpha is not None:
        small = Image.composite(small, Image.new("RGB", size, preprocessing.background), alpha)
    if turn is not None:
        small = small.transpose(turn)
    return np.array(small, dtype=np.uint8)


def stated_orientation(image: Image.Image) -> int | None:
    """Return the Exif orientation of a decoded picture, 1 to 8; None if it does not say."""
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        exif = _exif_from_text(image.info.get("Raw profile type exif"))
    return exif_orientation(exif)


def _exif_from_text(profile: object) -> bytes:
    """Decode Exif as ImageMagick puts it into a text chunk of a PNG: name, length and hexadecimal digits."""
    if not isinstance(profile, str):
        return b""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""


def _resizable(image: Image.Image, source: str) -> Image.Image:
    """Return the picture in a mode that can be resized with antialiasing, 8 bits per channel."""
    if image.mode in _DEEP_MODES:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in _NUMBER_MODES:
        return Image.fromarray(_scale_numbers(np.asarray(image), source))
    if image.mode in _RESIZABLE_MODES and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _scale_numbers(values: npt.NDArray[Any], source: str) -> npt.NDArray[np.uint8]:
    """Map numbers without a declared range to 0 to 255.

    The range is the smallest of 0-1 (fractions only), 0-255 and 0-65535 that holds them; numbers that fit
    none are spread from their lowest to their highest.
    """
    is_finite = np.isfinite(values)
    finite = values if is_finite.all() else values[is_finite]
    if not finite.size:
        raise ImageError(source, "no pixel of it is a number")
    low, high = float(finite.min()), float(finite.max())
    tops, slack = ((1.0, 255.0, 65535.0), 0.25) if values.dtype.kind == "f" else ((255.0, 65535.0), 0.0)
    # Fractions may overshoot a little where an edge was sharpened; that does not make them another range.
    top = next((top for top in tops if low >= -slack * top and high <= (1 + slack) * top), None)
    if top is not None:
        low, high = 0.0, top
    # In place from here on: a picture of numbers takes more memory than any other.
    scaled = np.nan_to_num(values, nan=low, posinf=high, neginf=low).astype(np.float32, copy=False)
    scaled -= low
    scaled *= 255 / (high - low or 1)
    np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled)
    pixels: npt.NDArray[np.uint8] = scaled.astype(np.uint8)
    return pixels
