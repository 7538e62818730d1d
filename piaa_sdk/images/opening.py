"""Bytes of a file -> one decoded picture, at full size or reduced, within the limits."""

from __future__ import annotations

import io
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from typing import TYPE_CHECKING

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from piaa_sdk.errors import ImageError, MissingDependencyError
from piaa_sdk.images.failures import LIBRARY_ERRORS, failures_as_image_errors
from piaa_sdk.images.formats import AVIF, BMP, GIF, HEIC, JPEG, PNG, TIFF, WEBP, supported_formats
from piaa_sdk.images.limits import (
    check_effort,
    check_memory,
    check_pixels,
    check_structure,
    memory_per_pixel,
    memory_to_decode,
)
from piaa_sdk.images.quiet import quiet_libtiff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG whose Exif block Pillow leaves alone: it would read all of it to find a resolution."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


# The readers are called directly, not through Image.open: the format is known, limits are our own and the
# registry and the size limit of the host program's Pillow stay as they are.
_READERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    JPEG: _JpegFile,
    PNG: PngImagePlugin.PngImageFile,
    WEBP: WebPImagePlugin.WebPImageFile,
    TIFF: TiffImagePlugin.TiffImageFile,
    GIF: GifImagePlugin.GifImageFile,
    BMP: BmpImagePlugin.BmpImageFile,
    AVIF: AvifImagePlugin.AvifImageFile,
}


@contextmanager
def decoded(
    data: bytes, format_name: str, smallest: int, source: str, *, previews: bool = False
) -> Iterator[Image.Image]:
    """Decode the first picture of a file, for use inside the block.

    Args:
        data: The file; anything but RAW.
        format_name: Its format.
        smallest: A JPEG is decoded reduced by 2, 4 or 8 as long as both sides keep this many pixels.
        source: What the picture was given as, printable.
        previews: Of a HEIC, take the smallest embedded preview of the whole frame that has as many pixels.

    Yields:
        The picture in whatever mode the file has, not yet upright; large ones one at a time per process.

    Raises:
        ImageError: Damaged, truncated, too large, or the library for its format is not installed.
    """
    reader = _reader(format_name, source)
    check_structure(data, format_name, source)
    with failures_as_image_errors(source, format_name):
        image = reader(io.BytesIO(data))
    declared = image.size
    check_pixels(*declared, source)
    check_effort(image, data, format_name, source)
    if format_name == JPEG:
        image.draft(None, (smallest, smallest))
    if format_name == HEIC and previews:
        _take_preview(image, data, smallest, source)
    needed = memory_to_decode(image, declared, data, format_name)
    with check_memory(needed, declared, source):
        quiet = quiet_libtiff() if format_name == TIFF else nullcontext()
        with quiet, failures_as_image_errors(source, format_name):
            image.load()
        yield image


def jpeg_header(data: bytes) -> Image.Image | None:
    """Open a JPEG without decoding it: size, not turned upright, mode and metadata; None if it is damaged."""
    try:
        return _JpegFile(io.BytesIO(data))
    except LIBRARY_ERRORS:
        return None


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the declared width and height of a JPEG, not turned upright; None if it is damaged."""
    header = jpeg_header(data)
    return None if header is None else header.size


def _take_preview(image: Image.Image, data: bytes, smallest: int, source: str) -> None:
    """Let a HEIC decode its preview instead of its photo, if it holds one that will do.

    The container itself says which preview belongs to which photo. pillow-heif from 1.8 on takes one with the
    photo's shape, turn, crop and colour profile; older versions cannot, and decode the photo.
    """
    longest = [side for side in image.info.get("thumbnails", ()) if isinstance(side, int)]
    side = min(max(longest, default=0), max(image.size))
    if side < smallest or not _is_whole(data):
        return
    needed = side * side * memory_per_pixel(image, HEIC)
    with (
        suppress(ImageError),
        check_memory(needed, (side, side), source),
        failures_as_image_errors(source, HEIC),
    ):
        image.draft(None, (smallest, smallest))


def _is_whole(data: bytes) -> bool:
    """Whether the boxes of a HEIC fill the file: one that was cut off is no picture, whatever its preview."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:  # the true size is a long number behind the name
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        elif size == 0:  # up to the end
            return True
        position += max(size, 8)
    return position == len(data)


@cache
def _formats() -> dict[str, bool]:
    return supported_formats()  # not for every picture: it looks through the file system


def _reader(format_name: str, source: str) -> Callable[[io.BytesIO], Image.Image]:
    if format_name == HEIC:
        try:
            from pillow_heif import HeifImageFile
        except ImportError as error:
            raise ImageError(source, str(MissingDependencyError("reading HEIC photos", "photos"))) from error
        reader: Callable[[io.BytesIO], Image.Image] = HeifImageFile
        return reader
    if not _formats()[format_name]:
        raise ImageError(source, f"this machine's Pillow was built without {format_name}")
    return _READERS[format_name]
