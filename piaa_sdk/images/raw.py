"""RAW photos: the preview that the camera itself has developed if it shows the whole frame, else LibRaw."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from piaa_sdk.errors import ImageError, MissingDependencyError
from piaa_sdk.images.failures import failures_as_image_errors, one_line
from piaa_sdk.images.formats import JPEG, RAW, recognize
from piaa_sdk.images.limits import check_memory, check_pixels
from piaa_sdk.images.opening import jpeg_size
from piaa_sdk.images.previews import ASPECT_TOLERANCE, Preview
from piaa_sdk.images.quiet import quiet_libraw

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import rawpy

_ORIENTATION_OF_FLIP = {3: 3, 5: 8, 6: 6}
_BYTES_PER_PIXEL = 5
"""Two for the sensor data; eight for LibRaw's colours and three for the result, for every fourth pixel."""


def find_preview(data: bytes, smallest: int, source: str) -> Preview | None:
    """Find the embedded preview of a RAW file.

    Args:
        data: The file.
        smallest: Both its sides must have this many pixels.
        source: What the photo was given as, printable.

    Returns:
        The preview; None if there is none, or none that is large enough and shows the whole frame.

    Raises:
        ImageError: Damaged, truncated, too large, an unknown camera, or the extra ``photos`` is missing.
    """
    with _opened(data, source) as raw:
        preview = _embedded_jpeg(raw)
        size = jpeg_size(preview) if preview else None
        if preview is None or size is None or min(size) < smallest:
            return None
        if not _is_one_shape(size, (raw.sizes.width, raw.sizes.height)):
            return None
        return Preview(preview, _ORIENTATION_OF_FLIP.get(raw.sizes.flip, 1))


def develop(data: bytes, source: str) -> Image.Image:
    """Develop a RAW file with LibRaw at half its size, with the camera's white balance.

    Args:
        data: The file.
        source: What the photo was given as, printable.

    Returns:
        An upright sRGB picture, mode RGB or L.

    Raises:
        ImageError: Damaged, truncated, too large, an unknown camera, or the extra ``photos`` is missing.
    """
    with _opened(data, source) as raw:
        size = (raw.sizes.raw_width, raw.sizes.raw_height)
        with check_memory(size[0] * size[1] * _BYTES_PER_PIXEL, size, source):
            with quiet_libraw():
                raw.unpack()
            pixels: npt.NDArray[Any] = raw.postprocess(half_size=True, use_camera_wb=True, output_bps=8)
            return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)


@contextmanager
def _opened(data: bytes, source: str) -> Iterator[rawpy.RawPy]:
    """Open a RAW file for the block; whatever LibRaw raises inside becomes an ImageError."""
    try:
        import rawpy
    except ImportError as error:
        raise ImageError(source, str(MissingDependencyError("reading RAW photos", "photos"))) from error
    try:
        with failures_as_image_errors(source, RAW), rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(data))
            check_pixels(raw.sizes.raw_width, raw.sizes.raw_height, source)
            yield raw
    except (rawpy.LibRawError, rawpy.NotSupportedError) as error:
        reason = f"damaged {RAW}, or of an unknown camera ({one_line(error)})"
        raise ImageError(source, reason) from error.with_traceback(None)


def _embedded_jpeg(raw: rawpy.RawPy) -> bytes | None:
    import rawpy

    try:
        with quiet_libraw():
            thumbnail = raw.extract_thumb()
    except (rawpy.LibRawError, rawpy.NotSupportedError):
        return None
    data = thumbnail.data
    return data if isinstance(data, bytes) and recognize(data) == JPEG else None


def _is_one_shape(preview: tuple[int, int], frame: tuple[int, int]) -> bool:
    """Whether two sizes have one shape, whichever way up the preview is stored."""
    ratio = max(preview) / min(preview) * min(frame) / max(max(frame), 1)
    return abs(ratio - 1) <= ASPECT_TOLERANCE
