"""How large a picture may be, judged by what its header says before anything is decoded.

A photo of 100 to 250 million pixels passes in every common format; a file of a few kilobytes that declares
more memory than a machine has does not.
"""

from __future__ import annotations

import io
import re
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING

from piaa_sdk.errors import ImageError
from piaa_sdk.images.formats import AVIF, BMP, HEIC, JPEG, TIFF, WEBP
from piaa_sdk.images.tags import (
    COMPRESSION,
    HEIGHT,
    ORIENTATION,
    ROWS_PER_STRIP,
    SAMPLES_PER_PIXEL,
    TILE_HEIGHT,
    TILE_WIDTH,
    WIDTH,
    read_directory,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from PIL import Image

MAX_FILE_BYTES = 1_000_000_000
"""Longest file that is read."""

MAX_PIXELS = 500_000_000
"""Most pixels a picture may declare, even where only a reduced copy is decoded."""

MAX_MEMORY = 1_000_000_000
"""Most memory that decoding one picture may need, bytes."""

_LARGE_MEMORY = 128_000_000
_MAX_RUN_LENGTH_PIXELS = 16_000_000
_MAX_SCANS = 100
_MAX_SAMPLES = 6

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)  # not stuffing, restart or fill bytes
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"

# Bytes per pixel that decoding and the resize take; what is not named needs a conversion at full size first.
_BYTES_PER_PIXEL = {
    "1": 2,
    "L": 1,
    "RGB": 4,
    "RGBX": 4,
    "CMYK": 4,
    "YCbCr": 4,
    "LAB": 4,
    "I;16": 8,
    "I;16B": 8,
    "I": 20,
    "F": 20,
}
_BYTES_AFTER_CONVERSION = 12
_BYTES_IN_DECODER = {WEBP: 12, AVIF: 10, HEIC: 10}

_one_large_picture = threading.RLock()


def check_pixels(width: int, height: int, source: str) -> None:
    """Refuse a picture that declares too many pixels.

    Raises:
        ImageError: More than ``MAX_PIXELS``.
    """
    if width * height > MAX_PIXELS:
        raise ImageError(
            source,
            f"too large: {width} x {height} pixels; at most {MAX_PIXELS // 1_000_000} million are read",
        )


def check_memory(needed: int, size: tuple[int, int], source: str) -> AbstractContextManager[object]:
    """Refuse a picture that takes too much memory, and keep large ones from adding up.

    Args:
        needed: Bytes that decoding will take.
        size: Declared width and height, for the message.
        source: What the picture was given as.

    Returns:
        A context to decode in: large pictures wait for each other, others pass.

    Raises:
        ImageError: More than ``MAX_MEMORY``.
    """
    if needed > MAX_MEMORY:
        raise ImageError(
            source,
            f"too large: decoding {size[0]} x {size[1]} pixels takes {needed / 1e9:.1f} GB of memory; "
            f"at most {MAX_MEMORY / 1e9:.0f} GB is given to one picture",
        )
    return _one_large_picture if needed > _LARGE_MEMORY else nullcontext()


def check_structure(data: bytes, format_name: str, source: str) -> None:
    """Refuse a TIFF or WebP that would fill the memory when it is only opened.

    Raises:
        ImageError: A WebP too large; TIFF tags that claim more than the file holds, or more samples per
            pixel than exist.
    """
    if format_name == WEBP:
        width, height = webp_size(data)
        check_memory(width * height * _BYTES_IN_DECODER[WEBP], (width, height), source)
    if format_name == TIFF:
        directory = read_directory(data)
        if directory.claimed_bytes > len(data):
            raise ImageError(
                source, f"damaged {TIFF} (tags of {directory.claimed_bytes} bytes in {len(data)})"
            )
        samples = directory.number(SAMPLES_PER_PIXEL, 1)
        if samples > _MAX_SAMPLES:
            raise ImageError(
                source, f"{TIFF} with {samples} samples per pixel; at most {_MAX_SAMPLES} are read"
            )
        width = max(directory.number(WIDTH, 0), directory.number(TILE_WIDTH, 0))
        height = max(directory.number(HEIGHT, 0), directory.number(TILE_HEIGHT, 0))
        check_pixels(width, height, source)


def memory_to_decode(image: Image.Image, declared: tuple[int, int], data: bytes, format_name: str) -> int:
    """Estimate the memory that decoding and resizing take.

    Args:
        image: Opened, not decoded, reduced decoding set up.
        declared: Full width and height.
        data: The file.
        format_name: Its format.

    Returns:
        Bytes.
    """
    needed = image.width * image.height * memory_per_pixel(image, format_name)
    if format_name == JPEG and _has_several_scans(image, data):
        needed += int(declared[0] * declared[1] * _coefficients_per_pixel(image) * 2)
    elif format_name == TIFF:
        needed += _memory_of_tiff(data)
    return needed


def memory_per_pixel(image: Image.Image, format_name: str) -> int:
    """Estimate the memory that decoding and resizing take for each pixel, bytes."""
    per_pixel = _BYTES_PER_PIXEL.get(image.mode, _BYTES_AFTER_CONVERSION)
    if "transparency" in image.info:
        per_pixel = _BYTES_AFTER_CONVERSION
    return per_pixel + _BYTES_IN_DECODER.get(format_name, 0)


def check_effort(image: Image.Image, data: bytes, format_name: str, source: str) -> None:
    """Refuse small files that would keep a processor busy for minutes.

    Args:
        image: Opened, not decoded.
        data: The file.
        format_name: Its format.
        source: What the picture was given as.

    Raises:
        ImageError: A JPEG of very many scans, or a large run-length BMP.
    """
    if format_name == JPEG and _has_several_scans(image, data):
        scans = _count_scans(data, end_of_header(image))
        if scans > _MAX_SCANS:
            raise ImageError(source, f"{JPEG} with {scans} scans; at most {_MAX_SCANS} are read")
    is_run_length = format_name == BMP and image.info.get("compression") in (1, 2)
    if is_run_length and image.width * image.height > _MAX_RUN_LENGTH_PIXELS:
        raise ImageError(
            source,
            f"too large: run-length {BMP} of {image.width} x {image.height} pixels; "
            f"at most {_MAX_RUN_LENGTH_PIXELS // 1_000_000} million are read",
        )


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that the first chunk of a WebP declares; 0 if it is another chunk or cut off."""
    kind, start = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return int.from_bytes(start[4:7], "little") + 1, int.from_bytes(start[7:10], "little") + 1
    if kind == b"VP8L":
        sides = int.from_bytes(start[1:5], "little")
        return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(start[6:8], "little") & 0x3FFF, int.from_bytes(start[8:10], "little") & 0x3FFF
    return 0, 0


def end_of_header(image: Image.Image) -> int:
    """Where Pillow has stopped reading a JPEG: behind the header of its first scan."""
    file = getattr(image, "fp", None)
    return file.tell() if isinstance(file, io.BytesIO) else 0


def _has_several_scans(image: Image.Image, data: bytes) -> bool:
    """Whether a JPEG is progressive or brings its colours one after the other."""
    if image.info.get("progressive"):
        return True
    colours = len(image.getbands())
    header_of_all_colours = bytes((0xFF, 0xDA, 0, 6 + 2 * colours, colours))
    start = end_of_header(image) - (8 + 2 * colours)
    return start < 0 or not data.startswith(header_of_all_colours, start)


def _coefficients_per_pixel(image: Image.Image) -> float:
    """How many coefficients libjpeg keeps until the last scan: all, fewer where colours are subsampled."""
    sampling = [height * width for _, height, width, _ in getattr(image, "layer", ())]
    return sum(sampling) / max(sampling) if sampling and max(sampling) else len(image.getbands())


def _count_scans(data: bytes, position: int) -> int:
    """Count the scans of a JPEG from behind the header of the first to its end, not into what follows it."""
    scans = 1
    while (marker := _MARKER.search(data, position)) and marker[0] != _END_OF_IMAGE:
        scans += marker[0] == _START_OF_SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        position = marker.end() + max(length, 2)
    return scans


def _memory_of_tiff(data: bytes) -> int:
    """Bytes for the strip or tile that is decompressed at a time, and for the upright copy Pillow makes."""
    directory = read_directory(data)
    width, height = directory.number(WIDTH, 0), directory.number(HEIGHT, 0)
    strip = width * min(height, directory.number(ROWS_PER_STRIP, height))
    tile = directory.number(TILE_WIDTH, 0) * directory.number(TILE_HEIGHT, 0)
    turned = width * height if directory.number(ORIENTATION, 1) != 1 else 0
    is_compressed = directory.number(COMPRESSION, 1) != 1
    return (tile or strip) * 8 * is_compressed + turned * 4
