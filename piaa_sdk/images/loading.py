"""Any input -> the pixels that the backbone reads: one code path for training and serving.

What is done here to the pixels defines every embedding in every cache. A change that turns the same bytes
into other pixels must raise ``DECODING_RULE`` in ``bundle.py``; a test with frozen figures notices one.
"""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, TiffImagePlugin

from piaa_sdk.errors import ImageError
from piaa_sdk.images.failures import failures_as_image_errors
from piaa_sdk.images.formats import JPEG, RAW, UNKNOWN_FORMAT, recognize
from piaa_sdk.images.limits import check_memory, check_pixels, memory_to_decode
from piaa_sdk.images.names import display_name, printable
from piaa_sdk.images.opening import decoded
from piaa_sdk.images.pixels import square_pixels
from piaa_sdk.images.previews import find_jpeg_preview
from piaa_sdk.images.quiet import quiet_libtiff, quiet_warnings
from piaa_sdk.images.raw import develop, find_preview
from piaa_sdk.images.sources import read_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from piaa_sdk.array_types import ImageInput, PixelArray
    from piaa_sdk.bundle import Preprocessing

_ARRAY_SHAPES = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


def decode(data: bytes, preprocessing: Preprocessing, source: str, *, previews: bool = False) -> PixelArray:
    """Turn the bytes of a picture file into pixels; the bytes alone decide, not the name.

    Args:
        data: A whole file: JPEG, PNG, WebP, TIFF, GIF (first frame), BMP, AVIF; HEIC and RAW with the extra
            ``photos``. At least one pixel.
        preprocessing: The bundle's.
        source: What the picture was given as, for messages.
        previews: Decode the embedded preview of a JPEG or HEIC in the place of the photo where
            :mod:`piaa_sdk.images.previews` allows it, and the photo where that preview is damaged. Other
            pixels than without, so never to be mixed with them. RAW photos are decoded by their previews
            either way.

    Returns:
        (size, size, 3) uint8, RGB, sRGB, upright, transparent parts laid on the background.

    Raises:
        ImageError: Not a picture, damaged, truncated, too large, or the extra ``photos`` is missing.
    """
    source = printable(source)
    if not data:
        raise ImageError(source, "the file is empty")
    format_name = recognize(data)
    if format_name is None:
        raise ImageError(source, UNKNOWN_FORMAT)
    with quiet_warnings():
        if format_name == RAW:
            return _decode_raw(data, preprocessing, source)
        if previews and format_name == JPEG:
            preview = find_jpeg_preview(data, preprocessing.size * preprocessing.draft_factor)
            if preview is not None:
                with suppress(ImageError):
                    return _decode_file(preview.data, JPEG, preprocessing, source, preview.orientation)
        return _decode_file(data, format_name, preprocessing, source, previews=previews)


def load_image(image: ImageInput, preprocessing: Preprocessing, source: str | None = None) -> PixelArray:
    """Turn anything a picture can be given as into pixels.

    Args:
        image: A path; the bytes of a file; a Pillow image, which is not modified beyond being loaded; or an
            array, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16, or float in [0, 1]; RGB order.
        preprocessing: The bundle's.
        source: What to call it in messages; by default its path, or ``image``.

    Returns:
        (size, size, 3) uint8, RGB, sRGB, upright, transparent parts laid on the background.

    Raises:
        ImageError: It cannot be read, or is nothing of the kind.
    """
    is_path = isinstance(image, (str, os.PathLike))
    source = printable(source if source is not None else display_name(image, 0) if is_path else "image")
    if isinstance(image, (str, os.PathLike)):
        return decode(read_bytes(image), preprocessing, source)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode(bytes(image), preprocessing, source)
    if isinstance(image, Image.Image):
        return _from_pillow(image, preprocessing, source)
    if isinstance(image, np.ndarray):
        return _from_array(image, preprocessing, source)
    raise ImageError(
        source, f"expected a path, bytes, a Pillow image or a NumPy array, not {type(image).__name__}"
    )


def _decode_file(
    data: bytes,
    format_name: str,
    preprocessing: Preprocessing,
    source: str,
    orientation: int | None = None,
    *,
    previews: bool = False,
) -> PixelArray:
    smallest = preprocessing.size * preprocessing.draft_factor
    with (
        decoded(data, format_name, smallest, source, previews=previews) as image,
        failures_as_image_errors(source, format_name),
    ):
        return square_pixels(image, preprocessing, source, orientation)


def _decode_raw(data: bytes, preprocessing: Preprocessing, source: str) -> PixelArray:
    """Take the preview that the camera has made; develop the photo if there is none, or a damaged one."""
    preview = find_preview(data, preprocessing.size * preprocessing.draft_factor, source)
    if preview is not None:
        with suppress(ImageError):
            return _decode_file(preview.data, JPEG, preprocessing, source, preview.orientation)
    return square_pixels(develop(data, source), preprocessing, source)


def _from_pillow(image: Image.Image, preprocessing: Preprocessing, source: str) -> PixelArray:
    check_pixels(*image.size, source)
    needed = memory_to_decode(image, image.size, b"", "")
    quiet = quiet_libtiff() if isinstance(image, TiffImagePlugin.TiffImageFile) else nullcontext()
    with (
        quiet_warnings(),
        quiet,
        check_memory(needed, image.size, source),
        failures_as_image_errors(source, "Pillow image"),
    ):
        image.load()
        return square_pixels(image, preprocessing, source)


def _from_array(values: npt.NDArray[Any], preprocessing: Preprocessing, source: str) -> PixelArray:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or not values.size:
        raise ImageError(source, f"expected an array of shape {_ARRAY_SHAPES}, not {values.shape}")
    check_pixels(values.shape[1], values.shape[0], source)
    if values.dtype == np.uint16:
        values = values >> 8
    elif values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):  # the negation refuses NaN, too
            raise ImageError(
                source, f"expected fractions from 0 to 1, not from {values.min():g} to {values.max():g}"
            )
        values = np.rint(values * np.float32(255))
    elif values.dtype != np.uint8:
        raise ImageError(
            source, f"expected an array of uint8, uint16 or fractions from 0 to 1, not {values.dtype}"
        )
    return square_pixels(Image.fromarray(values.astype(np.uint8)), preprocessing, source)
