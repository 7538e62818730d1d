"""Which pictures can be read, told by their first bytes: the name of a file plays no part in it."""

from __future__ import annotations

from importlib.util import find_spec

from PIL import features

from piaa_sdk.images.tags import read_directory

JPEG, PNG, WEBP, TIFF, GIF, BMP, AVIF = "JPEG", "PNG", "WebP", "TIFF", "GIF", "BMP", "AVIF"
HEIC, RAW = "HEIC", "RAW"

# fmt: off
PHOTO_SUFFIXES = frozenset((
    ".heic", ".heics", ".heif", ".heifs", ".hif", ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr",
    ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef",
    ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
))
"""Suffixes of HEIC and RAW files, which need the extra ``photos``; lower case."""

IMAGE_SUFFIXES = PHOTO_SUFFIXES | frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".gif",
    ".bmp", ".dib", ".avif", ".avifs",
))
"""Suffixes of the files that are taken for pictures in a folder; lower case."""
# fmt: on

UNKNOWN_FORMAT = "not a picture in a known format (JPEG, PNG, WebP, TIFF, GIF, BMP, AVIF, HEIC, RAW)"

HEADER_BYTES = 64 << 10
"""How much of a file tells whether it is a picture at all; TIFF and RAW may need more to be told apart."""

_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIC_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
_RAW_STARTS = (
    b"FUJIFILMCCD-RAW",
    b"FOVb",
    b"\0MRM",
    b"IIRO",
    b"IIRS",
    b"MMOR",
    b"IIU\0",
    b"II\x1a\0\0\0HEAPCCDR",
)
_RAW_MARKS_IN_TIFF = (b"CR", b"IIII", b"MMMM")  # at byte 8: Canon, Phase One


def supported_formats() -> dict[str, bool]:
    """Tell which formats this installation reads; HEIC and RAW need the extra ``photos``."""
    return {
        JPEG: bool(features.check("jpg")),
        PNG: bool(features.check("zlib")),
        WEBP: bool(features.check("webp")),
        TIFF: bool(features.check("libtiff")),
        GIF: True,
        BMP: True,
        AVIF: bool(features.check("avif")),
        HEIC: find_spec("pillow_heif") is not None,
        RAW: find_spec("rawpy") is not None,
    }


def recognize(data: bytes) -> str | None:
    """Tell the format of a picture from its content.

    Args:
        data: The whole file; its first ``HEADER_BYTES`` may take a RAW file for TIFF.

    Returns:
        A key of :func:`supported_formats`; None if it looks like no picture.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WEBP
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return BMP
    if data[4:8] == b"ftyp":
        return _recognize_boxes(data)
    if data.startswith(_RAW_STARTS):
        return RAW
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return RAW if data[8:12].startswith(_RAW_MARKS_IN_TIFF) or read_directory(data).is_raw else TIFF
    return None


def _recognize_boxes(data: bytes) -> str | None:
    """Tell apart the formats that share the ISO base media container by the brands they name."""
    end = min(int.from_bytes(data[:4], "big"), 512, len(data))
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    if b"crx " in brands:
        return RAW
    if brands & _AVIF_BRANDS:
        return AVIF
    return HEIC if brands & _HEIC_BRANDS else None
